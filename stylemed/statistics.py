"""Numbers about patients and outlines: AUC, Dice, the bootstrap over patients (Efron and Tibshirani 1993), order by chance."""

from __future__ import annotations

import hashlib

import numpy as np

MOST_WEIGHTS = 10_000_000  # of draws and slices that are held at a time


def chance(patient: str, seed: int) -> float:
    """A number in [0, 1) that depends on seed and name alone: other patients have no part in it."""
    return int(hashlib.sha256(f"{seed} {patient}".encode()).hexdigest(), 16) / 16**64


def by_chance(patients, seed: int) -> list[str]:
    """Patients in the order of `chance`: one more of them does not move the others."""
    return sorted(patients, key=lambda patient: chance(patient, seed))


def draw_patients(count: int, draws: int, seed: int) -> np.ndarray:
    """How often each of `count` patients comes in each of `draws` bootstrap samples: [draws, count]."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)


def patient_auc(scores, y, patients, folds=None, *, seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """AUC of scores [N] for y [N] (0/1) with its 95 % interval, by a bootstrap over patients -> (auc, low, high).

    With `folds` [N] only pairs of slices of the same fold are compared. NaN where there is no pair.
    """
    scores, y = np.asarray(scores, dtype=float), np.asarray(y).astype(bool)
    names, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    folds = np.zeros(len(y)) if folds is None else np.asarray(folds)
    drawn = np.concatenate([np.ones((1, len(names)), int), draw_patients(len(names), draws, seed)])
    hits, pairs = np.zeros((2, len(drawn)))
    for fold in np.unique(folds):
        order = np.flatnonzero(folds == fold)
        order = order[np.argsort(scores[order], kind="stable")]
        positive, sorted_scores = y[order], scores[order]
        first, last = (np.searchsorted(sorted_scores, sorted_scores[positive], side) for side in ("left", "right"))
        for some in np.array_split(np.arange(len(drawn)), 1 + len(drawn) * len(order) // MOST_WEIGHTS):
            weight = drawn[some][:, patient[order]].astype(float)  # [draws, slices]: an AUC with weights, by ranks
            negatives = np.cumsum(weight * ~positive, axis=1)
            below = np.concatenate([np.zeros((len(some), 1)), negatives], axis=1)
            hits[some] += (weight[:, positive] * (below[:, first] + below[:, last])).sum(axis=1) / 2
            pairs[some] += weight[:, positive].sum(axis=1) * below[:, -1]
    if pairs[0] == 0:
        return float("nan"), float("nan"), float("nan")
    use = pairs[1:] > 0
    low, high = np.quantile(hits[1:][use] / pairs[1:][use], (0.025, 0.975))
    return float(hits[0] / pairs[0]), float(low), float(high)


def mean_interval(values, patients, seed: int = 0, draws: int = 1000) -> tuple[float, float, float]:
    """2.5 % and 97.5 % of the mean of values [N] over a bootstrap of patients [N], and the mean -> (low, high, mean)."""
    names, patient = np.unique(patients.astype(str), return_inverse=True)
    sums, counts = np.bincount(patient, values), np.bincount(patient)
    drawn = draw_patients(len(names), draws, seed)
    means = (drawn @ sums) / np.maximum(drawn @ counts, 1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high), float(values.mean())


def dice(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice of each slice of two outlines bool [N, R, R]; NaN where neither has a pixel."""
    total = found.sum(axis=(1, 2)) + true.sum(axis=(1, 2))
    return np.where(total > 0, 2 * (found & true).sum(axis=(1, 2)) / np.maximum(total, 1), np.nan)
