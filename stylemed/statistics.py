"""Numbers about patients and outlines: AUC, Dice, the bootstrap over patients (Efron and Tibshirani 1993), order and choice."""

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


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """Positions of at most `count` of `length` things that lie in a row, with the first and the last."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(int))


def draw_patients(count: int, draws: int, seed: int) -> np.ndarray:
    """How often each of `count` patients comes in each of `draws` bootstrap samples: [draws, count]."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)


def patient_auc(scores, y, patients, folds=None, *, seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """AUC of scores [N] for y [N] (0/1) with its 95 % interval, by a bootstrap over patients -> (auc, low, high).

    With `folds` [N] only pairs of slices of the same fold are compared. NaN where there is no pair; one patient has no interval.
    """
    found = auc_draws(scores, y, patients, folds, seed=seed, draws=draws)
    if np.isnan(found[0]):
        return float("nan"), float("nan"), float("nan")
    if len(np.unique(np.asarray(patients).astype(str))) < 2:
        return float(found[0]), float("nan"), float("nan")
    low, high = np.nanquantile(found[1:], (0.025, 0.975))
    return float(found[0]), float(low), float(high)


def auc_draws(scores, y, patients, folds=None, *, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """The AUC of `patient_auc`, then those of its bootstrap samples, [1 + draws]; NaN where there is no pair.

    Of two classifiers on the same slices, sample i holds the same patients: their difference is a paired one.
    """
    scores, y = np.asarray(scores, dtype=float), np.asarray(y).astype(bool)
    patient, drawn = patient_samples(patients, draws, seed)
    folds = np.zeros(len(y)) if folds is None else np.asarray(folds)
    hits, pairs = np.zeros((2, len(drawn)))
    for fold in np.unique(folds):
        order = np.flatnonzero(folds == fold)
        order = order[np.argsort(scores[order], kind="stable")]
        positive, sorted_scores = y[order], scores[order]
        first, last = (np.searchsorted(sorted_scores, sorted_scores[positive], side) for side in ("left", "right"))
        for some in _parts(drawn, order):
            weight = drawn[some][:, patient[order]].astype(float)  # [draws, slices]: an AUC with weights, by ranks
            negatives = np.cumsum(weight * ~positive, axis=1)
            below = np.concatenate([np.zeros((len(some), 1)), negatives], axis=1)
            hits[some] += (weight[:, positive] * (below[:, first] + below[:, last])).sum(axis=1) / 2
            pairs[some] += weight[:, positive].sum(axis=1) * below[:, -1]
    return np.divide(hits, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)


def within_patient_auc(scores, y, patients, *, seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """AUC of scores [N] for y [N] (0/1) over pairs of slices of the same patient -> (auc, low, high), 95 % by patient.

    `patient_auc` counts a pair of two patients as well, and so rewards who knows which patient has a tumor at all. Here only those
    with both kinds of slices count, each with all its pairs. Scores of different patients are never compared, so they may come
    from different classifiers. NaN where no patient has both.
    """
    scores, y = np.asarray(scores, dtype=float), np.asarray(y).astype(bool)
    patient, drawn = patient_samples(patients, draws, seed)
    hits, pairs = np.zeros((2, drawn.shape[1]))
    for one in range(drawn.shape[1]):
        having, lacking = scores[(patient == one) & y][:, None], scores[(patient == one) & ~y]
        hits[one] = (having > lacking).sum() + (having == lacking).sum() / 2
        pairs[one] = having.size * lacking.size
    if not pairs.any():
        return float("nan"), float("nan"), float("nan")
    if (pairs > 0).sum() < 2:  # one patient has no interval
        return float(hits.sum() / pairs.sum()), float("nan"), float("nan")
    below = drawn @ pairs
    found = (drawn @ hits)[below > 0] / below[below > 0]
    low, high = np.quantile(found[1:], (0.025, 0.975)) if len(found) > 1 else (np.nan, np.nan)
    return float(found[0]), float(low), float(high)


def sensitivity_draws(scores, y, patients, specificity: float = 0.9, *, seed: int = 0, draws: int = 2000) -> np.ndarray:
    """Share of y = 1 above the lowest score that so many of y = 0 do not exceed, then that of bootstrap samples, [1 + draws].

    A point of the ROC curve: each sample has a cut of its own. Samples as in `auc_draws`; NaN where a class is missing.
    """
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    scores, y = np.asarray(scores, dtype=float)[order], np.asarray(y).astype(bool)[order]
    patient, drawn = patient_samples(patients, draws, seed)
    last = np.searchsorted(scores, scores, "right") - 1  # equal scores stay on one side of the cut
    out = np.full(len(drawn), np.nan)
    for some in _parts(drawn, order):
        weight = drawn[some][:, patient[order]]
        negatives, positives = np.cumsum(weight * ~y, axis=1), np.cumsum(weight * y, axis=1)
        cut = last[(negatives >= specificity * negatives[:, -1:] - 1e-9).argmax(axis=1)]
        above = positives[:, -1] - positives[np.arange(len(some)), cut]
        both = (negatives[:, -1] > 0) & (positives[:, -1] > 0)
        out[some] = np.divide(above, positives[:, -1], out=np.full(len(some), np.nan), where=both)
    return out


def patient_samples(patients, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the patient of each slice [N], and how often each comes in the sample itself and in each draw [1 + draws, P]."""
    names, patient = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    return patient, np.concatenate([np.ones((1, len(names)), int), draw_patients(len(names), draws, seed)])


def _parts(drawn: np.ndarray, slices: np.ndarray) -> list[np.ndarray]:
    return np.array_split(np.arange(len(drawn)), 1 + len(drawn) * len(slices) // MOST_WEIGHTS)


def holm(p) -> np.ndarray:
    """p values [N] corrected for their number (Holm 1979); NaN is not counted and stays."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")[: np.isfinite(p).sum()]
    out = np.full(len(p), np.nan)
    out[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return out


def mean_interval(values, patients, seed: int = 0, draws: int = 1000) -> tuple[float, float, float]:
    """2.5 % and 97.5 % of the mean of values [N] over a bootstrap of patients [N], and the mean -> (low, high, mean).

    A single patient has no interval (NaN).
    """
    names, patient = np.unique(patients.astype(str), return_inverse=True)
    if len(names) < 2:
        return float("nan"), float("nan"), float(values.mean())
    sums, counts = np.bincount(patient, values), np.bincount(patient)
    drawn = draw_patients(len(names), draws, seed)
    means = (drawn @ sums) / np.maximum(drawn @ counts, 1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high), float(values.mean())


def dice(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice of each slice of two outlines bool [N, R, R]; NaN where neither has a pixel."""
    total = found.sum(axis=(1, 2)) + true.sum(axis=(1, 2))
    return np.where(total > 0, 2 * (found & true).sum(axis=(1, 2)) / np.maximum(total, 1), np.nan)
