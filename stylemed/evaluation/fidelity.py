"""Distances between two sets of slices by 128 fixed features: nothing to download, nothing learned.

The Fréchet distance is known from Inception features (Heusel et al. 2017, "FID"). Those were learned on photographs,
have to be downloaded, and have 2048 dimensions: a few hundred training slices leave their covariance singular and the
distance mostly sampling error. The features here are written down beforehand, and few enough for the slices at hand.
Their distances are compared with each other and with `Reference.floor`, never with a FID.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stylemed.errors import BadInput
from stylemed.evaluation.inception import Inception
from stylemed.evaluation.memorization import grey, nearest, nearest_other_patient, thumbnails
from stylemed.networks.layers import downscale, upscale
from stylemed.training.loop import random_stream
from stylemed.training.run import Run, grid_png, write_safely

LAYOUT = 8  # side of the coarse image
CELLS, BANDS = 4, 4  # detail: 4 bands, each in 4x4 cells
FAINT = 0.01  # about one step of 8-bit grey: detail below it counts as none, so that the log of plain air is not -inf
LEAST_SCALE = 0.05  # a feature that hardly varies in train (air in a corner) must not outweigh all others
BATCH = 32
PAIRS = 8  # columns of neighbours.png
COLUMNS = ["kimg", "frechet", "frechet_floor", "kernel", "nearest", "nearest_train", "spread", "spread_train"]


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
    """The training slices' features, fixed before training; distances from them count every feature alike.

    Each feature is centred and divided by its standard deviation in train (at least 0.05).

    Args:
        train: features [N, 128] of the training slices.
        patients: N labels, or None where unknown.

    Attributes: `mean`, `scale` [128], `standardised` [N, 128]. BadInput for fewer than four slices (two halves of two).
    """

    def __init__(self, train, patients=None):
        train = np.asarray(train, np.float64)
        if len(train) < 4:
            raise BadInput(f"A reference needs at least four training slices, not {len(train)}.")
        self.mean = train.mean(axis=0)
        self.scale = train.std(axis=0).clip(LEAST_SCALE)
        self.standardised = self.standardise(train)
        self.patients = patients

    def standardise(self, x) -> np.ndarray:
        """Features [N, 128] -> the same in units of train's standard deviations."""
        return (np.asarray(x, np.float64) - self.mean) / self.scale

    def frechet(self, x) -> float:
        """`frechet_distance` of features [N, 128] from train."""
        return frechet_distance(self.standardise(x), self.standardised)

    def kernel(self, x) -> float:
        """`kernel_distance` of features [N, 128] from train."""
        return kernel_distance(self.standardise(x), self.standardised)

    def floor(self, seed: int = 0, splits: int = 8) -> float:
        """The yardstick: mean `frechet_distance` between two random halves of train.

        Halved by patient where patients are known (then it holds the difference between patients too), else by slice.
        A generator near it is as far from its patients as other patients are. Halves are smaller samples than the whole,
        so the floor lies a little high, and a generator that copies train comes out below it.
        """
        rng = np.random.default_rng(seed)
        labels = np.arange(len(self.standardised)) if self.patients is None else np.asarray(self.patients)
        found = []
        for _ in range(splits):
            first = _half(labels, rng)
            found.append(frechet_distance(self.standardised[first], self.standardised[~first]))
        return float(np.mean(found))


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
    - frechet, kernel: distances from train; frechet_floor: see `Reference.floor`
    - nearest, nearest_train: medians of `memorization.nearest` and of its yardstick. The first far below the second: copies.
    - spread, spread_train: standard deviation of a pixel over the images, mean over pixels. The first far below: few modes.

    - inception: Fréchet distance of Inception's features, only where its weights were given

    and `neighbours.png`: the eight generated slices nearest to a training slice, above those slices. The latents are the
    same each time, the stored noise maps are used, and no global random number is drawn: a run with and without this
    callback is the same, bit for bit. A resumed run replaces the rows from its checkpoint on.

    Args:
        dataset: the training slices: len(), `images(positions) -> [n, C, R, R]`; patients come from its `patients` or `store`.
        seed: of the latents and of the floor.
        count: images drawn each time. Distances of different counts are not comparable.
        batch: images drawn at a time.
        inception: file with the weights of Inception v3, if they are at hand (see `Inception`).

    BadInput for fewer than four slices.
    """

    def __init__(
        self,
        dataset,
        seed: int = 0,
        count: int = 500,
        batch: int = BATCH,
        inception: str | Path | None = None,
    ):
        self.dataset, self.seed, self.count, self.batch = dataset, seed, count, batch
        if count < 2 or batch < 1:
            raise BadInput(f"Distances need at least two images drawn, not {count} in batches of {batch}.")
        if len(dataset) < 4:
            raise BadInput(f"Distances need at least four training slices, not {len(dataset)}.")
        patients = _patients(dataset)
        positions = range(len(dataset))
        self.inception = Inception(inception) if inception else None
        found, self.train, spread, self.pooled = _survey(
            (dataset.images(list(positions[i : i + batch])) for i in positions[::batch]), self.inception
        )
        self.reference = Reference(found, patients)
        self.yardsticks = {
            "frechet_floor": self.reference.floor(seed),
            "nearest_train": float(np.median(nearest_other_patient(self.train, patients))),
            "spread_train": spread,
        }

    def __call__(self, run: Run, trainer) -> None:
        """Measure `trainer.averaged` as it is now, and write both files."""
        stream = random_stream(self.seed, 0, "distances")
        z = torch.randn(self.count, trainer.averaged.latent_size, generator=stream)
        found, small, spread, pooled = _survey(
            (self._draw(trainer, part) for part in z.split(self.batch)), self.inception
        )
        distances, positions = nearest(small, self.train)
        row = {
            "kimg": trainer.nimg / 1000,
            "frechet": self.reference.frechet(found),
            "kernel": self.reference.kernel(found),
            "nearest": float(np.median(distances)),
            "spread": spread,
            **self.yardsticks,
        }
        if pooled is not None:
            row["inception"] = frechet_distance(pooled, self.pooled)
        _write_row(run.path, row)
        closest = np.argsort(distances, kind="stable")[:PAIRS]
        pairs = [self._draw(trainer, z[closest]), self.dataset.images(positions[closest].tolist())]
        write_safely(run.path / "neighbours.png", grid_png(torch.cat(pairs), len(closest)), sync=False)

    @torch.no_grad()
    def _draw(self, trainer, z: Tensor) -> Tensor:
        generator = trainer.averaged
        w_plus = generator.broadcast(generator.mapping(z.to(trainer.device)))
        return generator.synthesis(w_plus, lod=trainer.now.lod).float().cpu().clamp(-1, 1)


def read_distances(run_path: str | Path) -> pd.DataFrame:
    """The rows that `Distances` wrote in a run folder, one per snapshot, oldest first; BadInput where there are none."""
    file = Path(run_path) / "distances.csv"
    if not file.is_file():
        raise BadInput(f"{run_path} has no distances.csv; train with on_snapshot=Distances(dataset).")
    try:
        table = pd.read_csv(file, float_precision="round_trip")
    except (ValueError, OSError):
        table = pd.DataFrame()
    if list(table.columns) not in (COLUMNS, [*COLUMNS, "inception"]):
        raise BadInput(f"{file} was not written by this program or is damaged; move it away.")
    return table


def _write_row(folder: Path, row: dict) -> None:
    """Add a row to distances.csv in place of any of the same kimg or later: those were measured before a resume."""
    table = pd.DataFrame([row])[[*COLUMNS, *(["inception"] if "inception" in row else [])]]
    file = folder / "distances.csv"
    if file.is_file():
        before = read_distances(folder)
        before = before[before.kimg < row["kimg"]]
        table = pd.concat([before, table]).sort_values("kimg") if len(before) else table
    write_safely(file, table.to_csv(index=False).encode())


def _survey(batches: Iterable[Tensor], inception=None) -> tuple[np.ndarray, Tensor, float, np.ndarray | None]:
    """Batches [n, C, R, R] -> features [N, 128], thumbnails [N, 1, 32, 32], spread, Inception's features [N, 2048] or None.

    Never all images in memory.
    """
    found, small, pooled, total, squares = [], [], [], 0.0, 0.0
    for images in batches:
        image = grey(images)
        found.append(_features(image))
        small.append(thumbnails(image))
        if inception is not None:
            pooled.append(inception(images))
        total = total + image.double().sum(dim=0)
        squares = squares + image.double().square().sum(dim=0)
    n = sum(map(len, found))
    variance = squares / n - (total / n) ** 2
    spread = variance.clamp(min=0).sqrt().mean().item()
    return torch.cat(found).numpy(), torch.cat(small), spread, np.concatenate(pooled) if pooled else None


def _patients(dataset) -> np.ndarray | None:
    """One label for each slice of a data set, None where unknown or where there is one patient only."""
    labels = getattr(dataset, "patients", None)
    if labels is None and hasattr(dataset, "store"):
        labels = dataset.store.slices["patient"].to_numpy()[dataset.rows]
    if labels is None or len(set(labels)) < 2:
        return None
    return np.asarray(labels)
