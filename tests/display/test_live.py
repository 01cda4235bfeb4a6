"""A training shown while it runs: one output, renewed in place, with the pixels of the sample grid."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stylemed.display import figures
from stylemed.display.live import LiveTraining
from stylemed.display.pixels import read_strip, sample_grid, sample_history, strip
from stylemed.training.run import Run

torch.set_num_threads(1)


def log(rows):
    x = np.arange(1, rows + 1)
    columns = ("loss_d", "loss_g", "real_score", "fake_score", "r1", "r_t", "p")
    return pd.DataFrame({"kimg": x / 10} | {name: x / 100 for name in columns})


@pytest.fixture
def run(tmp_path):
    """A run folder with one sample grid and one line of log, and what the next snapshot adds."""
    made = Run(tmp_path / "gan")
    made.begin({"resolution": 16})

    def snapshot(rows):
        images = torch.linspace(-1, 1, 16 * 16).reshape(1, 1, 16, 16) * torch.ones(32, 1, 1, 1)
        made.save_grid(images * rows / 10, 100 * rows)
        log(rows).to_csv(made.path / "log.csv", index=False)

    made.snapshot = snapshot
    snapshot(1)
    return made


def test_outside_a_notebook_it_only_measures(run, capsys):
    seen = []
    LiveTraining(measure=lambda *given: seen.append(given))(run, 7)
    assert seen == [(run, 7)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_an_executed_notebook_holds_one_output_and_the_last(run, python_env, monkeypatch, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    first = (
        "import warnings\nfrom pathlib import Path\nimport numpy as np\nimport pandas as pd, torch\n"
        "from stylemed.display.live import LiveTraining\nfrom stylemed.training.run import Run\n"
        f"run, show = Run({str(run.path)!r}), LiveTraining()\nshow(run, None)"
    )
    again = (
        "show(run, None)\n"
        "frame = pd.read_csv(run.path / 'log.csv')\n"
        "pd.concat([frame, frame.assign(kimg=0.2), frame.assign(kimg=0.3)]).to_csv(run.path / 'log.csv', index=False)\n"
        "(run.path / 'distances.csv').write_text('kimg,frechet,recall,precision,recall_train\\n8,50.0,0,.3,.4\\n')\n"
        "run.save_grid(torch.full((32, 1, 16, 16), 0.5), 300)\n"
        "show(run, None)\n"
        "(run.path / 'config.yaml').unlink()\n"
        "with warnings.catch_warnings(record=True) as caught:\n    warnings.simplefilter('always')\n    show(run, None)\n"
        "print('cannot be shown' in str(caught[0].message), len(caught))"
    )
    for name, value in (python_env | {"IPYTHONDIR": str(tmp_path / "ipython")}).items():
        monkeypatch.setenv(name, value)
    cells = [nbformat.v4.new_code_cell(first), nbformat.v4.new_code_cell(again)]
    notebook = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=120, kernel_name="python3").execute()
    (before,) = notebook.cells[0].outputs
    assert before["data"]["text/plain"] == "0.1 thousand images seen" and before["data"]["text/html"].count("<img") == 1
    shown = [output for output in notebook.cells[1].outputs if output.output_type == "display_data"]
    (after,) = shown
    html = after["data"]["text/html"]
    assert after["data"]["text/plain"] == "0.3 thousand images seen" and html.count("<img") == 2
    assert "settled on one anatomy" in html
    assert all(len(alt) > 20 for alt in re.findall(r'alt="([^"]*)"', html))
    grid = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1]))))
    assert grid.shape == (512, 1024) and set(np.unique(grid)) == {191}
    assert notebook.cells[1].outputs[-1]["text"] == "True 1\n"


def test_samples_are_whole_pixels(run, tmp_path):
    kept = np.asarray(Image.open(run.samples()[0]))
    shown = np.asarray(Image.open(io.BytesIO(sample_grid(run.samples()[0], 16, width=400))))
    assert shown.shape == (4 * 16 * 3, 8 * 16 * 3) and (shown[1::3, 1::3] == kept).all()
    large = Image.fromarray(np.tile(np.arange(512, dtype=np.uint8), (2048, 8)))
    large.save(tmp_path / "large.png")
    assert Image.open(io.BytesIO(sample_grid(tmp_path / "large.png", 512))).size == (1024, 512)


def test_the_history_is_the_same_images_at_every_time(run):
    for rows in (4, 7, 10):
        run.snapshot(rows)
    history = sample_history(run, rows=3, columns=5)
    assert list(history) == ["0.1 kimg", "0.7 kimg", "1.0 kimg"]  # the first, the last, and one about the middle
    ramp = np.linspace(-1, 1, 16 * 16).reshape(16, 16)
    for scale, images in zip((0.1, 0.7, 1.0), history.values(), strict=True):
        assert images.shape == (5, 1, 16, 16)
        np.testing.assert_allclose(images, np.broadcast_to(ramp * scale, images.shape), atol=1 / 255)


def test_a_strip_holds_the_history_of_all_parts_of_a_training(run, tmp_path):
    """And reading it gives the very same images under the same names."""
    for rows in (4, 7, 10):
        run.snapshot(rows)
    history = sample_history(run, rows=40, columns=4, before=[run])
    assert list(history) == [f"{n} kimg" for n in (0.1, 0.4, 0.7, 1.0, 1.1, 1.4, 1.7, 2.0)]
    (tmp_path / "strip.png").write_bytes(strip(history))
    again = read_strip(tmp_path / "strip.png")
    assert list(again) == list(history)
    for name, images in history.items():
        np.testing.assert_array_equal(again[name], images)
    assert list(read_strip(tmp_path / "strip.png", rows=3)) == ["0.1 kimg", "1.1 kimg", "2.0 kimg"]


@pytest.mark.parametrize("columns", [1, 2])
def test_curves_show_what_there_is(columns):
    distances = pd.DataFrame({"kimg": [0.1, 0.3], "frechet": [50.0, 20.0]})
    figure = figures.training_curves(log(40), distances, columns=columns)
    names = [text.get_text() for ax in figure.axes for text in ax.get_legend().get_texts()]
    assert len(figure.axes) == 5 and names[-1] == "Fréchet distance" and any(name.startswith("p,") for name in names)
    more = distances.assign(frechet_floor=9.0, recall=0.1, recall_train=0.4, liver_dice=np.nan, liver_dice_train=0.5)
    figure = figures.training_curves(log(40), more, columns=columns)
    names = [text.get_text() for ax in figure.axes for text in ax.get_legend().get_texts()]
    assert len(figure.axes) == 6 and names[-2:] == ["recall", "among patients"]
    plain = figures.training_curves(log(40).assign(p=0.0))
    names = [text.get_text() for ax in plain.axes for text in ax.get_legend().get_texts()]
    assert len(plain.axes) == 4 and not any(name.startswith("p,") for name in names)
    assert figure._repr_png_()[:4] == b"\x89PNG" and plt.get_fignums() == []
