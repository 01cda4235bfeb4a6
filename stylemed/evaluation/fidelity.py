"""Distances between two sets of slices by 128 fixed features: nothing to download, nothing learned.

The Fréchet distance is known from Inception features (Heusel et al. 2017, "FID"). Those were learned on photographs,
have to be downloaded, and have 2048 dimensions: a few hundred training slices leave their covariance singular and the
distance mostly sampling error. The features here are written down beforehand, and few enough for the slices at hand.
Their distances are compared with each other and with what real slices reach at the same sample size (`Reference`), never with
a FID.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from stylemed.errors import BadInput
from stylemed.evaluation.inception import Inception
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.memorization import grey, nearest, nearest_other_patient, thumbnails
from stylemed.evaluation.variety import covered, pairwise_dice
from stylemed.files import write_atomic
from stylemed.networks.layers import downscale, upscale
from stylemed.training.loop import random_stream
from stylemed.training.run import Run, grid_png

LAYOUT = 8  # side of the coarse image
CELLS, BANDS = 4, 4  # detail: 4 bands, each in 4x4 cells
FAINT = 0.01  # about one step of 8-bit grey: detail below it counts as none, so that the log of plain air is not -inf
LEAST_SCALE = 0.05  # a feature that hardly varies in train (air in a corner) must not outweigh all others
BATCH = 32
LEAST_SLICES = 4  # two halves of two
PAIRS = 8  # columns of neighbours.png
SPLITS = 8  # random halves that a number is averaged over
LIVER = 2  # class of liver in a reader's masks; tumor comes after it
READ = 1000  # training slices that a reader is asked about: a share is then known to 0.015, in seconds
FIRST_COLUMNS = ["kimg", "frechet", "frechet_floor", "kernel", "nearest", "nearest_train", "spread", "spread_train"]
COLUMNS = [  # of distances.csv; tables of before have the first ones only, and perhaps the last
    *FIRST_COLUMNS,
    *(
        "frechet_patients",
        "frechet_test",
        "frechet_test_floor",
        "recall",
        "precision",
        "recall_train",
        "nearest_distinct",
    ),
    *("liver_dice", "liver_dice_train", "tumor_share", "tumor_share_train", "tumor_px", "tumor_px_train", "inception"),
]


# -- features


def features(images, batch: int = BATCH) -> np.ndarray:
    """Images [N, C, R, R] in [-1, 1] -> float64 [N, 128]; R a power of two up to 1024, channels averaged to grey.

    - 64 of layout: the image averaged to 8×8. Says where things are, and how bright.
    - 64 of detail: how strong the structure of each size is in each of 4×4 cells. An octave is the image at one size less
      the same image at half that size (a Laplacian pyramid with 2×2 means, after Burt and Adelson 1983); its strength is
      the mean absolute value, in logarithms because strengths are skewed and ratios are what the eye sees, while the
      Fréchet distance takes every feature for normal. The octaves from R down to 8 make four bands, finest first; above
      64² neighbouring octaves share a band (the mean of their logarithms), so that no size of structure is left out.

    Images below 32² are brought up to it with nearest neighbours. BadInput for other shapes and values that are not finite.
    """
    images = torch.as_tensor(images)
    parts = [_features(grey(part)) for part in images.split(batch)]
    return torch.cat(parts).numpy()


def _features(image: Tensor) -> Tensor:
    """Grey images [n, 1, R, R] -> float64 [n, 128]."""
    side = image.shape[-1]
    layout = downscale(image, side // LAYOUT).flatten(1).double()  # (n, 64)
    octaves = []
    for _ in range(max(BANDS, side.bit_length() - LAYOUT.bit_length() + 1)):
        coarser = downscale(image)
        strength = downscale((image - upscale(coarser)).abs(), image.shape[-1] // CELLS)
        octaves.append((strength.flatten(1).double() + FAINT).log())  # (n, 16)
        image = coarser
    bands = [band.mean(dim=0) for band in torch.stack(octaves).tensor_split(BANDS)]
    return torch.cat([layout, *bands], dim=1)


# -- distances between two sets of features


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
        by_slice = [_two_sides(np.arange(n), rng) for _ in range(SPLITS)]
        by_patient = by_slice
        if patients is not None:
            by_patient = [_two_sides(np.asarray(patients), rng) for _ in range(SPLITS)]
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
                for _ in range(SPLITS)
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


# -- while training runs


class Distances:
    """An `on_snapshot` callback: how far the averaged generator is from the training slices, a row per snapshot.

    Writes `distances.csv` in the run folder, with the columns

    - kimg: thousands of images shown so far
    - frechet, frechet_floor, frechet_patients: Fréchet distance from train; of slices of the same patients; of those of different
      patients: see `Reference`. frechet_test, frechet_test_floor: the same from test patients
    - kernel: kernel distance from train
    - recall, precision, recall_train: share of training slices among the generated ones and the other way round, and what
      slices of different patients reach
    - nearest, nearest_train: medians of `memorization.nearest` and of its yardstick. The first far below the second: copies.
      nearest_distinct: different training slices that are nearest to some image, as a share of the images
    - spread, spread_train: standard deviation of a pixel over the images, mean over pixels. The first far below: few modes; it
      says nothing when it is high, since blur raises it
    - liver_dice, liver_dice_train: see `variety.pairwise_dice`; of images as the reader outlines them, of slices of different
      patients as the store does. The first far above: one anatomy
    - tumor_share, tumor_share_train: share in which the reader finds a tumor; tumor_px, tumor_px_train: median size in pixels of
      those. What it finds in train is its own answer too, so that its errors are on both sides
    - inception: Fréchet distance of Inception's features, of all images from all of train

    What cannot be had (no reader, no labels, no test, no Inception) is empty. Beside it, `neighbours.png`: the eight generated
    slices nearest to a training slice, above those slices. The latents are the same each time, the stored noise maps are used,
    and no global random number is drawn: a run with and without this callback is the same, bit for bit. A resumed run replaces
    the rows from its checkpoint on. Where `verdict` comes to another conclusion than before, it is printed. The slices are read
    at the first call, so that a mistake of the training itself is told before.

    Args:
        dataset: the training slices: len(), `images(positions) -> [n, C, R, R]`; patients come from its `patients` or `store`,
            livers from `store.labels`.
        seed: of the latents and of all yardsticks.
        count: images drawn each time. Distances of different counts are not comparable.
        batch: images drawn at a time.
        inception: file with the weights of Inception v3, if they are at hand (see `Inception`).
        reader: has `findings(images [n, 1, R, R]) -> Findings`: a Labeller. Not the Judge
            where anything is chosen by these columns: it must have no part in making what it measures.
        test: slices of other patients, as `dataset`.

    BadInput for fewer than four slices in either, and for a reader of slices of another window, frame or resolution.
    """

    def __init__(
        self,
        dataset,
        seed: int = 0,
        count: int = 500,
        batch: int = BATCH,
        inception: str | Path | None = None,
        reader=None,
        test=None,
    ):
        self.dataset, self.seed, self.count, self.batch, self.reader = dataset, seed, count, batch, reader
        self.test, self.said = test, None
        if count < 2 or batch < 1:
            raise BadInput(f"Distances need at least two images drawn, not {count} in batches of {batch}.")
        if len(dataset) < LEAST_SLICES:
            raise BadInput(f"Distances need at least four training slices, not {len(dataset)}.")
        if test is not None and len(test) < LEAST_SLICES:
            raise BadInput(f"Distances need at least four test slices or none, not {len(test)}.")
        if reader is not None:
            check_reader(reader, getattr(dataset, "store", None))
        self.inception = Inception(inception) if inception else None

    @cached_property
    def train(self) -> "_Survey":
        """What is measured of the training slices themselves."""
        return _survey(_batches(self.dataset, range(len(self.dataset)), self.batch), self.inception)

    @cached_property
    def reference(self) -> Reference:
        test = self.test
        others = None if test is None else _survey(_batches(test, range(len(test)), self.batch)).features
        return Reference(self.train.features, _patients(self.dataset), self.count, self.seed, others)

    @cached_property
    def yardsticks(self) -> dict[str, float]:
        """The columns that are the same in every row."""
        dataset, count, seed, reader = self.dataset, self.count, self.seed, self.reader
        patients = _patients(dataset)
        some = np.random.default_rng(seed).permutation(len(dataset))[:READ]
        read = _survey(_batches(dataset, some.tolist(), self.batch), reader=reader) if reader is not None else None
        livers, chosen = _livers(dataset, some[:count]), None if patients is None else patients[some[:count]]
        return {
            "frechet_floor": self.reference.floor(),
            "frechet_patients": self.reference.between_patients(),
            "frechet_test_floor": self.reference.floor_test(),
            "recall_train": self.reference.recall_between_patients(),
            "nearest_train": float(np.median(nearest_other_patient(self.train.small, patients))),
            "spread_train": self.train.spread,
            "liver_dice_train": float("nan") if livers is None else pairwise_dice(livers, chosen, seed=seed),
            "tumor_share_train": read.tumor_share if read else float("nan"),
            "tumor_px_train": read.tumor_px if read else float("nan"),
        }

    def __call__(self, run: Run, trainer) -> None:
        """Measure `trainer.averaged` as it is now, write both files, and say so where the verdict changes."""
        stream = random_stream(self.seed, 0, "distances")
        z = torch.randn(self.count, trainer.averaged.latent_size, generator=stream)
        made = _survey((self._draw(trainer, part) for part in z.split(self.batch)), self.inception, self.reader)
        distances, positions = nearest(made.small, self.train.small)
        row = {
            "kimg": trainer.nimg / 1000,
            "frechet": self.reference.frechet(made.features),
            "frechet_test": self.reference.frechet_test(made.features),
            "kernel": self.reference.kernel(made.features),
            "recall": self.reference.recall(made.features),
            "precision": self.reference.precision(made.features),
            "nearest": float(np.median(distances)),
            "nearest_distinct": len(np.unique(positions)) / self.count,
            "spread": made.spread,
            "liver_dice": float("nan") if made.livers is None else pairwise_dice(made.livers, seed=self.seed),
            "tumor_share": made.tumor_share,
            "tumor_px": made.tumor_px,
            "inception": float("nan") if made.pooled is None else frechet_distance(made.pooled, self.train.pooled),
            **self.yardsticks,
        }
        _write_row(run.path, row)
        closest = np.argsort(distances, kind="stable")[:PAIRS]
        pairs = [self._draw(trainer, z[closest]), self.dataset.images(positions[closest].tolist())]
        write_atomic(run.path / "neighbours.png", grid_png(torch.cat(pairs), len(closest)), sync=False)
        conclusion, sentence = _conclude(read_distances(run.path))
        if sentence and conclusion != self.said:
            tqdm.write(f"{run.path.name}: {sentence}")
        self.said = conclusion

    @torch.no_grad()
    def _draw(self, trainer, z: Tensor) -> Tensor:
        generator = trainer.averaged
        w_plus = generator.broadcast(generator.mapping(z.to(trainer.device)))
        return generator.synthesis(w_plus, lod=trainer.now.lod).float().cpu().clamp(-1, 1)


def read_distances(run_path: str | Path) -> pd.DataFrame:
    """The rows that `Distances` wrote in a run folder, one per snapshot, oldest first; BadInput where there are none.

    Tables of before lack columns; those are empty.
    """
    file = Path(run_path) / "distances.csv"
    if not file.is_file():
        raise BadInput(f"{run_path} has no distances.csv; train with on_snapshot=Distances(dataset).")
    try:
        table = pd.read_csv(file, float_precision="round_trip")
    except (ValueError, OSError):
        table = pd.DataFrame()
    if not set(FIRST_COLUMNS) <= set(table.columns) <= set(COLUMNS):
        raise BadInput(f"{file} was not written by this program or is damaged; move it away.")
    return table.reindex(columns=COLUMNS)


def _write_row(folder: Path, row: dict) -> None:
    """Add a row to distances.csv in place of any of the same kimg or later: those were measured before a resume."""
    rows = [row]
    if (folder / "distances.csv").is_file():
        before = read_distances(folder)
        rows = before[before.kimg < row["kimg"]].to_dict("records") + rows
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_atomic(folder / "distances.csv", table.to_csv(index=False).encode())


# -- the verdict

# Thresholds are shares of what slices of different patients reach. They come from 500 slices of K new phantom patients in the
# place of generated ones, against 60 others at 64² (recall_train 0.26, liver_dice_train 0.52): K = 1 has recall 0.00 and liver Dice
# 0.73, 10 recall 0.04, 30 recall 0.21, 75 recall 0.56; precision was 0.25 to 0.33 for all of them.
EARLY = 5.0  # kimg: before, even the runs that turn out well draw blurs
LAST = 3  # snapshots that a verdict rests on: one alone may be odd
ONE_LIVER = 0.3  # of the way from the slices' liver Dice to 1, where all livers are the same
LIKE_SLICES = 0.1  # of that way: six standard deviations of what 500 slices drawn again give
LOST_RECALL = 0.25  # of the slices' recall: ten anatomies do not reach it
ENOUGH_RECALL = 0.6  # of the slices' recall, which random halves of 60 patients have within 0.2
LOOKS_REAL = 0.25  # of the slices' precision; slices blurred over 3 pixels have 0.03. Noise has a recall of 1, so this comes first


def verdict(table) -> str | None:
    """One sentence on variety, from the last three rows of `read_distances`; None before 5 kimg and where there is no recall.

    - "settled on one anatomy" (or few): livers overlap by more than 30 % of the way from the slices' Dice to 1; or the images
      look like slices, and yet recall is below 25 % of that of slices of different patients
    - "do not look like slices yet": precision is below 25 % of theirs
    - "healthy": neither, recall is at least 60 % of theirs, and livers overlap by less than 10 % of that way, where known
    - "do not reach the variety of slices yet": anything between
    """
    return _conclude(table)[1]


def _conclude(table) -> tuple[str | None, str | None]:
    """The conclusion in a word, and its sentence."""
    if not {"kimg", "recall", "recall_train"} <= set(table.columns):
        return None, None
    table = table.reindex(columns=COLUMNS)
    rows = table[(table["kimg"] >= EARLY) & table["recall"].notna() & (table["recall_train"] > 0)]
    if not len(rows):
        return None, None
    last = rows.iloc[-LAST:].mean()
    numbers = f"recall {last.recall:.2f} and precision {last.precision:.2f} where slices of different patients have "
    numbers += f"{last.recall_train:.2f} (at {rows['kimg'].iloc[-1]:.0f} thousand images)."
    alike = last.liver_dice - last.liver_dice_train  # NaN: not known, and every comparison below is false
    if np.isfinite(alike):
        dice = f"livers overlap with Dice {last.liver_dice:.2f} where those of different patients have"
        numbers = f"{dice} {last.liver_dice_train:.2f}, {numbers}"
    room, recall = 1 - last.liver_dice_train, last.recall / last.recall_train
    looks_real = last.precision >= LOOKS_REAL * last.recall_train
    if alike > ONE_LIVER * room or (looks_real and recall < LOST_RECALL):
        return "settled", f"The images have settled on one anatomy, or few: {numbers}"
    if not looks_real:
        return "unlike", f"The images do not look like slices yet: {numbers}"
    if recall < ENOUGH_RECALL or alike > LIKE_SLICES * room:
        return "less", f"The images do not reach the variety of slices yet: {numbers}"
    return "healthy", f"Variety is healthy: {numbers}"


# -- what the numbers are made from


@dataclass
class _Survey:
    """Of N images: features [N, 128], thumbnails [N, 1, 32, 32], spread, Inception's features [N, 2048], what a reader found."""

    features: np.ndarray
    small: Tensor
    spread: float
    pooled: np.ndarray | None = None
    livers: np.ndarray | None = None
    tumor_share: float = float("nan")
    tumor_px: float = float("nan")


def _survey(batches: Iterable[Tensor], inception=None, reader=None) -> _Survey:
    """Go through batches [n, C, R, R] once; never all images in memory."""
    found, small, pooled, livers, tables, total, squares = [], [], [], [], [], 0.0, 0.0
    for images in batches:
        image = grey(images)
        found.append(_features(image))
        small.append(thumbnails(image))
        if inception is not None:
            pooled.append(inception(images))
        if reader is not None:
            findings = reader.findings(images.float().mean(dim=1, keepdim=True))
            livers.append(findings.masks >= LIVER)
            tables.append(findings.table[["tumor", "tumor_px"]])
        total = total + image.double().sum(dim=0)
        squares = squares + image.double().square().sum(dim=0)
    n = sum(map(len, found))
    variance = squares / n - (total / n) ** 2
    survey = _Survey(torch.cat(found).numpy(), torch.cat(small), variance.clamp(min=0).sqrt().mean().item())
    survey.pooled = np.concatenate(pooled) if pooled else None
    if tables:
        table = pd.concat(tables)
        survey.livers, survey.tumor_share = np.concatenate(livers), float(table["tumor"].mean())
        survey.tumor_px = float(table["tumor_px"][(table["tumor"] == 1) & (table["tumor_px"] > 0)].median())
    return survey


def _batches(dataset, positions, batch: int) -> Iterable[Tensor]:
    return (dataset.images(list(positions[i : i + batch])) for i in range(0, len(positions), batch))


def _livers(dataset, positions: np.ndarray) -> np.ndarray | None:
    """Liver masks bool [n, R, R] as the store has them, tumors included; None where there is no store with labels."""
    labels = getattr(getattr(dataset, "store", None), "labels", None)
    return None if labels is None else np.asarray(labels[np.asarray(dataset.rows)[positions]]) > 0


def _patients(dataset) -> np.ndarray | None:
    """One label for each slice of a data set, None where unknown or where there is one patient only."""
    labels = getattr(dataset, "patients", None)
    if labels is None and hasattr(dataset, "store"):
        labels = dataset.store.slices["patient"].to_numpy()[dataset.rows]
    if labels is None or len(set(labels)) < 2:
        return None
    return np.asarray(labels)
