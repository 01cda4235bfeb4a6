"""Notebooks of a few cells, and what a chapter asks for."""

import ast
import json
from pathlib import Path


def code(source, *tags):
    return {
        "cell_type": "code",
        "id": f"c{abs(hash((source, tags))) % 10**10}",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }


def notebook(*cells):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps({"cells": list(cells), "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})


def needs(file: Path) -> tuple[str, ...]:
    """The `needs` of a chapter's one call of `chapters.inputs`."""
    cells = json.loads(file.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (source,) = [source for source in sources if "chapters.inputs(" in source]
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "chapters.inputs"]
    return tuple(ast.literal_eval(next(word.value for word in call.keywords if word.arg == "needs")))
