"""Classifiers of slices against each other: AUC, sensitivity, what a difference is worth in patients, shared errors.

Each is several classifiers that differ in their seed alone. Intervals (95 %) and p come from a bootstrap of patients in which the
seeds are drawn anew too; all are measured on the same samples, so that differences are paired. Where seeds differ much, p of
as few as five of them is somewhat too small.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stylemed.data.truth import LEAST_ACROSS
from stylemed.statistics import auc_draws, holm, patient_samples, sensitivity_draws

SPECIFICITY = 0.9
LARGE = f"{LEAST_ACROSS:g} pixels or more"  # tumors that count; all: smaller ones too
DRAWS = 2000  # of the bootstrap
AUC = "AUC"
MEASURES = {AUC: auc_draws, f"sensitivity at {100 * SPECIFICITY:g} % specificity": sensitivity_draws}
Drawn = dict[tuple[str, str], np.ndarray]


def drawn_numbers(scores: np.ndarray, y, large, patients, seed: int = 0, draws: int = DRAWS, folds=None) -> Drawn:
    """{(tumors asked for, measure): [S, 1 + draws]}: the number of each of S classifiers, then those of bootstrap samples.

    Samples are of patients. scores [S, N] of N slices; y [N] 1 with a tumor; large [N]: with one that counts; patients [N]; folds
    [N]: the scores of each come from classifiers of its own, so only the AUC is told, over pairs of one fold.
    """
    out = {}
    for tumors, use in {LARGE: large | (y == 0), "all": np.full(len(y), True)}.items():
        how = dict(seed=seed, draws=draws) | ({} if folds is None else {"folds": folds[use]})
        for what, measure in MEASURES.items() if folds is None else [(AUC, auc_draws)]:
            each = [measure(one[use], y[use], patients[use], **how) for one in scores]
            out[tumors, what] = np.stack(each)
    return out


def in_words(found: Drawn) -> pd.DataFrame:
    """A row for each of `drawn_numbers`: mean of the seeds with its interval, and how far the seeds lie apart."""
    rows = []
    for (tumors, what), values in found.items():
        each = values[:, 0]
        spread = {"lowest seed": each.min(), "highest seed": each.max()}
        spread["sd of seeds"] = each.std(ddof=1) if len(each) > 1 else np.nan
        rows.append({"tumors": tumors, "what": what, **_interval(_mean_of_seeds(values)), **spread, "seeds": len(each)})
    return pd.DataFrame(rows)


def differences(found: Mapping[str, Drawn], first: str = "real") -> pd.DataFrame:
    """Of all others from `first`. p: two-sided, twice the rarer sign among the samples; p_holm: corrected for their number."""
    rows = []
    for name in found.keys() - {first}:
        for (tumors, what), values in found[name].items():
            away = _mean_of_seeds(values - found[first][tumors, what])
            drawn = away[1:][np.isfinite(away[1:])]
            rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
            p = min(1.0, 2 * (1 + rarer) / (1 + len(drawn)))
            rows.append({"arm": name, "tumors": tumors, "what": what, **_interval(away), "p": p})
    order = {name: number for number, name in enumerate(found)}
    table = pd.DataFrame(rows, columns=["arm", "tumors", "what", "value", "low", "high", "p"])
    table = table.sort_values("arm", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return corrected(table)


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `differences` with p_holm: their p corrected for the number of rows that ask the same of the same tumors."""
    return table.assign(p_holm=table.groupby(["tumors", "what"])["p"].transform(lambda p: holm(p.to_numpy())))


def worth(found: Mapping[str, Drawn], counts, on_curve: list[Drawn]) -> pd.DataFrame:
    """How many real patients reach the same AUC, by the curve of real slices alone at these counts of patients.

    The curve is made to rise, and read between its points by the logarithm of patients. It ends where it ends: `beyond` is -1 below
    its first point and 1 above its last one.
    """
    rows = []
    for name, each in found.items():
        for (tumors, what), values in each.items():
            if what == AUC:
                risen = np.maximum.accumulate([_mean_of_seeds(point[tumors, what]) for point in on_curve])
                mine = _mean_of_seeds(values)
                number = np.array([_reached(auc, curve, counts) for auc, curve in zip(mine, risen.T, strict=True)])
                beyond = int(mine[0] > risen[-1, 0]) - int(mine[0] < risen[0, 0])
                rows.append({"arm": name, "tumors": tumors, **_interval(number), "beyond": beyond})
    return pd.DataFrame(rows).rename(columns={"value": "patients"})


def agreement(judge: np.ndarray, scores: Mapping[str, np.ndarray], y, large, patients, seed: int = 0) -> pd.DataFrame:
    """Errors of a judge (its scores [N]) and of classifiers ({arm: [S, N]}) on the same slices, all cut at SPECIFICITY.

    Shares of wrong answers, and Cohen's kappa of being wrong: 1 where both fail on the same slices, 0 where they do so by chance.
    By class, since who fails more often on tumors shares more errors with another such one without any reason in the slices.
    """
    use = large | (y == 0)
    y = y[use]
    patient, drawn = patient_samples(patients[use], DRAWS, seed)

    def wrong(one) -> np.ndarray:
        cut = np.quantile(one[use][y == 0], SPECIFICITY, method="inverted_cdf")
        return (one[use] > cut) != (y == 1)

    of_judge, rows = wrong(judge), []
    for name, each in scores.items():
        errors = np.stack([wrong(one) for one in each])
        for among, where in {"tumors": y == 1, "no tumor": y == 0}.items():
            kappa = _mean_of_seeds(np.stack([_kappa(of_judge, one, where, patient, drawn) for one in errors]))
            shares = {"judge wrong": of_judge[where].mean(), "classifier wrong": errors[:, where].mean()}
            shares["both wrong"] = (errors & of_judge)[:, where].mean()
            rows.append({"arm": name, "among": among, "slices": int(where.sum()), **shares, **_interval(kappa)})
    return pd.DataFrame(rows).rename(columns={"value": "kappa"})


def _mean_of_seeds(values: np.ndarray) -> np.ndarray:
    """[S, 1 + draws] -> [1 + draws]: the mean of the classifiers; in bootstrap samples, of S - 1 of them drawn anew.

    With S of them the spread of the mean would come out too small by (S - 1) / S (Efron and Tibshirani 1993, section 5.3).
    """
    picked = np.random.default_rng(0).integers(len(values), size=(max(len(values) - 1, 1), values.shape[1]))
    means = np.take_along_axis(values, picked, axis=0).mean(axis=0)
    means[0] = values[:, 0].mean()
    return means


def _interval(draws: np.ndarray) -> dict[str, float]:
    low, high = np.nanquantile(draws[1:], (0.025, 0.975)) if np.isfinite(draws[1:]).any() else (np.nan, np.nan)
    return {"value": draws[0], "low": low, "high": high}


def _reached(auc: float, risen: np.ndarray, counts) -> float:
    """The smallest number of patients at which the curve reaches the AUC."""
    rises = np.concatenate([[True], np.diff(risen) > 0])  # a flat part is reached at its first point
    return float(np.exp(np.interp(auc, risen[rises], np.log(counts)[rises])))


def _kappa(a, b, where, patient, drawn) -> np.ndarray:
    """Cohen's kappa of two errors bool [N], in each sample of patients [draws, P] (scikit-learn's takes one sample at a time)."""
    cells = [np.bincount(patient[where], cell[where], drawn.shape[1]) for cell in (a & b, a, b)]
    n = drawn @ np.bincount(patient[where], minlength=drawn.shape[1])
    both, first, second = (drawn @ cell / np.maximum(n, 1) for cell in cells)
    same, expected = 1 - first - second + 2 * both, first * second + (1 - first) * (1 - second)
    return np.divide(same - expected, 1 - expected, out=np.full(len(n), np.nan), where=(expected < 1 - 1e-12) & (n > 0))
