"""The intro's picture shows the slices and the networks of the chapters, and is drawn by one command."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from stylemed import pretrained
from stylemed.cli import app
from stylemed.data import SliceStore, prepare
from stylemed.display.landing import FRAMES, STOPS, round_trips, with_tumors
from stylemed.display.path import TITLES, path_figure
from stylemed.errors import BadInput
from stylemed.latent import mix
from stylemed.latent.mixing import synthesize
from stylemed.networks import Encoder, Generator
from stylemed.networks.untrained import random_generator
from stylemed.training.run import export, load_encoder, load_generator

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(phantom, tmp_path_factory):
    """A build folder as chapters leave it, with networks that have learned nothing."""
    folder = tmp_path_factory.mktemp("build")
    prepare(phantom, folder / "artifacts" / "store", 32, workers=1, progress=False)
    torch.manual_seed(0)
    generator = Generator(resolution=32, latent_size=16, mapping_layers=2, fmap_base=128, fmap_max=16)
    encoder = Encoder(32, 1, 16, generator.num_layers)
    for name, network in (("gan/generator", generator), ("encoder/encoder", encoder)):
        (folder / "artifacts" / name).parent.mkdir()
        export(folder / "artifacts" / f"{name}.safetensors", network, {})
    return folder, load_generator(folder / "artifacts" / "gan")[0], load_encoder(folder / "artifacts" / "encoder")[0]


def test_every_chapter_has_its_picture(made, root):
    folder, generator, encoder = made
    store = SliceStore.open(folder / "artifacts" / "store")
    figure = path_figure(store, generator, encoder)
    size = Image.open(io.BytesIO(figure.png())).size
    assert size == Image.open(root / "book" / "_static" / "path.png").size
    assert [ax.texts[1].get_text() for ax in figure.axes] == list(TITLES)
    shown = [[np.asarray(image.get_array()) for image in ax.images] for ax in figure.axes]
    assert [len(images) for images in shown] == [3, 0, 4, 2, 3, 0]
    test = store.select(split="test")
    real = torch.as_tensor(store.images(test[[len(test) // 5, len(test) // 2]]))
    with torch.no_grad():
        a, b = encoder(real)
    wanted = synthesize(generator, torch.stack([a, b, mix(a, b, "fine")]))[:, 0].numpy()
    np.testing.assert_array_equal(shown[3], [real[0, 0].numpy(), wanted[0]])
    np.testing.assert_array_equal(shown[4], wanted)


def test_the_command_draws_it_from_a_build(made, tmp_path, monkeypatch):
    monkeypatch.setenv("STYLEMED_BUILD", str(made[0]))
    answer = CliRunner().invoke(app, ["book", "picture", "--profile", "smoke", "--out", str(tmp_path / "a.png")])
    assert answer.exit_code == 0 and Image.open(tmp_path / "a.png").size == (1200, 1032)
    monkeypatch.setenv("STYLEMED_BUILD", str(tmp_path))
    answer = CliRunner().invoke(app, ["book", "picture", "--profile", "smoke", "--out", str(tmp_path / "b.png")])
    assert isinstance(answer.exception, BadInput) and "generator" in str(answer.exception)
    assert not (tmp_path / "b.png").exists()


def test_it_refuses_networks_of_other_slices(made):
    folder, generator, encoder = made
    stranger = SimpleNamespace(provenance=replace(encoder.provenance, resolution=64))
    with pytest.raises(BadInput, match="the encoder and the generator do not belong together: the resolution is 64"):
        path_figure(SliceStore.open(folder / "artifacts" / "store"), generator, stranger)


def test_what_moves_comes_back_and_the_intro_shows_it(root, tmp_path):
    generator = random_generator(0)
    export(tmp_path / "generator.safetensors", generator, {})
    answer = CliRunner().invoke(app, ["book", "picture", "--moving", str(tmp_path), "--out", str(tmp_path)])
    assert answer.exit_code == 0, answer.output
    trips = round_trips(generator)
    for name, images in trips.items():
        film = Image.open(tmp_path / f"{name}.webp")
        assert film.n_frames == STOPS * FRAMES and film.info["loop"] == 0 and film.size == (64, 64)
        film.seek(FRAMES)
        assert np.array_equal(np.asarray(film.convert("L")), np.asarray(Image.open(tmp_path / f"{name}.png")))
        steps = (images - images.roll(1, 0)).abs().mean(dim=(1, 2, 3))
        assert steps[0] < 0.5 * steps.max()  # it is slow where a slice is, also from the last frame to the first
        shown = root / "book" / "_static" / "walk"
        assert (shown / f"{name}.webp").stat().st_size + (shown / f"{name}.png").stat().st_size < 250_000
        assert f"walk/{name}.webp" in (root / "book" / "intro.md").read_text()
    assert torch.equal(trips["all"][0], trips["fine"][0]) and not torch.equal(
        trips["all"][FRAMES], trips["fine"][FRAMES]
    )


def test_slices_of_the_intro_have_tumors_where_they_had_none(root):
    model = pretrained.load("phantom-64")
    before, after = with_tumors(model.generator, model.labeller, per_unit=200.0, count=2)
    seen = [model.judge.findings(images).table["tumor"].tolist() for images in (before, after)]
    assert seen == [[0, 0], [1, 1]] and np.abs(after - before).mean() < 0.02
    assert "_static/guided.png" in (root / "book" / "intro.md").read_text()
