"""The chapters at smoke scale: once in sequence for the whole session, and a tiny book for the machinery."""

import json
import shutil
from pathlib import Path

import pytest

from stylemed import chapters
from stylemed.execution import chapter_names, read_profile, run_chapter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def sequence(tmp_path_factory):
    """Build folder after every chapter ran once, in order, in the profile smoke."""
    build = tmp_path_factory.mktemp("sequence") / "smoke"
    profile = read_profile("smoke", ROOT)
    for name in chapter_names(ROOT):
        run_chapter(name, profile, build, root=ROOT, quiet=True)
    return build


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


TITLE = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# One\n\nIt is {glue:text}`answer:.2f`."}


@pytest.fixture
def tiny_book(tmp_path):
    """A book of one quick chapter, with everything the machinery looks for."""
    root = tmp_path / "book-root"
    (root / "book" / "profiles").mkdir(parents=True)
    for folder in ("_static", "_extra"):
        shutil.copytree(ROOT / "book" / folder, root / "book" / folder)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/01_one\nchapters:\n- file: book/status\n")
    (root / "book" / "status.md").write_text("# Status\n")
    (root / "book" / "references.bib").write_text("")
    (root / "book" / "profiles" / "smoke.yaml").write_text(
        "name: smoke\ndescription: tiny.\nhours: none\nthreads: 1\nchapters:\n  01_one: {size: 3}\n"
    )
    (root / "book" / "01_one.ipynb").write_text(
        notebook(
            TITLE,
            code('profile = "cpu"  # type: str\nseed = 0  # type: int\nsize = 2  # type: int', "parameters"),
            code("from stylemed import chapters\n\ninputs = chapters.inputs(profile, needs=[])"),
            code('print(size)\nchapters.record("01_one", answer=size + seed / 10, fixed=7)'),
        )
    )
    chapters._current = None
    return root
