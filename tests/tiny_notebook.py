"""Notebooks of a few cells."""

import json


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
