"""Chapters go on with a released model where there is one that has learned from nobody they measure it on."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from stylemed import chapters, pretrained
from stylemed.data import SliceDataset, SliceStore, prepare
from stylemed.errors import BadInput
from stylemed.files import digest_of_weights
from stylemed.networks import Discriminator, Encoder, Generator
from stylemed.pretrained.bundles import release
from stylemed.provenance import Provenance
from stylemed.training.run import export

SMALL = dict(fmap_base=128, fmap_max=16)


@pytest.fixture(scope="module")
def store(phantom, tmp_path_factory):
    """Patients 1 to 4 are train, 5 and 6 test."""
    folder = tmp_path_factory.mktemp("store")
    prepare(phantom, folder, 32, frame="body", workers=1, progress=False)
    return SliceStore.open(folder)


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory):
    """Makes a bundle phantom-32 whose networks have learned from what a provenance says."""

    def make(learned: dict):
        root = tmp_path_factory.mktemp("made")
        torch.manual_seed(0)
        generator = Generator(32, latent_size=16, mapping_layers=2, **SMALL)
        told = {"nimg": 5000, "provenance": learned | {"kind": "generator"}}
        export(root / "generator.safetensors", generator, told)
        export(root / "discriminator.safetensors", Discriminator(32, **SMALL), {})
        encoder = Encoder(32, latent_size=16, num_layers=8, trunk="resnet18")
        made_from = {"made_from": {"generator": digest_of_weights(generator.state_dict())}}
        told = {"nimg": 7000, "provenance": learned | {"kind": "encoder"} | made_from}
        export(root / "encoder.safetensors", encoder, told)
        about = dict(data="patients of a made-up phantom", licence="CC0")
        return release(root / "phantom-32", {"generator": root, "encoder": root}, **about)

    return make


@pytest.fixture(scope="module")
def bundle(store, bundle_of):
    """Of another store with the train patients of `store`, whose files are others."""
    learned = SliceDataset(store).metadata["provenance"]
    return bundle_of(learned | {"store": "another", "patients": dict.fromkeys(learned["patients"], [])})


@pytest.fixture
def artifacts(store, tmp_path, monkeypatch):
    """Of a build that holds a store and no networks."""
    monkeypatch.setenv("STYLEMED_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(chapters, "_current", None)
    folder = tmp_path / "build" / "artifacts"
    folder.mkdir(parents=True)
    (folder / "store").symlink_to(store.path)
    return folder


def as_released(monkeypatch, bundle):
    monkeypatch.setattr(pretrained, "available", lambda: [bundle.name])
    monkeypatch.setattr(pretrained, "load", lambda name: bundle)


def test_a_released_model_is_taken_and_named(bundle, artifacts, monkeypatch, capsys):
    as_released(monkeypatch, bundle)
    got = chapters.inputs("smoke", weights="released")
    said = capsys.readouterr().out
    for line in ("generator: phantom-32, released", "encoder:   phantom-32, released", "patients of a made-up phantom"):
        assert line in said
    assert "5.0 thousand" in said and "7.0 thousand" in said and not got.small and got.released is bundle
    assert digest_of_weights(got.generator.state_dict()) == bundle.generator.provenance.digest
    assert got.gan_path == got.encoder_path == bundle.path and chapters.networks(artifacts) == (
        bundle.path,
        bundle.path,
    )
    # Chapter 4 trains an encoder of its own for it, apart from those that chapters read, and goes on with the released one.
    four = chapters.inputs("smoke", needs=["store", "generator"], weights="released")
    assert four.gan_path == bundle.path and four.encoder_path == artifacts / "tried" / "encoder"
    assert four.encoder_after(four.encoder_path) is bundle.encoder
    # So does chapter 3, perhaps at a smaller side than the store's; where nothing is released, the others read what it trains.
    assert chapters.inputs("smoke", needs=["store"], weights="released").gan_path == artifacts / "tried" / "gan"
    assert chapters.inputs("smoke", needs=["store"]).gan_path == artifacts / "gan"


def test_nobody_is_measured_on_whom_it_may_have_seen(store, bundle, bundle_of, artifacts, monkeypatch, capsys):
    everybody = store.provenance.to_dict() | {"store": "another"}
    by_name = bundle_of(everybody | {"patients": {"phantom0006": []}})
    by_file = bundle_of(everybody | {"patients": {"renamed": store.provenance.patients["phantom0005"]}})
    elsewhere = bundle_of(everybody | {"patients": {"phantom0001": []}, "frame": "image"})
    monkeypatch.setattr(chapters, "_make_small", lambda *given: pytest.fail("no store was missing"))
    for stranger, says in ((by_name, "phantom0006"), (by_file, "phantom0005"), (elsewhere, "the frame is image")):
        with pytest.raises(BadInput, match=says):
            chapters.inputs("smoke", weights=str(stranger.path))
        as_released(monkeypatch, stranger)
        capsys.readouterr()
        assert chapters.inputs("smoke", needs=["store"], weights="released").released is None
        (said, _) = capsys.readouterr().out.splitlines()
        assert says in said and said.endswith("fresh ones take their place.")
        monkeypatch.undo()
        monkeypatch.setenv("STYLEMED_BUILD", str(artifacts.parent))
    # Real scans go under other names elsewhere: a model has to be named for them.
    as_released(monkeypatch, bundle)
    real = SimpleNamespace(provenance=Provenance(patients={"volume-1": []}), resolution=32)
    monkeypatch.setattr(SliceStore, "open", lambda path: real)
    assert chapters._released(chapters.Inputs("smoke", artifacts), "released", 32) is None
    assert "models of the phantom" in capsys.readouterr().out


def test_what_is_not_released_is_made_fresh_and_said(store, artifacts, capsys):
    for name in ("gan/generator", "encoder/encoder"):
        (artifacts / name).parent.mkdir()
    learned = SliceDataset(store).metadata["provenance"]
    generator = Generator(32, latent_size=16, mapping_layers=2, **SMALL)
    export(artifacts / "gan" / "generator.safetensors", generator, {"provenance": learned})
    export(artifacts / "encoder" / "encoder.safetensors", Encoder(32, latent_size=16, num_layers=8), {})
    (artifacts / chapters.NOTE).write_text("a model that was used before")
    got = chapters.inputs("smoke", weights="released")
    assert got.released is None and got.gan_path == artifacts / "gan" and not got.small
    assert "cannot be used (there is no phantom-32 yet); fresh" in capsys.readouterr().out
    assert chapters.networks(artifacts) == (artifacts / "gan", artifacts / "encoder")
    with pytest.raises(BadInput, match="There is no released model trained"):
        chapters.inputs("smoke", weights="trained")


@pytest.mark.parametrize("name", [name for name in pretrained.available() if name.startswith("phantom")])
def test_no_released_model_knows_the_test_patients_of_chapter_1(name):
    known = [int(patient.removeprefix("phantom")) for patient in pretrained.load(name).generator.provenance.patients]
    assert 0 < len(known) and max(known) < chapters.FIRST_TEST


@pytest.mark.slow
def test_a_chapter_opened_alone_makes_a_store_only(bundle, tmp_path, monkeypatch):
    """And its test patients are none of those a released model knows."""
    monkeypatch.setenv("STYLEMED_BUILD", str(tmp_path))
    monkeypatch.setattr(chapters, "_current", None)
    as_released(monkeypatch, bundle)
    got = chapters.inputs("smoke", weights="released")
    assert (
        got.small
        and got.released is bundle
        and sorted(x.name for x in got.folder.iterdir())
        == [
            "package.txt",
            "phantom",
            "store",
        ]
    )
    volumes = pd.read_csv(got.folder / "phantom" / "volumes.csv").query("split == 'test'")
    assert volumes["patient"].tolist() == [f"phantom00{number}" for number in (61, 62, 63, 64)]
