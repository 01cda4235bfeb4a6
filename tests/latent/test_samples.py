"""Directions from labelled samples of a generator whose class is a known direction."""

import numpy as np
import pytest
import torch
from made_up import Eye, Painted

from stylemed.errors import BadInput
from stylemed.latent import Codes, find_direction, label_samples, matched, random_direction, walk
from stylemed.latent.mixing import synthesize
from stylemed.provenance import Provenance

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_strengths(monkeypatch):
    monkeypatch.setattr(
        "stylemed.latent.direction.STRENGTHS", (0.01, 1.0)
    )  # the choice is made all the same, and sooner


@pytest.fixture(scope="module")
def codes():
    return label_samples(Painted(), Eye(), 1500, progress=False)


def gap(codes, column):
    """Difference of the means of the two classes, in standard deviations."""
    values = codes.table[column]
    sick = codes.table["tumor_px"] > 0
    return (values[sick].mean() - values[~sick].mean()) / values.std()


def test_matched_classes_are_alike_and_each_has_its_partner_in_the_same_stratum(codes):
    kept = matched(codes)
    sick = kept.table["tumor_px"] > 0
    assert gap(codes, "liver_px") > 0.5 > 0.05 > abs(gap(kept, "liver_px"))
    assert sick.sum() == (~sick).sum() > 400 and kept.table["patient"].is_unique
    by_size = matched(codes, by=["liver_px"], bins=1000)  # a stratum for every size that occurs
    counts = by_size.table.groupby(["liver_px", by_size.table["tumor_px"] > 0]).size().unstack(fill_value=0)
    assert (counts[True] == counts[False]).all()
    with pytest.raises(BadInput, match="cannot match in 'colour'"):
        matched(codes, by=["colour"])
    with pytest.raises(BadInput, match="none of them can be matched"):
        matched(codes.select(codes.find(tumor=True)))


def test_an_answer_that_the_outline_does_not_bear_out_is_no_label(codes):
    class Doubtful(Eye):
        def findings(self, images):
            found = super().findings(images)
            found.table.loc[::4, "tumor"] ^= 1
            return found

    doubted = label_samples(Painted(), Doubtful(), 200, batch=40, progress=False)
    assert list(np.flatnonzero(doubted.table["tumor_known"] == 0)) == list(range(0, 200, 4))
    assert np.array_equal(doubted.w_plus, codes.w_plus[:200])  # more images are more of the same
    assert matched(doubted).table["tumor_known"].all()
    with pytest.raises(BadInput, match="is a judge, which only measures"):
        label_samples(Painted(), Eye("judge"), 10)


@pytest.mark.slow
def test_the_direction_of_the_class_is_found_in_samples_and_walks_across_it(codes, tmp_path):
    kept = Codes.load(matched(codes).save(tmp_path / "samples.safetensors"))
    found = find_direction(kept, split=None, folds=3, orthogonal_to=["liver_px", "phase_portal"])
    assert found.vector[0] > 0.95 and found.cv["auc"] > 0.95 and abs(found.vector[1]) < 0.1 and found.log_odds > 2
    free = kept.select(kept.find(tumor=False)[:200])
    walked = {name: walk(free.w_plus, which, [3.0])[:, 0] for name, which in (
        ("own", found), ("random", random_direction(kept, found, seed=1)))}  # fmt: skip
    share = {name: Eye().findings(synthesize(Painted(), w)).table["tumor"].mean() for name, w in walked.items()}
    assert share["own"] > 0.95 and share["random"] < 0.5


def test_behind_samples_stand_the_patients_of_generator_and_labeller():
    generator, labeller = Painted(), Eye()
    generator.provenance = Provenance(kind="generator", store="s", frame="body", patients={"a": ["1"]}, nimg=9)
    labeller.provenance = Provenance(kind="labeller", store="t", patients={"b": ["2"]})
    codes = label_samples(generator, labeller, 300, progress=False)
    found = find_direction(matched(codes), split=None, folds=2)
    assert found.provenance.patients == {"a": ["1"], "b": ["2"]} and found.provenance.frame == "body"
    assert set(found.provenance.made_from) == {"generator", "labeller"} and found.test is None
    labeller.provenance = Provenance(kind="labeller", frame="image")
    with pytest.raises(BadInput, match="G and L do not belong together"):
        label_samples(generator, labeller, 10, names=("G", "L"))
