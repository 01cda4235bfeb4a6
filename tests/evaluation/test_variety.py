"""Recall of clouds with a known answer, Dice of drawn discs, shares corrected for known errors."""

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed.errors import BadInput
from stylemed.evaluation import corrected_share, covered, pairwise_dice, survey_samples
from stylemed.networks import Generator
from stylemed.training.reader import Findings


def test_points_on_a_line_are_covered_as_far_as_the_third_neighbour():
    line = np.arange(10.0)[:, None]  # inner points reach 2 far, the outer ones 3
    points = np.array([[-3.0], [-3.1], [4.5], [12.0], [12.1]])
    assert covered(points, line) == 3 / 5 and covered(line, line) == 1
    assert covered(points, line, k=1) == 1 / 5
    assert np.isnan(covered(points, line[:3]))


def test_recall_is_the_share_of_modes_that_are_drawn():
    rng = np.random.default_rng(0)
    modes = 100 * rng.standard_normal((4, 8))
    real, all_drawn, one_drawn = (modes[rng.integers(0, n, 400)] + rng.standard_normal((400, 8)) for n in (4, 4, 1))
    assert covered(real, all_drawn) > 0.8 and covered(one_drawn, real) > 0.8
    of_mode = np.abs(real - modes[0]).max(axis=1) < 20
    assert 0.8 * of_mode.mean() < covered(real, one_drawn) <= of_mode.mean()
    copies = np.repeat(real[:1], 400, axis=0)
    assert covered(real, copies) == 1 / 400 and covered(copies, real) == 1


def discs(centres, side=32, radius=6):
    y, x = np.mgrid[:side, :side]
    return np.array([(x - cx) ** 2 + (y - cy) ** 2 <= radius**2 for cx, cy in centres])


def test_dice_of_pairs_is_the_mean_over_all_pairs():
    masks = discs(np.random.default_rng(0).uniform(8, 24, (30, 2)))
    both = (masks[:, None] & masks[None]).sum(axis=(2, 3))
    area = masks.sum(axis=(1, 2))
    dice = (2 * both / (area[:, None] + area))[~np.eye(30, dtype=bool)]
    assert abs(pairwise_dice(masks) - dice.mean()) < 4 * dice.std() / np.sqrt(2000)
    assert pairwise_dice(masks, seed=1) == pairwise_dice(masks, seed=1) != pairwise_dice(masks)
    assert pairwise_dice(masks[[3] * 5]) == 1


def test_dice_leaves_out_tips_and_pairs_of_one_patient():
    masks = discs([(8, 8), (8, 8), (24, 24), (24, 24)])
    assert pairwise_dice(masks, ["a", "a", "b", "b"]) == 0
    assert 0.45 < pairwise_dice(masks, list("abab")) < 0.55  # half of such pairs are of one place
    assert pairwise_dice(masks, list("abcd")) == pytest.approx(1 / 3, abs=0.05)
    tip = discs([(8, 8)], radius=1)
    assert tip.mean() < 0.01 and pairwise_dice(np.concatenate([masks[:2], tip])) == 1
    for none in (masks[:1], masks[:0], np.concatenate([masks[:1], tip, tip])):
        assert np.isnan(pairwise_dice(none))
    assert np.isnan(pairwise_dice(masks, ["a"] * 4))
    with pytest.raises(BadInput, match="4 masks and 2 labels"):
        pairwise_dice(masks, ["a", "b"])


class Bright:
    """A reader that finds a tumor in images whose mean is above 0."""

    def findings(self, images):
        mean = images.mean(dim=(1, 2, 3)).numpy()
        table = pd.DataFrame({"tumor": (mean > 0).astype(int), "tumor_px": 7 * (mean > 0), "liver_px": 1000 * mean})
        return Findings(np.zeros((len(images), 16, 16), np.uint8), table)


def test_a_survey_depends_on_its_seed_only():
    torch.manual_seed(0)
    generator = Generator(resolution=16, channels=1, latent_size=8, mapping_layers=2, fmap_base=64, fmap_max=8).eval()
    before = torch.get_rng_state()
    table = survey_samples(generator, Bright(), n=50, batch=16)
    assert torch.equal(before, torch.get_rng_state())
    assert len(table) == 50 and list(table) == ["tumor", "tumor_px", "liver_px"] and table.liver_px.nunique() > 40
    again = survey_samples(generator, Bright(), n=50, batch=50)
    assert (table.tumor == again.tumor).all() and np.allclose(table.liver_px, again.liver_px, atol=1e-2)
    assert not np.allclose(table.liver_px, survey_samples(generator, Bright(), n=50, seed=1).liver_px)
    with pytest.raises(BadInput, match="at least one image"):
        survey_samples(generator, Bright(), n=0)


def test_a_share_is_corrected_for_the_errors_of_the_reader():
    for true in (0.0, 0.1, 0.5, 1.0):
        assert corrected_share(true * 0.8 + (1 - true) * 0.1, 0.8, 0.9) == pytest.approx(true)
    assert corrected_share(0.05, 0.8, 0.9) == 0 and corrected_share(0.9, 0.8, 0.9) == 1
    for bad in ((0.5, 0.5, 0.5), (0.5, 0.2, 0.3), (1.2, 0.9, 0.9), (0.5, float("nan"), 0.9)):
        with pytest.raises(BadInput):
            corrected_share(*bad)
