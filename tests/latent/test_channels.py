"""Single style channels, and a study that finds the one that was planted."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed.latent.channels import Channel, channels_of, moved, slopes, spread_of_channels
from stylemed.latent.generation import random_styles
from stylemed.latent.mixing import synthesize
from stylemed.networks import Generator
from stylemed.studies import channels

pytestmark = pytest.mark.slow

PLANTED = Channel(layer=5, index=2, shift=True)


@pytest.fixture(scope="module")
def generator():
    """Of 16²; of its last layer one feature map alone is seen."""
    torch.manual_seed(0)
    made = Generator(16, latent_size=8, mapping_layers=2, fmap_base=32, fmap_max=4).eval().requires_grad_(False)
    seen = torch.zeros_like(made.to_image[-1].weight)
    seen[:, PLANTED.index] = 0.3 / made.to_image[-1].weight.shape[1] ** -0.5
    made.to_image[-1].weight.copy_(seen)
    return made


def test_a_channel_is_raised_alone_and_only_for_once(generator):
    styles = random_styles(generator, 3, 1.0)
    before = synthesize(generator, styles)
    assert len(channels_of(generator)) == sum(
        2 * block.styled[0].noise_strength.numel() * 2 for block in generator.blocks
    )
    np.testing.assert_array_equal(moved(generator, styles, PLANTED, 0.0), before)
    change = moved(generator, styles, PLANTED, 0.5) - before  # a shift of what is seen: the same everywhere
    assert change.std() < 1e-5 and abs(change.mean()) > 0.01
    np.testing.assert_allclose(moved(generator, styles, PLANTED, 1.0) - before, 2 * change, atol=1e-5)
    unseen = moved(generator, styles, Channel(5, 1, True), 1.0)
    np.testing.assert_array_equal(unseen, before)
    np.testing.assert_array_equal(synthesize(generator, styles), before)
    slope = slopes(generator, styles, lambda images: images.mean(dim=(1, 2, 3)))
    assert slope[PLANTED] == pytest.approx(2 * change.mean().item(), rel=1e-3) and slope[Channel(5, 1, True)] == 0
    early = Channel(0, 1, False)
    assert slope[early] == pytest.approx(
        (moved(generator, styles, early, 1e-2) - before).mean().item() / 1e-2, abs=1e-3
    )
    spread = spread_of_channels(generator, 64)
    assert set(spread) == set(channels_of(generator)) and min(spread.values()) > 0


class Bright:
    """A reader to whom what is darker than usual in the middle is a tumor in the liver, which is everywhere inside."""

    def __init__(self, level):
        self.level = level

    def network(self, images):
        return None, {"present": 10 * (self.level - images[:, 0, 4:12, 4:12].mean(dim=(1, 2)))[:, None]}

    def findings(self, images):
        dark = self.level - np.asarray(images)[:, 0, 4:12, 4:12].mean(axis=(1, 2))
        masks = np.zeros((len(dark), 16, 16), np.uint8)
        masks[:, 2:14, 2:14] = 2
        masks[dark > 0, 6:10, 6:10] = 3
        told = pd.DataFrame({"tumor_score": 10 * dark, "tumor": (dark > 0).astype(int), "liver_px": 144})
        return SimpleNamespace(masks=masks, table=told)


def test_the_channel_that_makes_it_dark_is_ranked_first_in_both_ways(generator):
    level = synthesize(generator, random_styles(generator, 64, channels.PSI))[:, 0, 4:12, 4:12].mean().item()
    spread = spread_of_channels(generator)
    for wanted in (1, 0):
        reader = Bright(level)
        styles = channels._samples(generator, reader, 6, wanted, seed=3)
        assert (reader.findings(synthesize(generator, styles)).table["tumor"] != wanted).all()
        best = channels._ranked(generator, reader, styles, wanted, spread, 175.0, 5, progress=False)
        assert (best["log odds"] > 0).all() and best["per hu"].is_monotonic_decreasing
        tried = channels._tried(generator, reader, styles, wanted, spread, 175.0, best)
        one = tried[tried["chosen"]].iloc[0]
        assert one["changed"] >= channels.AIM and tried["chosen"].sum() == 1
        planted = best[(best["layer"] == 5) & (best["index"] == 2)]
        assert len(planted), "what moves the only map that is seen is among the first"
