"""Every chapter at smoke scale, one after another, and the pages made from them."""

import json
import re
from pathlib import Path

import pytest

from stylemed.book.execution import chapter_names
from stylemed.book.publishing import html
from stylemed.book.regression import compare_build, read_baseline

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NAMES = chapter_names(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_chapter_ran(sequence, name):
    import nbformat

    file = sequence / "executed" / f"{name}.ipynb"
    assert "papermill" not in file.read_text().replace("application/papermill.record", "")
    published = nbformat.read(file, as_version=4)
    for cell in published.cells:
        assert "injected-parameters" not in cell.metadata.get("tags", [])
        assert not {"papermill", "execution"} & cell.metadata.keys()
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
    assert 'profile = "smoke"' in next(cell.source for cell in published.cells if cell.cell_type == "code")
    metrics = json.loads((sequence / "metrics" / f"{name}.json").read_text())
    assert metrics, f"{name} records no number for the regression run"
    run = json.loads((sequence / "runs" / f"{name}.json").read_text())
    assert run["minutes"] >= 0 and run["peak_memory_mb"] > 50 and run["threads"] == 1


def test_numbers_agree_with_the_baseline(sequence):
    differences, how = compare_build(sequence, read_baseline("smoke", ROOT))
    advice = "where the change is meant: make accept PROFILE=smoke"
    assert not differences, "\n".join([f"compared {how}", *map(str, differences), advice])


def test_chapters_go_on_with_what_was_made_and_ask_for_all_they_use(sequence):
    assert not list((sequence / "artifacts").glob("small-*"))
    assert not list((sequence.parent / "elsewhere").iterdir())


def test_the_book_builds_without_a_warning(sequence):
    page = html("smoke", ROOT, build=sequence)
    pages = {file.stem: file.read_text() for file in (page.parent / "book").glob("*.html")}
    assert {*NAMES, "intro", "glossary", "references", "api", "status", "play"} <= pages.keys()
    played = {file.name for file in (page.parent / "_static" / "play").iterdir()}
    assert {"model.js", "slices.js", "generator.js"} <= played
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"(https?://[^\"]+)\"[^>]*>", text)
        # Links that a browser does not fetch on its own are fine.
        fetched = [url for url in loaded if "colab-badge" not in url and "opengraph" not in url]
        assert fetched == [], f"{name} asks another server for {fetched}"
    for name in NAMES:
        assert f"{name}.ipynb" in pages[name] and "colab.research.google.com" in pages[name]
        assert "google.colab" not in re.sub(r"href=\"[^\"]*\"", "", pages[name]), f"{name} shows its Colab cell"
        shown = re.sub(r"<[^>]+>", "", pages[name])
        numbers = json.loads((sequence / "metrics" / f"{name}.json").read_text())
        for glued, form in re.findall(r"{glue:text}`(\w+):([^`]+)`", (ROOT / "book" / f"{name}.ipynb").read_text()):
            if numbers.get(glued) is not None:
                assert format(numbers[glued], form) in shown, f"{name} does not show {glued}"
    status = pages["status"]
    assert all(name in status for name in NAMES) and "peak memory" in status
