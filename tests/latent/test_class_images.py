"""Data sets of a class: what is accepted, what is written, and what `prepare` reads back."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed import pretrained
from stylemed.data import SliceStore, Window, prepare
from stylemed.errors import BadInput
from stylemed.latent import Codes, Direction
from stylemed.latent.generation import BATCH, class_images, random_styles, write_class_images
from stylemed.latent.mixing import mix, synthesize
from stylemed.networks import Generator
from stylemed.provenance import Provenance

WINDOW = {"CT": Window(-100.0, 250.0)}


class Simple(Generator):
    """w is z. Its upper half is bright where the coarse styles say so, its lower half holds the fine ones."""

    provenance = Provenance(frame="body", resolution=16)

    def __init__(self):
        super().__init__(16, latent_size=4, mapping_layers=1, fmap_base=16, fmap_max=4)

    def mapping(self, z):
        return z

    def synthesis(self, w_plus, noise=None, lod=None):
        image = 0.1 * torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16).repeat(len(w_plus), 1, 1, 1)
        image[:, 0, :8] += torch.tanh(w_plus[:, 0, 0])[:, None, None]
        image[:, 0, 8:] += torch.tanh(w_plus[:, 5, 1])[:, None, None]
        return image


class Bright:
    """Stands in for a labeller: a bright upper half has a tumor; where the lower half is very dark there is no liver."""

    def findings(self, images):
        tumor, liver = (images[:, 0, 4, 4] > 0).numpy(), (images[:, 0, 12, 4] > -0.8).numpy()
        masks = np.ones((len(images), 16, 16), np.uint8)
        masks[liver, 4:12, 4:12] = 2
        masks[liver & tumor, 5:8, 5:8] = 3
        table = pd.DataFrame({"tumor": tumor.astype(int), "tumor_px": (masks == 3).sum(axis=(1, 2))})
        table = table.assign(liver_px=(masks >= 2).sum(axis=(1, 2)), tumor_score=images[:, 0, 4, 4].numpy())
        return SimpleNamespace(masks=masks, table=table.assign(modality_mr=0.0, kernel_sharp=0.0, phase="portal"))


def encoded():
    """Codes of 8 slices, the first 4 with a tumor; the last of each four is of `test`."""
    w_plus = np.random.default_rng(0).standard_normal((8, 6, 4))
    w_plus[:, 0, 0] = np.repeat([1.0, -1.0], 4) * np.linspace(2, 4, 8)
    table = pd.DataFrame({"case": [f"c{i}" for i in range(8)], "patient": list("abcdefgh"), "z": 7, "liver_px": 9})
    table = table.assign(tumor_px=[5] * 4 + [0] * 4, tumor_known=1, split=(["train"] * 3 + ["test"]) * 2)
    return Codes(table, w_plus)


@pytest.mark.parametrize("codes", [None, encoded()], ids=["samples", "codes"])
def test_coarse_styles_of_the_class_are_put_into_other_sources(codes):
    made = class_images(Simple(), Bright(), 10, ratio=0.3, codes=codes, psi=1.0, seed=5)
    assert made.table["class"].tolist() == [1] * 3 + [0] * 7 and set(made.table["by"]) == {"coarse"}
    assert ((made.labels == 2).any(axis=(1, 2)) == made.table["class"]).all() and (made.labels > 0).any(
        axis=(1, 2)
    ).all()
    torch.testing.assert_close(synthesize(Simple(), made.w_plus), made.images)
    for w_plus, row in zip(made.w_plus, made.table.itertuples(), strict=True):
        other = random_styles(Simple(), BATCH, 1.0, int(row.seed))[int(row.draw)]
        torch.testing.assert_close(w_plus[4:], other[4:])
        if codes is not None:
            case, _, z = row.class_source.split()
            assert codes.table["split"][int(case[1])] == "train" and z == "7"
            torch.testing.assert_close(w_plus, mix(other, torch.as_tensor(codes.w_plus[int(case[1])]), "coarse"))
    assert len(set(made.table["seed"])) >= 2  # with and without are drawn apart
    assert class_images(Simple(), Bright(), 10, ratio=0.3, codes=codes, psi=1.0, seed=5).table.equals(made.table)


def test_a_walk_ends_where_the_latent_classifier_is_sure_and_does_not_move_what_is():
    direction = Direction(np.eye(4, dtype=np.float32)[0], 0.5, 2.0, "large")
    made = class_images(Simple(), Bright(), 40, "large", by="direction", direction=direction, margin=0.25, psi=1.0)
    side = np.where(made.table["class"] == 1, 1.0, -1.0)
    score = direction.score(made.w_plus)
    np.testing.assert_allclose(score, made.table["score"], atol=1e-5)
    assert (side * score > 0.25 - 1e-5).all() and made.table["class"].sum() == 20
    still = made.table["step"] == 0
    assert still.any() and not still.all() and np.allclose(score[~still], 0.25 * side[~still], atol=1e-5)
    row = made.table[still].iloc[0]
    torch.testing.assert_close(made.w_plus[row.name], random_styles(Simple(), BATCH, 1.0, int(row.seed))[int(row.draw)])
    with pytest.raises(BadInput, match="needs a direction of tumor; d is one of large"):
        class_images(Simple(), Bright(), 4, by="direction", direction=direction, names=("g", "d", "c"))


def test_prepare_reads_what_was_written_in_hu_and_unknown_is_not_negative(tmp_path):
    direction = Direction(np.eye(4, dtype=np.float32)[0], 4.0, 1.0, "tumor")  # takes much for no tumor
    made = class_images(Simple(), Bright(), 12, by="direction", direction=direction, psi=1.0)
    doubtful = (made.table["tumor_labels"] == "unknown").to_numpy()
    assert doubtful.any() and not doubtful[made.table["class"] == 1].any()
    write_class_images(tmp_path / "made", made, WINDOW, Simple())
    volumes = pd.read_csv(tmp_path / "made" / "volumes.csv")
    assert set(volumes["mask"]) == {"machine-made"} and {"class", "seed", "draw", "code", "score"} <= set(volumes)
    report = prepare(tmp_path / "made", tmp_path / "store", 16, workers=1, progress=False)
    store = SliceStore.open(tmp_path / "store")
    assert not report.left_out and set(store.slices["split"]) == {"train"} and store.slices["patient"].is_unique
    order = volumes.set_index("volume")["code"][store.slices["case"].str.removeprefix("volume-").astype(int)].to_numpy()
    wanted = WINDOW["CT"].to_hu(made.images[torch.tensor(order), 0].clamp(-1, 1).numpy())
    assert np.abs(store.hu - wanted).max() <= 0.5 and (store.window.lo, store.window.hi) == (-100, 250)
    np.testing.assert_array_equal(store.labels, made.labels[order])
    with_tumor, without = store.select(tumor=True), store.select(tumor=False)
    assert (volumes["class"][order[with_tumor]] == 1).all() and (volumes["class"][order[without]] == 0).all()
    assert len(with_tumor) == 6 and len(without) == 6 - doubtful.sum()
    codes = Codes.load(tmp_path / "made" / "codes.safetensors")
    np.testing.assert_array_equal(codes.w_plus, made.w_plus.numpy())
    assert codes.provenance.made_from["generator"] and len(codes.find("train", tumor=True)) == 6
    with pytest.raises(BadInput, match="made is there already"):
        write_class_images(tmp_path / "made", made, WINDOW, Simple())


def test_what_cannot_be_made_is_said(monkeypatch, tmp_path):
    class Never(Bright):
        def findings(self, images):
            found = super().findings(images)
            return SimpleNamespace(masks=found.masks, table=found.table.assign(tumor=0))

    monkeypatch.setattr("stylemed.latent.generation.TRIES", 1)
    for by_codes in (None, encoded()):
        with pytest.raises(BadInput, match="Only 0 of 2 images with tumor were accepted among"):
            class_images(Simple(), Never(), 4, codes=by_codes)
    with pytest.raises(BadInput, match="does not tell large; it tells tumor, .* take a direction"):
        class_images(Simple(), Bright(), 4, "large")
    made = class_images(Simple(), Bright(), 2, psi=1.0)
    with pytest.raises(BadInput, match="does not say the window"):
        write_class_images(tmp_path / "made", made, {}, Simple())


@pytest.mark.slow
def test_a_guided_set_has_tumors_where_they_were_asked_for(monkeypatch):
    monkeypatch.setattr("stylemed.latent.generation.FEW", 3)
    generator, labeller = pretrained.generator("phantom-64")[0], pretrained.labeller("phantom-64")
    made = class_images(generator, labeller, 4, by="guided", steps=30)
    assert made.table["class"].tolist() == [1, 1, 0, 0] and set(made.table["by"]) == {"guided"}
    assert ((made.labels == 2).any(axis=(1, 2)) == made.table["class"]).all()
    for labels, row in zip(made.labels[:2], made.table.itertuples(), strict=False):
        assert labels[round(row.asked_y), round(row.asked_x)] == 2
    moved = made.w_plus[0] - random_styles(generator, 3, 0.7, int(made.table["seed"][0]))[int(made.table["draw"][0])]
    assert moved.abs().max() > 0.1 and (made.tally["accepted"] <= made.tally["drawn"]).all()
    with pytest.raises(BadInput, match="leave out other classes and codes"):
        class_images(generator, labeller, 2, "kernel_sharp", by="guided")
