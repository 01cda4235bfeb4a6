"""What a chapter asks for is there when it is opened first, in an empty folder, as a reader does in Colab.

That a chapter uses no more than it asks for shows in `sequence`.
"""

from pathlib import Path

import pytest
from notebooks import needs

from stylemed import chapters
from stylemed.training import encoder, gan

ROOT = Path(__file__).resolve().parents[2]
ASKED = sorted({needs(file) for file in (ROOT / "book").glob("[0-9][0-9]_*.ipynb")}, key=len)


def shorter(train):
    """The same training, for a tenth of the images."""
    return lambda *given, kimg, **named: train(*given, kimg=kimg / 10, **named)


@pytest.mark.slow
def test_what_chapters_need_is_made_on_the_spot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chapters, "_current", None)
    for module, name in ((gan, "train_gan"), (encoder, "train_encoder")):
        monkeypatch.setattr(module, name, shorter(getattr(module, name)))
    assert ASKED[0] == () and len(ASKED[-1]) == 3
    for asked in ASKED:
        got = chapters.inputs("smoke", needs=asked)
        assert {need for need in chapters.INPUTS if getattr(got, need) is not None} == set(asked)
        assert got.small == bool(asked) and got.folder.is_relative_to(tmp_path / "_build" / "smoke")
    assert got.generator.resolution == got.store.resolution and got.encoder.num_layers == got.generator.num_layers
    # What a chapter trains here stays apart from the stand-ins of those after it.
    assert chapters.inputs("smoke", needs=["store"]).gan_path.parent.name == "tried"
    assert [folder.name for folder in (tmp_path / "_build" / "smoke" / "artifacts").iterdir()] == ["small-32"]
