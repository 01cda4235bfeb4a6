"""Distances between two sets of slices by their features, and what they are measured against: the training slices.

The Fréchet distance is known from Inception features ("FID"). With those of `fixed_features` distances are compared with each
other and with what real slices reach at the same sample size (`Reference`), never with a FID.
"""

import numpy as np

from stylemed.errors import BadInput
from stylemed.evaluation.variety import covered

LEAST_SCALE = 0.05  # a feature that hardly varies in train (air in a corner) must not outweigh all others
LEAST_SLICES = 4  # two halves of two
HALVINGS = 8  # random halves that a number is averaged over


def frechet_distance(a, b) -> float:
    """Squared Fréchet distance of the normal distributions fitted to features [N, D] and [M, D] (Heusel 2017, eq. 6).

    ‖mean_a - mean_b‖² + tr(C_a + C_b - 2 (C_a C_b)^½), at least 0. Even two samples of one distribution are not at 0, the
    less so the smaller they are: compare only samples of the same size, and with `Reference.floor`.
    BadInput for fewer than two rows, different D, and values that are not finite.
    """
    a, b = _pair(a, b)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # C_a^½
    # C_a C_b has the eigenvalues of C_a^½ C_b C_a^½, which is symmetric: no complex numbers.
    overlap = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    apart = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(max(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap, 0.0))


def kernel_distance(a, b) -> float:
    """Squared maximum mean discrepancy of [N, D] and [M, D] with the kernel (x·y / D + 1)³ (Bińkowski 2018, "KID").

    Without bias at any sample size: 0 on average for two samples of one distribution, so a single value may be negative.
    BadInput as for `frechet_distance`.
    """
    a, b = _pair(a, b)
    n, m = len(a), len(b)
    within = _kernel_sum(a, a, skip_self=True) / (n * (n - 1)) + _kernel_sum(b, b, skip_self=True) / (m * (m - 1))
    return float(within - 2 * _kernel_sum(a, b) / (n * m))


def _kernel_sum(x: np.ndarray, y: np.ndarray, skip_self: bool = False, chunk: int = 1024) -> float:
    def kernel(products):
        return (products / x.shape[1] + 1) ** 3

    total = sum(kernel(x[i : i + chunk] @ y.T).sum() for i in range(0, len(x), chunk))
    return total - kernel(np.square(x).sum(axis=1)).sum() if skip_self else total


def _pair(a, b) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise BadInput(f"Two tables of the same features are needed, not {list(a.shape)} and {list(b.shape)}.")
    if min(len(a), len(b)) < 2:
        raise BadInput(f"A distance needs at least two images on each side, not {len(a)} and {len(b)}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BadInput("Some features are not finite.")
    return a, b


class Reference:
    """What generated slices are measured against: the training slices' features, fixed before training.

    Each feature is centred and divided by its standard deviation in train (at least 0.05), so that all count alike. The Fréchet
    distance is too high by an amount, and recall too low, that depend on sample size. So all are measured between samples of
    one size, `size`, and their yardsticks too; each is the mean over 8 random splits of train, in two ways:

    - by slice: two disjoint sets of slices of the same patients. `frechet`: generated ones from either set; `floor`: one set from
      the other. Other slices of the same patients score at the floor, copies a little below.
    - by patient: two sets of slices of different patients. `between_patients`: one from the other; `recall` and `precision` of the
      generated ones with either, `recall_between_patients`: of one with the other. A generator that knows the anatomy of people,
      and not only of these patients, lies between floor and `between_patients`.

    `frechet_test` is the distance from the test patients, `floor_test` that of as many training slices from them.

    Args:
        train: features [N, 128] of the training slices.
        patients: N labels, or None where unknown; then slices are halved where patients would be, and `between_patients` is NaN.
            So it is where a split leaves less than a quarter of the slices on one side.
        count: generated slices in a sample.
        seed: of the splits, and of the generated slices that take part where there are more than `size`.
        test: features [M, 128] of slices of other patients, or None; then distances to them are NaN.

    Attributes: `mean`, `scale` [128], `standardised` [N, 128]; `size` = count, or fewer where half of train, or of its patients,
    has no more. BadInput for fewer than four slices (two halves of two).
    """

    def __init__(self, train, patients=None, count: int = 500, seed: int = 0, test=None):
        train = np.asarray(train, np.float64)
        if len(train) < LEAST_SLICES:
            raise BadInput(f"A reference needs at least four training slices, not {len(train)}.")
        self.mean = train.mean(axis=0)
        self.scale = train.std(axis=0).clip(LEAST_SCALE)
        self.standardised = self.standardise(train)
        self.seed = seed
        rng = np.random.default_rng(seed)
        n = len(train)
        by_slice = [_two_sides(np.arange(n), rng) for _ in range(HALVINGS)]
        by_patient = by_slice
        if patients is not None:
            by_patient = [_two_sides(np.asarray(patients), rng) for _ in range(HALVINGS)]
        self.knows_patients = patients is not None and _smallest(by_patient) >= max(2, n // 4)
        by_patient = by_patient if self.knows_patients else by_slice
        self.size = min(count, _smallest(by_slice), _smallest(by_patient))
        self.by_slice, self.by_patient = (
            [tuple(self.standardised[side[: self.size]] for side in sides) for sides in splits]
            for splits in (by_slice, by_patient)
        )
        self.by_test = []
        if test is not None:
            test = self.standardise(test)
            size = min(count, n, len(test))
            self.by_test = [
                (self.standardised[rng.permutation(n)[:size]], test[rng.permutation(len(test))[:size]])
                for _ in range(HALVINGS)
            ]

    def standardise(self, x) -> np.ndarray:
        """Features [N, 128] -> the same in units of train's standard deviations."""
        return (np.asarray(x, np.float64) - self.mean) / self.scale

    def frechet(self, x) -> float:
        """Mean `frechet_distance` of `size` of the features x [N, 128] from each set of `size` training slices."""
        return self._mean(frechet_distance, x, [side for sides in self.by_slice for side in sides])

    def floor(self) -> float:
        """The same of training slices from other training slices, of the same patients."""
        return float(np.mean([frechet_distance(*sides) for sides in self.by_slice]))

    def between_patients(self) -> float:
        """The same of training slices from those of different patients; NaN where patients are unknown."""
        if not self.knows_patients:
            return float("nan")
        return float(np.mean([frechet_distance(*sides) for sides in self.by_patient]))

    def frechet_test(self, x) -> float:
        """Mean `frechet_distance` of x from as many test slices; NaN without test."""
        return self._mean(frechet_distance, x, [test for _, test in self.by_test])

    def floor_test(self) -> float:
        """The same of training slices from as many test slices; NaN without test."""
        return float(np.mean([frechet_distance(*sides) for sides in self.by_test])) if self.by_test else float("nan")

    def recall(self, x) -> float:
        """Share of training slices within the manifold of `size` of the features x [N, 128]; see `variety.covered`."""
        return self._mean(
            lambda made, real: covered(real, made), x, [side for sides in self.by_patient for side in sides]
        )

    def precision(self, x) -> float:
        """Share of x within the manifold of `size` training slices."""
        return self._mean(covered, x, [side for sides in self.by_patient for side in sides])

    def recall_between_patients(self) -> float:
        """The yardstick of `recall` and `precision`: the share of slices within the manifold of slices of other patients."""
        return float(np.mean([(covered(a, b) + covered(b, a)) / 2 for a, b in self.by_patient]))

    def kernel(self, x) -> float:
        """`kernel_distance` of features [N, 128] from all of train; it has no bias that sizes could change."""
        return kernel_distance(self.standardise(x), self.standardised)

    def _mean(self, measure, x, sides: list[np.ndarray]) -> float:
        """Mean of measure(x, side), each time with as many rows of x as the side has, drawn anew."""
        if not sides:
            return float("nan")
        x, rng = self.standardise(x), np.random.default_rng(self.seed)
        if len(x) < len(sides[0]):
            raise BadInput(f"{len(sides[0])} images are needed, to be compared with as many slices, not {len(x)}.")
        return float(np.mean([measure(x[rng.permutation(len(x))[: len(side)]], side) for side in sides]))


def _two_sides(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two disjoint sides, in random order; rows of one label stay together."""
    first = _half(labels, rng)
    return rng.permutation(np.flatnonzero(first)), rng.permutation(np.flatnonzero(~first))


def _smallest(splits) -> int:
    return min(len(side) for sides in splits for side in sides)


def _half(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask of about half the rows; rows of one label stay together."""
    names, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    chosen, balance = np.zeros(len(names), bool), 0
    for i in rng.permutation(len(names)):  # each label joins the side that is smaller so far
        chosen[i] = balance <= 0
        balance += sizes[i] if chosen[i] else -sizes[i]
    return chosen[inverse]
