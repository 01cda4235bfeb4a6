"""A direction in W that a linear classifier found, how well it separates unseen patients, and the walk along it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from stylemed.errors import BadInput
from stylemed.files import load_tensors, save_tensors
from stylemed.latent.codes import Codes
from stylemed.latent.mixing import layers_of, synthesize
from stylemed.provenance import Provenance, belong_together
from stylemed.statistics import patient_auc, within_patient_auc

COMPONENTS = (8, 32, 128)  # principal components the classifier may see: few patients, many latent axes
STRENGTHS = tuple(10.0 ** np.arange(-3.0, 2.0))  # C of the logistic regression: small = strong shrinkage
MOST_CHOICE = 4000  # slices that components and C are chosen on
FEWEST_PATIENTS = 3  # with each class: one to hold out, two to choose the shrinkage on


@dataclass
class Direction:
    """Where the class changes in W.

    Attributes:
        vector: unit vector, float32 [latent], pointing from "without" to "with".
        offset: w·vector at the decision boundary.
        step: unit of a walk: the standard deviation of w·vector over the codes it was found on.
        label: the class, such as "tumor".
        layers: "all", or the layers whose mean style was classified; a walk changes these.
        orthogonal_to: columns of the table whose linear trend in W was taken out of the vector.
        split: the split it was found on.
        cv: patient-wise cross-validation: auc, low, high (95 % interval by patient), fold_auc, folds, patients,
            patients_with, patients_without, slices, slices_with; and over pairs of slices of the same patient: within,
            within_low, within_high, patients_both (who has slices of either class).
        test: the same numbers on the held-out test patients, or None where there are none with both classes.
        chosen: components and C that cross-validation inside the training patients chose.
        info: digests of store and encoder, copied from the codes, and the provenance with the patients it was found on.
        log_odds: what a step adds to the log odds of the class, by the classifier itself; None where none was asked.
    """

    vector: np.ndarray
    offset: float
    step: float
    label: str
    layers: str | list[int] = "all"
    orthogonal_to: list[str] = field(default_factory=list)
    split: str | None = "train"
    cv: dict = field(default_factory=dict)
    test: dict | None = None
    chosen: dict = field(default_factory=dict)
    info: dict = field(default_factory=dict)
    log_odds: float | None = None

    def score(self, w_plus) -> np.ndarray:
        """Signed distance to the decision boundary in steps, [...], of codes [..., L, latent]; > 0 is "with"."""
        w = mean_style(np.asarray(w_plus, dtype=np.float64), self.layers)
        return (w @ self.vector.astype(np.float64) - self.offset) / self.step

    @property
    def provenance(self) -> Provenance:
        """Where it comes from; its patients are those it was found on."""
        return Provenance.from_dict(self.info.get("provenance"))

    def save(self, path: Path | str) -> Path:
        """Write one .safetensors file: the vector, and everything else as JSON in its metadata."""
        rest = {name: value for name, value in asdict(self).items() if name != "vector"}
        return save_tensors(path, "direction", {"vector": self.vector}, {"direction": rest})

    @classmethod
    def load(cls, path: Path | str) -> Direction:
        """Read a direction; BadInput for a missing or damaged file, another kind of file or another version."""
        tensors, header = load_tensors(path, "direction")
        return cls(vector=tensors["vector"], **header["direction"])


def labels_of(table: pd.DataFrame, label: str) -> np.ndarray:
    """1, 0 or NaN (unknown) for every row [N]: "tumor", or a column of the table that holds 0, 1 or nothing."""
    if label == "tumor":
        known = table["tumor_known"].to_numpy() == 1
        return np.where(known, (table["tumor_px"] > 0).to_numpy().astype(float), np.nan)
    if label not in table:
        raise BadInput(f"no label {label!r}: use tumor, or a column of the codes that holds 0 and 1")
    nothing = table[label].isna() | (table[label].astype(str) == "")  # slices.csv is read with its empty places as text
    values = pd.to_numeric(table[label], errors="coerce").to_numpy(dtype=float)
    if not np.isin(values[~np.isnan(values)], (0, 1)).all() or (np.isnan(values) & ~nothing).any():
        raise BadInput(f"column {label!r} holds other values than 0 and 1: make a column that holds only these")
    return values


@threadpool_limits.wrap(limits=1)  # its matrices are small: two threads wait for each other, up to fifty times as long
def find_direction(
    codes: Codes,
    label: str = "tumor",
    *,
    split: str | None = "train",
    layers: str | list[int] = "all",
    orthogonal_to: tuple[str, ...] | list[str] = (),
    chosen: dict | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Direction:
    """Find where a class changes in W with a linear classifier, and measure it on patients it has not seen.

    Only codes of `split` (None: all) whose label is known are used. The features are the mean style over `layers`,
    scaled by one number for all axes (a scale per axis would bend the geometry of W: a hardly used axis would
    dominate the vector) and reduced to principal components; logistic regression with balanced classes follows.
    Number of components and shrinkage are chosen by an inner patient-wise cross-validation, anew in each outer fold,
    so that no held-out patient takes part in any choice; of more than MOST_CHOICE slices, they are chosen on as many of
    whole patients drawn from `seed`, and the classifier is fitted to all. AUC counts pairs of slices within one fold, because
    scores of different folds come from different classifiers.
    `orthogonal_to`: columns such as "z_mm" or "body_px"; the vector is made orthogonal to the direction in which
    each rises in W (as InterFaceGAN does, Shen et al. 2020, section 3.3), inside the folds too.
    `chosen`: components and C of another direction (`Direction.chosen`), so that nothing is chosen here: much faster, for many
    permuted labels beside one direction.
    BadInput: fewer than three patients with each class, an unknown label or column.
    """
    inside = codes if split is None else codes.select(codes.find(split))
    y = labels_of(inside.table, label)
    inside, y = inside.select(~np.isnan(y)), y[~np.isnan(y)].astype(int)
    patients = inside.table["patient"].astype(str).to_numpy()
    if few := too_few_patients(codes, label, split):
        raise BadInput(few)
    x = mean_style(inside.w_plus.astype(np.float64), layers)
    trends = _columns(inside.table, orthogonal_to)

    held_out, folds = _folds(y, patients, folds, seed)
    scores = np.empty(len(y))
    for fold in range(folds):
        train, valid = held_out != fold, held_out == fold
        vector, *_ = _fit(x[train], y[train], patients[train], trends[train], seed, chosen)
        scores[valid] = x[valid] @ vector
    vector, offset, slope, chosen = _fit(x, y, patients, trends, seed, chosen)
    step = float(np.std(x @ vector))

    direction = Direction(
        vector=vector.astype(np.float32),
        offset=float(offset),
        step=step,
        label=label,
        layers=layers if isinstance(layers, str) else [int(layer) for layer in layers],
        orthogonal_to=list(orthogonal_to),
        split=split,
        cv=_summary(scores, y, patients, held_out, seed) | {"folds": folds},
        chosen=chosen,
        info=_found_on(codes, patients, split, seed),
        log_odds=slope * step,
    )
    if split != "test":
        direction.test = _held_out(codes, direction, set(patients), seed)
    return direction


def too_few_patients(codes: Codes, label: str = "tumor", split: str | None = "train") -> str | None:
    """Why no direction can be found on this split (None: all), in one sentence; None where patients of each class are enough."""
    table = codes.table if split is None else codes.table.iloc[codes.find(split)]
    y, patients = labels_of(table, label), table["patient"].astype(str).to_numpy()
    counts = [len(np.unique(patients[y == value])) for value in (1, 0)]
    if min(counts) >= FEWEST_PATIENTS:
        return None
    return (
        f"{'all splits' if split is None else f'split {split!r}'} has {counts[0]} patients with {label} and {counts[1]} without "
        f"where it is known, but a direction needs {FEWEST_PATIENTS} of each: add labelled patients or choose another split"
    )


def random_direction(codes: Codes, like: Direction, seed: int = 0) -> Direction:
    """A direction that knows nothing of the class: what any walk of that length does, to compare with.

    Drawn with the covariance of all codes of the split that `like` was found on; its step is its own standard deviation.
    """
    inside = codes if like.split is None else codes.select(codes.find(like.split))
    x = mean_style(inside.w_plus.astype(np.float64), like.layers)
    centred = x - x.mean(axis=0)
    vector = _unit(np.random.default_rng(seed).standard_normal(len(x)) @ centred)
    return Direction(
        vector=vector.astype(np.float32),
        offset=float(np.mean(x @ vector)),
        step=float(np.std(x @ vector)),
        label="random",
        layers=like.layers,
        split=like.split,
        info=_found_on(codes, inside.table["patient"], like.split, seed),
    )


def _found_on(codes: Codes, patients, split: str | None, seed: int) -> dict:
    """The info of a direction that was found on some patients of these codes."""
    known = codes.provenance.patients
    if not codes.info.get("generated"):  # behind samples stand all patients that their generator has seen
        known = {name: known.get(name, []) for name in sorted(set(map(str, patients)))}
    made = replace(codes.provenance, kind="direction", patients=known, split=split, seed=seed)
    return {**codes.info, "provenance": made.to_dict()}


def steps_to(w_plus, direction: Direction, target: float) -> np.ndarray:
    """Steps [B] that bring each of the codes [B, L, latent] to the score `target`, by the latent classifier alone.

    0 for a code that is as far already: a walk to a positive target never goes back, nor one to a negative forward.
    """
    away = target - direction.score(w_plus)
    return np.maximum(away, 0) if target > 0 else np.minimum(away, 0)


def walk(w_plus, direction: Direction, steps, layers=None) -> torch.Tensor:
    """Codes [B, L, latent] moved by each of S steps -> [B, S, L, latent]; a step of 0 changes nothing.

    steps: [S], or [B, S] for each code its own. One step is `direction.step` in W, so it raises `direction.score` by 1.
    layers: "all", a level or a list of layers that take part; None: those the direction was found on.
    """
    w_plus = torch.as_tensor(w_plus)  # [B, L, latent]
    steps = torch.as_tensor(steps, dtype=w_plus.dtype)  # [S] or [B, S]
    chosen = layers_of(direction.layers if layers is None else layers, w_plus.shape[-2])
    active = torch.zeros(w_plus.shape[-2], dtype=w_plus.dtype)
    active[chosen] = direction.step
    vector = torch.as_tensor(direction.vector, dtype=w_plus.dtype)
    move = steps[..., None, None] * active[:, None] * vector  # [S, L, latent] or [B, S, L, latent]
    return w_plus[:, None] + move.to(w_plus.device)


def traverse(generator, w_plus, direction: Direction, steps, layers=None) -> torch.Tensor:
    """Images along the walk: codes [B, L, latent] -> [B, S, C, R, R] about [-1, 1], on the CPU.

    BadInput for a direction that was found in the latent space of other weights than the generator's.
    """
    belong_together(
        getattr(generator, "provenance", Provenance()),
        direction.provenance,
        names=("the generator", "the direction"),
        same_store=False,
        cure="find the direction on codes of this generator",
    )
    return synthesize(generator, walk(w_plus, direction, steps, layers))


def mean_style(w_plus: np.ndarray, layers="all") -> np.ndarray:
    """Mean over a level or a list of layers: [..., L, latent] -> [..., latent]; BadInput for a level without layers."""
    chosen = layers_of(layers, w_plus.shape[-2])
    if not chosen:
        raise BadInput(f"the level {layers!r} has no layers in this model: choose another level")
    return w_plus[..., chosen, :].mean(axis=-2)


def _columns(table: pd.DataFrame, names) -> np.ndarray:
    if isinstance(names, str):
        raise BadInput(f"orthogonal_to is a list of columns: give [{names!r}]")
    for name in names:
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            raise BadInput(f"cannot be orthogonal to {name!r}: give number columns of the codes, such as z_mm")
    return table[list(names)].to_numpy(dtype=float).reshape(len(table), -1)  # [N, columns]


def _folds(y: np.ndarray, patients: np.ndarray, folds: int, seed: int) -> tuple[np.ndarray, int]:
    """Fold number of every slice; a patient is in one fold only; not more folds than patients with either class."""
    folds = min([folds] + [len(np.unique(patients[y == value])) for value in (0, 1)])
    held_out = np.zeros(len(y), dtype=int)
    if folds < 2:  # a fold of large patients may leave a single one of a class
        return held_out, folds
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, valid) in enumerate(splitter.split(y, y, patients)):
        held_out[valid] = fold
    return held_out, folds


class _Reduced:
    """Codes scaled by one number and turned into principal components; gradients can be turned back into W."""

    def __init__(self, x: np.ndarray, seed: int):
        self.scale = x.std(axis=0).mean() or 1.0
        most = min(max(COMPONENTS), *x.shape)
        self.pca = PCA(most, svd_solver="full").fit(x / self.scale)
        self.sizes = sorted({min(size, most) for size in COMPONENTS})

    def __call__(self, x: np.ndarray, size: int) -> np.ndarray:
        return self.pca.transform(x / self.scale)[:, :size]

    def back(self, coefficients: np.ndarray) -> np.ndarray:
        return coefficients @ self.pca.components_[: len(coefficients)] / self.scale


def _classifier(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)


def _choose(x: np.ndarray, y: np.ndarray, patients: np.ndarray, seed: int) -> tuple[int, float]:
    """Components and C with the least log loss in patient-wise cross-validation over these slices alone."""
    held_out, folds = _folds(y, patients, 4, seed)
    if folds < 2:
        return COMPONENTS[0], STRENGTHS[0]
    loss: dict[tuple[int, float], float] = {}
    for fold in range(folds):
        train, valid = held_out != fold, held_out == fold
        if len(np.unique(y[train])) < 2 or not valid.any():
            continue
        reduced = _Reduced(x[train], seed)
        weight = np.where(y[valid] == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
        for size in reduced.sizes:
            fitted, wanted = reduced(x[train], size), reduced(x[valid], size)
            for strength in STRENGTHS:
                chance = _classifier(strength).fit(fitted, y[train]).predict_proba(wanted)[:, 1]
                worth = log_loss(y[valid], chance, labels=[0, 1], sample_weight=weight, normalize=False)
                loss[size, strength] = loss.get((size, strength), 0.0) + float(worth)
    return min(loss, key=lambda key: (loss[key], key)) if loss else (COMPONENTS[0], STRENGTHS[0])


def _some(patients: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Positions of at most so many slices, of whole patients by chance; all where there are no more."""
    names, patient, counts = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = order[np.cumsum(counts[order]) <= max(most, counts.max())]
    return np.arange(len(patients)) if len(patients) <= most else np.flatnonzero(np.isin(patient, chosen))


def _fit(x, y, patients, trends, seed: int, chosen: dict | None = None) -> tuple[np.ndarray, float, float, dict]:
    """Unit vector in W, offset of the boundary along it, log odds for a length of 1 along it, and what was chosen."""
    if chosen:
        size, strength = chosen["components"], chosen["C"]
    else:
        few = _some(patients, MOST_CHOICE, seed)
        size, strength = _choose(x[few], y[few], patients[few], seed)
    reduced = _Reduced(x, seed)
    size = min(size, max(reduced.sizes))
    model = _classifier(strength).fit(reduced(x, size), y)
    gradient = reduced.back(model.coef_[0])  # of the log odds, in W
    vector, slope = _unit(gradient), np.linalg.norm(gradient)
    # log odds = gradient·(w - mean) + intercept = 0 at the boundary
    offset = vector @ (reduced.pca.mean_ * reduced.scale) - model.intercept_[0] / slope
    if trends.shape[1]:
        vector = _remove(vector, x, trends, reduced, size)
        along = (x @ vector)[:, None]
        spread = along.std() or 1.0
        line = _classifier(1.0).fit((along - along.mean()) / spread, y)
        offset, slope = along.mean() - spread * line.intercept_[0] / line.coef_[0, 0], line.coef_[0, 0] / spread
    return vector, float(offset), float(slope), {"components": int(size), "C": float(strength)}


def _remove(vector, x, trends, reduced: _Reduced, size: int) -> np.ndarray:
    """The vector without its part along the directions in which the columns rise in W."""
    rises = []
    for column in trends.T:
        present = ~np.isnan(column)
        if present.sum() > 2 and np.ptp(column[present]) > 0:
            model = Ridge(alpha=1.0).fit(reduced(x[present], size), column[present])
            rises.append(_unit(reduced.back(model.coef_)))
    if not rises:
        return vector
    basis, _ = np.linalg.qr(np.stack(rises, axis=1))  # [latent, columns]
    return _unit(vector - basis @ (basis.T @ vector))


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise BadInput("the codes do not differ, so no direction can be found: encode other slices")
    return vector / length


def _summary(scores, y, patients, held_out, seed: int) -> dict:
    auc, low, high = patient_auc(scores, y, patients, held_out, seed=seed)
    within, within_low, within_high = within_patient_auc(scores, y, patients, seed=seed)
    by_fold = [patient_auc(scores[held_out == f], y[held_out == f], patients[held_out == f], draws=1)[0]
               for f in np.unique(held_out)]  # fmt: skip
    return {
        "auc": auc,
        "low": low,
        "high": high,
        "fold_auc": [None if np.isnan(value) else value for value in by_fold],
        "patients": len(np.unique(patients)),
        "patients_with": len(np.unique(patients[y == 1])),
        "patients_without": len(np.unique(patients[y == 0])),
        "slices": len(y),
        "slices_with": int(y.sum()),
        "within": within,
        "within_low": within_low,
        "within_high": within_high,
        "patients_both": len(np.intersect1d(patients[y == 1], patients[y == 0])),
    }


def _held_out(codes: Codes, direction: Direction, seen: set[str], seed: int) -> dict | None:
    """AUC on test patients, none of whom was seen; None where not both classes are known there."""
    test = codes.select(codes.find("test"))
    y = labels_of(test.table, direction.label)
    patients = test.table["patient"].astype(str).to_numpy()
    keep = ~np.isnan(y) & ~np.isin(patients, list(seen))
    if len(np.unique(y[keep])) < 2:
        return None
    scores = direction.score(test.w_plus[keep])
    summary = _summary(scores, y[keep].astype(int), patients[keep], np.zeros(keep.sum()), seed)
    return {name: value for name, value in summary.items() if name != "fold_auc"}
