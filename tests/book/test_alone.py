"""What a chapter asks for is there when it is opened first, in an empty folder, as a reader does in Colab.

`sequence` opens one chapter so. Here is what the others ask for: they differ in nothing else (they run outside of the checkout).
"""

import ast
import json
from pathlib import Path

import pytest

from stylemed import chapters
from stylemed.book.execution import chapter_names

ROOT = Path(__file__).resolve().parents[2]


def needs(name):
    """The `needs` of the chapter's call of `chapters.inputs`."""
    cells = json.loads((ROOT / "book" / f"{name}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    calls = [
        node for text in code if "%" not in text for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)
    ]
    (call,) = [call for call in calls if ast.unparse(call.func) == "chapters.inputs"]
    return tuple(ast.literal_eval(next(word.value for word in call.keywords if word.arg == "needs")))


ASKED = sorted({needs(name) for name in chapter_names(ROOT)}, key=len)


@pytest.mark.slow
def test_what_chapters_need_is_made_on_the_spot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chapters, "_current", None)
    assert ASKED[0] == () and len(ASKED[-1]) == 3
    for asked in ASKED:
        got = chapters.inputs("smoke", needs=asked)
        assert {need for need in chapters.INPUTS if getattr(got, need) is not None} == set(asked)
        assert got.small == bool(asked) and got.folder.is_relative_to(tmp_path / "_build" / "smoke")
    # What a chapter trains here stays apart from the stand-ins of those after it.
    assert chapters.inputs("smoke", needs=["store"]).gan_path.parent.name == "tried"
    assert got.encoder.num_layers == got.generator.num_layers and got.generator.resolution == got.store.resolution
    made = {folder.name for folder in (tmp_path / "_build" / "smoke" / "artifacts").iterdir()}
    assert made == {"small-32"}
