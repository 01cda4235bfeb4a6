"""Variety of generated slices: how much of the real ones they reach, how alike their livers are, how many hold a tumor.

A generator that makes one anatomy over and over has sharp images and a middling Fréchet distance. It shows in the recall (the
share of real slices that lie among the generated ones) and in its livers, which cover each other more than those of
different patients do. The standard deviation of the pixels does not show it: blur and noise raise that too.
"""

import numpy as np
import pandas as pd
import torch

from stylemed.data.store import LEAST_LIVER
from stylemed.errors import BadInput
from stylemed.latent.samples import findings_of_samples
from stylemed.training.loop import random_stream

NEIGHBOURS = 3  # k of Kynkäänniemi et al. 2019
PAIRS = 2000  # of livers: the standard error of their mean Dice is then below 0.01
CHUNK = 64  # pairs compared at a time


def covered(points, others, k: int = NEIGHBOURS) -> float:
    """Share of `points` [N, D] within the manifold of `others` [M, D], which is made of a ball around each of its rows.

    A ball reaches as far as the k-th nearest of the other M - 1 rows. covered(real, generated) is the improved recall,
    covered(generated, real) the improved precision (Kynkäänniemi et al. 2019, section 2). Balls shrink as M grows: compare only
    values of the same N and M. NaN where there are no k other rows.
    """
    points, others = (torch.as_tensor(np.asarray(x, np.float64)) for x in (points, others))
    if len(others) <= k or not len(points):
        return float("nan")
    radii = torch.cdist(others, others).kthvalue(k + 1, dim=1).values  # the nearest row of all is the row itself
    # cdist multiplies, which leaves 1e-7 of the length of a row where copies have 0.
    close = radii + 1e-6 * others.norm(dim=1)
    return (torch.cdist(points, others) <= close).any(dim=1).double().mean().item()


def pairwise_dice(masks, labels=None, pairs: int = PAIRS, seed: int = 0) -> float:
    """Mean Dice overlap of random pairs of masks [N, R, R]; those that cover less than 1 % of the image are left out.

    labels: N of them, such as patients; then only masks of different labels are paired. Pairs are drawn with replacement
    from `seed`. NaN where no pair is left.
    """
    masks = np.asarray(masks, bool)
    large = np.flatnonzero(masks.mean(axis=(1, 2)) >= LEAST_LIVER) if len(masks) else np.zeros(0, int)
    groups = np.arange(len(masks)) if labels is None else np.unique(np.asarray(labels), return_inverse=True)[1]
    if len(groups) != len(masks):
        raise BadInput(f"There are {len(masks)} masks and {len(groups)} labels; give one for each mask.")
    if len(np.unique(groups[large])) < 2:
        return float("nan")
    rng, found = np.random.default_rng(seed), np.zeros((0, 2), int)
    while len(found) < pairs:
        drawn = rng.choice(large, (pairs, 2))
        found = np.concatenate([found, drawn[groups[drawn[:, 0]] != groups[drawn[:, 1]]]])
    area = masks.sum(axis=(1, 2))
    total = 0.0
    for first, second in (part.T for part in np.array_split(found[:pairs], -(-pairs // CHUNK))):
        shared = (masks[first] & masks[second]).sum(axis=(1, 2))
        total += (2 * shared / (area[first] + area[second])).sum()
    return float(total / pairs)


@torch.no_grad()
def spread(images) -> float:
    """How different images [n, C, R, R] are: standard deviation of each pixel, averaged over the pixels."""
    return float(torch.as_tensor(images).std(dim=0).mean())


def survey_samples(generator, reader, n: int = 5000, seed: int = 0, batch: int = 64) -> pd.DataFrame:
    """The reader's table (tumor 0/1, tumor_px, liver_px, …) of n images that the generator draws without truncation.

    Latents come from `seed`, noise is the stored one; reader: has `findings(images [n, 1, R, R])`, such as a Judge.
    The share of images in which it finds a tumor holds its errors: see `corrected_share`.
    """
    if n < 1 or batch < 1:
        raise BadInput(f"A survey needs at least one image, not {n} in batches of {batch}.")
    z = torch.randn(n, generator.latent_size, generator=random_stream(seed, 0, "survey"))
    return findings_of_samples(generator, reader, z, batch=batch)[1]


def corrected_share(found_share: float, sensitivity: float, specificity: float) -> float:
    """The true share behind the share that a reader finds, given its errors; clipped to [0, 1] (Rogan and Gladen 1978).

    BadInput unless all are in [0, 1] and the reader is better than chance (sensitivity + specificity > 1).
    """
    if not all(0 <= value <= 1 for value in (found_share, sensitivity, specificity)):
        raise BadInput(f"Shares lie between 0 and 1, not {found_share}, {sensitivity} and {specificity}.")
    better = sensitivity + specificity - 1
    if better <= 0:
        raise BadInput(
            f"A reader of sensitivity {sensitivity} and specificity {specificity} is no better than chance; "
            "nothing can be corrected with it."
        )
    return float(np.clip((found_share + specificity - 1) / better, 0, 1))
