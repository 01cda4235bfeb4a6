"""How a training fares: while it runs, a row of distances from the slices at every snapshot, and a verdict on its variety."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from stylemed.data.store import SliceDataset
from stylemed.errors import BadInput
from stylemed.evaluation.fixed_features import BATCH, features_of_grey
from stylemed.evaluation.inception import Inception
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.memorization import grey, nearest, nearest_other_patient, thumbnails
from stylemed.evaluation.reference import LEAST_SLICES, Reference, frechet_distance
from stylemed.evaluation.variety import pairwise_dice
from stylemed.files import write_atomic
from stylemed.networks.layers import upscale
from stylemed.training.loop import random_stream
from stylemed.training.run import Run, grid_png

PAIRS = 8  # columns of neighbours.png
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
            where anything is chosen by these columns: it must have no part in making what it measures. Images smaller than the
            slices it learned from (those of the store) are brought up to their side.
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

    @classmethod
    def of_store(cls, dataset: SliceDataset, **others) -> "Distances | None":
        """Of the slices of a store that are trained on, with its test slices where they are enough; None for too few to train on.

        others: as for `Distances`.
        """
        if len(dataset) < LEAST_SLICES:
            return None
        test = SliceDataset(dataset.store, split="test") if len(dataset.store.select("test")) >= LEAST_SLICES else None
        return cls(dataset, test=test, **others)

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
        found.append(features_of_grey(image))
        small.append(thumbnails(image))
        if inception is not None:
            pooled.append(inception(images))
        if reader is not None:
            findings = reader.findings(_at_its_side(reader, images.float().mean(dim=1, keepdim=True)))
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


def _at_its_side(reader, images: Tensor) -> Tensor:
    """Images [n, 1, R, R] as large as the slices that the reader learned from, where these were larger."""
    side = getattr(getattr(reader, "provenance", None), "resolution", None) or 0
    return upscale(images, max(1, side // images.shape[-1]))


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
