"""Every chapter at smoke scale, one after another, and the pages made from them."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from stylemed.book.execution import chapter_names, read_profile, run_chapter
from stylemed.book.publishing import html
from stylemed.book.regression import compare_build, read_baseline, read_metrics

ROOT = Path(__file__).resolve().parents[2]
NAMES = chapter_names(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_chapter_ran(sequence, name):
    published = nbformat.read(sequence / "executed" / f"{name}.ipynb", as_version=4)
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


def test_later_chapters_go_on_with_what_was_made(sequence):
    assert not list((sequence / "artifacts").glob("small-*"))


def test_numbers_repeat(sequence, tmp_path):
    """The cheapest chapter once more, elsewhere: the same numbers to the last digit."""
    name = next(name for name in NAMES if name.startswith("02"))
    run_chapter(name, read_profile("smoke", ROOT), tmp_path / "again", root=ROOT, quiet=True)
    assert read_metrics(tmp_path / "again")[name] == read_metrics(sequence)[name]


def test_the_book_builds_without_a_warning(sequence):
    page = html("smoke", ROOT, build=sequence)
    pages = {file.stem: file.read_text() for file in (page.parent / "book").glob("*.html")}
    assert {*NAMES, "intro", "glossary", "references", "api", "status"} <= pages.keys()
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"(https?://[^\"]+)\"[^>]*>", text)
        # Links that a browser does not fetch on its own are fine.
        fetched = [url for url in loaded if "colab-badge" not in url and "opengraph" not in url]
        assert fetched == [], f"{name} asks another server for {fetched}"
    for name in NAMES:
        assert f"{name}.ipynb" in pages[name] and "colab.research.google.com" in pages[name]
        assert "google.colab" not in re.sub(r"href=\"[^\"]*\"", "", pages[name]), f"{name} shows its Colab cell"
    status = pages["status"]
    assert all(name in status for name in NAMES) and "peak memory" in status
