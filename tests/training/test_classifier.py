"""A classifier of slices on painted tumors."""

import numpy as np
import pytest
import torch
from painted import painted

from stylemed.errors import BadInput
from stylemed.statistics import auc_draws
from stylemed.training.classifier import VARIED, train_classifier, tumor_scores


@pytest.mark.slow
def test_a_classifier_learns_and_repeats_itself(one_thread):
    rng = np.random.default_rng(0)
    y, size = rng.integers(2, size=(2, 90))
    images = painted(y, 8 + size) + 0.05 * torch.from_numpy(rng.standard_normal((90, 1, 16, 16))).float()
    first, again, other = (
        tumor_scores(train_classifier(images[:60], y[:60], steps=40, batch=16, seed=seed), images[60:])
        for seed in (1, 1, 2)
    )
    assert auc_draws(first, y[60:], np.arange(30), draws=0)[0] > 0.9
    assert (first == again).all() and (first != other).any()


def test_nothing_is_mirrored_or_covered_and_what_cannot_be_learned_is_refused():
    assert VARIED.cutout == 0 and VARIED.rotation < 0.2
    images = painted([0, 1], torch.tensor([8, 8]))
    with pytest.raises(BadInput, match="at least 4"):
        train_classifier(images, [0, 1], steps=3)
    with pytest.raises(BadInput, match="with a tumor and without"):
        train_classifier(images, [1, 1], steps=9)
