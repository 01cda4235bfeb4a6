"""A released model is whole, says what it is, and notices when it was changed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import stylemed
from stylemed import pretrained
from stylemed.errors import BadInput
from stylemed.files import digest_of_weights
from stylemed.latent import Codes, Direction
from stylemed.networks import Discriminator, Encoder, Generator
from stylemed.networks.reader import ReaderNetwork
from stylemed.pretrained.bundles import available, load, release
from stylemed.pretrained.freezing import freeze
from stylemed.training.reader import Judge
from stylemed.training.run import export, load_generator

ABOUT = dict(data="a made-up phantom", licence="CC0", hours=1.5, command="stylemed release tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A frozen generator, an encoder, codes and a direction made from it, and an encoder of other weights."""
    root = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    patients = {
        "windows": {"CT": [-100.0, 250.0]},
        "frame": "body",
        "store": "s",
        "patients": {"p1": ["a"], "p2": ["b"]},
    }
    (root / "run").mkdir()
    small = dict(fmap_base=128, fmap_max=16)
    export(
        root / "run" / "generator.safetensors",
        Generator(32, latent_size=16, mapping_layers=2, **small),
        {"nimg": 5000, "seed": 3, "provenance": {"kind": "generator", **patients}},
    )
    export(root / "run" / "discriminator.safetensors", Discriminator(32, **small), {})
    (root / "run" / "config.yaml").write_text("kind: gan\n")
    (root / "run" / "distances.csv").write_text("kimg,frechet,recall\n5,40.25,0.1\n10,30.5,0.25\n")
    freeze(root / "run", root / "frozen")
    generator = load_generator(root / "frozen")[0]
    for name, digest in (("encoder", generator.provenance.digest), ("other", "0123")):
        (root / name).mkdir()
        its = {"kind": "encoder", "made_from": {"generator": digest}, **patients}
        encoder = Encoder(32, latent_size=16, num_layers=8, trunk="resnet18")
        export(root / name / "encoder.safetensors", encoder, {"provenance": its})
    its = {"kind": "codes", "made_from": {"generator": generator.provenance.digest}}
    table = pd.DataFrame({"row": [0], "case": ["c"], "patient": ["p1"], "split": ["train"]})
    Codes(table, np.zeros((1, 8, 16)), {"provenance": its}).save(root / "codes.safetensors")
    its = {"provenance": {**its, "kind": "direction"}}
    Direction(np.eye(16, dtype=np.float32)[0], 0.0, 1.0, "tumor", info=its).save(root / "tumor.safetensors")
    return root


@pytest.fixture
def bundle(made, tmp_path):
    parts = {"generator": made / "frozen", "encoder": made / "encoder"}
    directions = {"tumor": made / "tumor.safetensors"}
    return release(tmp_path / "tiny", parts, codes=made / "codes.safetensors", directions=directions, **ABOUT)


def test_a_released_model_is_what_was_frozen(made, bundle, monkeypatch):
    frozen = load_generator(made / "frozen")[0]
    assert digest_of_weights(bundle.generator.state_dict()) == frozen.provenance.digest
    assert bundle.encoder.provenance.made_from == {"generator": frozen.provenance.digest}
    assert bundle.codes.w_plus.shape == (1, 8, 16) and bundle.directions["tumor"].label == "tumor"
    for fact in ("# tiny", "2 patients", "[-100, 250]", "1.5 hours", "| recall | 0.25 |", "Not for diagnosis", "CC0"):
        assert fact in bundle.card, fact
    assert available(bundle.path.parent) == ["tiny"] and stylemed.load(bundle.path).name == "tiny"
    monkeypatch.setattr(pretrained, "available", lambda: ["tiny"])
    monkeypatch.setattr(pretrained, "load", lambda name: bundle)
    assert pretrained.generator("tiny")[1]["nimg"] == 5000
    with pytest.raises(BadInput, match="tiny has no judge.safetensors; it holds generator"):
        bundle.judge  # noqa: B018


def test_what_was_changed_or_does_not_fit_is_refused(made, bundle, tmp_path):
    file = bundle.path / "generator.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadInput, match="generator.safetensors is missing or not as it was released"):
        load(bundle.path).generator  # noqa: B018
    with pytest.raises(BadInput, match="do not belong together: the generator is .* freeze the generator first"):
        release(tmp_path / "x", {"generator": made / "frozen", "encoder": made / "other"}, **ABOUT)
    with pytest.raises(BadInput, match="frozen is the run itself"):
        freeze(made / "frozen", made / "frozen")
    its = {"kind": "judge", "windows": {"CT": [-100.0, 250.0]}, "frame": "body", "patients": {"p1": ["a"], "p2": ["b"]}}
    (tmp_path / "judge").mkdir()
    Judge(ReaderNetwork(32, 1), 0.0, {"provenance": its}).save(tmp_path / "judge" / "judge.safetensors")
    with pytest.raises(BadInput, match=r"judge.safetensors has learned from patients of the generator \(p1, p2\)"):
        release(tmp_path / "y", {"generator": made / "frozen", "judge": tmp_path / "judge"}, **ABOUT)
    with pytest.raises(BadInput, match="There is no released model nobody"):
        load("nobody")
    (bundle.path / "bundle.json").write_text("{")
    with pytest.raises(BadInput, match="bundle.json is damaged"):
        load(bundle.path)


@pytest.mark.slow
def test_networks_are_found_by_the_name_of_their_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.folder("phantom-64") == pretrained.load("phantom-64").path
    assert pretrained.folder("phantom-65") == Path("phantom-65")  # whoever reads it says that it is not there
    for kind in ("judge", "labeller"):
        assert getattr(pretrained, kind)("phantom-64").kind == kind
    judge, train = pretrained.judge("phantom-64").provenance, pretrained.generator("phantom-64")[0].provenance
    assert not judge.shared_patients(train)  # it has seen nobody that the generator learned from
    assert train.shared_patients(pretrained.labeller("phantom-64").provenance)
    with pytest.raises(BadInput, match="ct-64 has no judge"):
        pretrained.judge("ct-64")


def test_codes_and_directions_are_found_by_the_name_of_their_model(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr(pretrained, "available", lambda: ["small"])
    monkeypatch.setattr(pretrained, "load", lambda name: bundle)
    assert len(pretrained.codes("small")) == 1
    for name in ("small", "small:tumor", bundle.path / "direction-tumor.safetensors"):
        assert pretrained.direction(name).label == "tumor"
    with pytest.raises(BadInput, match="small has no direction age; it has: tumor"):
        pretrained.direction("small:age")
    for kind in ("generator", "codes", "direction"):
        with pytest.raises(BadInput, match=rf"smal: no such file; make the {kind} first, .*released model \(small\)"):
            getattr(pretrained, kind)("smal")
