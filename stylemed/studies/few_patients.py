"""What classifiers of few patients learn from and are measured on: their slices at a ratio of classes, and painted tumors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from stylemed.data.store import LEAST_LIVER, disc_across, largest_px
from stylemed.data.truth import present, truth
from stylemed.errors import BadInput
from stylemed.evaluation.classification import LARGE
from stylemed.statistics import chance


def labelled_patients(store, modality: str = "CT") -> list[str]:
    """Names of the `train` patients with a slice to learn from: one with a tumor that counts, or known to have none."""
    rows = store.select("train", modality=modality)
    known = present(truth(store, rows)).notna().to_numpy()
    return sorted(set(store.slices["patient"].to_numpy()[rows[known]]))


def few_rows(store, patients, ratio: float, modality: str = "CT", seed: int = 0) -> np.ndarray:
    """Rows of these patients' `train` slices, with `ratio` tumor-free ones for each with a tumor.

    Of the class that is in excess slices are left out: every patient keeps one, by chance, before any keeps a second one, and so
    on. Tumors that are kept at a ratio are kept at a smaller one. Slices whose state is unknown, or with smaller tumors only than
    3 pixels across, have no part. BadInput where a class would be empty.
    """
    rows = store.select("train", modality=modality)
    rows = rows[store.slices["patient"].iloc[rows].isin(list(patients)).to_numpy()]
    table = store.slices.iloc[rows][["case", "z", "patient"]].assign(
        row=rows, state=present(truth(store, rows)).to_numpy()
    )
    table["by_chance"] = [chance(f"{case} {z}", seed) for case, z in zip(table["case"], table["z"], strict=True)]
    table = table.sort_values("by_chance")
    table["turn"] = table.groupby(["patient", "state"]).cumcount()
    kept = {state: part.sort_values(["turn", "by_chance"])["row"].to_numpy() for state, part in table.groupby("state")}
    ill, free = kept.get(1.0, rows[:0]), kept.get(0.0, rows[:0])
    count = min(len(ill), int(len(free) / ratio))
    if ratio < 1 or not count:
        raise BadInput(
            f"{len(patients)} patients of {store.path} have {len(ill)} slices with a tumor and {len(free)} without, which do not "
            f"make 1 to {ratio:g}; take more patients, or a ratio from 1 up."
        )
    return np.sort(np.concatenate([ill[:count], free[: round(count * ratio)]]))


@dataclass(frozen=True)
class TestSlices:
    """Slices of `test`: images [N, 1, R, R], patients [N], tumor [N] (0/1), and whether one is of at least 3 pixels across."""

    images: torch.Tensor
    patients: np.ndarray
    y: np.ndarray
    large: np.ndarray

    @classmethod
    def of(cls, store, modality: str) -> TestSlices:
        rows = store.select("test", modality=modality)
        true = truth(store, rows)
        rows = rows[true["tumor"].notna()]
        if true["tumor"].dropna().nunique() < 2:
            raise BadInput(
                f"{store.path} has no {modality} slices of test with a tumor and without; give it more patients."
            )
        return cls.at(store, rows)

    @classmethod
    def at(cls, store, rows) -> TestSlices:
        """Slices of these rows, whose state is known."""
        true, images = truth(store, rows), torch.from_numpy(store.images(rows))
        y, large = true["tumor"].to_numpy().astype(int), (present(true) == 1).to_numpy()
        return cls(images, store.slices["patient"].to_numpy()[rows], y, large)

    def counted(self) -> pd.DataFrame:
        masks = {f"tumor of {LARGE}": self.large, "smaller tumor": (self.y == 1) & ~self.large, "no tumor": self.y == 0}
        rows = [{"slices are": k, "slices": m.sum(), "patients": len(set(self.patients[m]))} for k, m in masks.items()]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Few:
    """The training patients and their labelled slices."""

    store: object
    names: list[str]
    ratio: float
    modality: str
    seed: int

    @cached_property
    def rows(self) -> np.ndarray:
        return few_rows(self.store, self.names, self.ratio, self.modality, self.seed)

    @cached_property
    def y(self) -> np.ndarray:
        return (self.store.slices["tumor_px"].to_numpy()[self.rows] > 0).astype(int)

    @property
    def missing(self) -> int:
        """Tumors that are missing for balance."""
        return int((self.y == 0).sum() - (self.y == 1).sum())

    def pool(self) -> Pool:
        return self.some(np.arange(len(self.rows)))

    def some(self, where) -> Pool:
        rows = self.rows[where]
        return Pool(
            torch.from_numpy(self.store.images(rows)), self.y[where], self.store.slices["patient"].to_numpy()[rows]
        )

    def turns(self, where, count: int) -> np.ndarray:
        """`count` of some positions by chance, all of them before any comes again."""
        return np.resize(np.random.default_rng(self.seed).permutation(where), count)

    def tumors(self) -> pd.DataFrame:
        """`tumors_of` the training slices."""
        ill = self.rows[self.y == 1]
        known = tumors_of(self.store.images(ill), self.store.labels[ill])
        if not len(known):
            raise BadInput(
                f"{self.store.path} has no training tumor with liver around it to make others by; take more patients."
            )
        return known

    def livers(self) -> np.ndarray:
        """Positions of tumor-free slices with room for a tumor, for every tumor that is missing."""
        large = self.store.slices["liver_px"].to_numpy()[self.rows] >= LEAST_LIVER * self.store.resolution**2
        if not (large & (self.y == 0)).any():
            raise BadInput(f"{self.store.path} has no tumor-free training slice with a liver that a tumor fits in.")
        return self.turns(np.flatnonzero(large & (self.y == 0)), self.missing)


@dataclass(frozen=True)
class Pool:
    """Images to learn from: y [N] 0/1; patients [N]: behind each, "" where it was made from none by name."""

    images: torch.Tensor
    y: np.ndarray
    patients: np.ndarray

    def part(self, where) -> Pool:
        return Pool(self.images[where], self.y[where], self.patients[where])

    def share(self, share: float) -> Pool:
        """The first images of each class, so large a share of them."""
        parts = [np.flatnonzero(self.y == state) for state in (0, 1)]
        return self.part(np.concatenate([part[: round(share * len(part))] for part in parts]))

    def __add__(self, other: Pool) -> Pool:
        both = [(getattr(self, name), getattr(other, name)) for name in ("y", "patients")]
        return Pool(torch.cat([self.images, other.images]), *(np.concatenate(pair) for pair in both))


def paint_discs(images, livers, across, contrast, rng: np.random.Generator) -> np.ndarray:
    """Images [N, 1, R, R] with a soft disc inside each liver [N, R, R] (bool): the cheap rival of a generated tumor.

    across [N]: diameter at half of the contrast, in pixels; contrast [N]: what is added in its middle, in units of the images. The
    place is drawn among those where the disc has room, else it is the deepest. What would lie outside of the liver is not painted.
    """
    images = np.array(images, dtype=np.float32)
    y, x = np.indices(images.shape[-2:])
    for image, liver, wide, step in zip(images[:, 0], np.asarray(livers, bool), across, contrast, strict=True):
        depth = ndimage.distance_transform_edt(np.pad(liver, 1))[1:-1, 1:-1]
        room = np.argwhere(depth >= min(wide / 2, depth.max()))
        centre = room[rng.integers(len(room))]
        away = np.hypot(y - centre[0], x - centre[1])
        image += step * np.clip((wide / 2 - away) / 2 + 0.5, 0, 1) * liver
    return images.clip(-1, 1)


def tumors_of(images, labels) -> pd.DataFrame:
    """What is to be painted, from slices with tumors: across (pixels, of the largest), and contrast to the rest of the liver.

    images [N, 1, R, R], labels [N, R, R] (1 liver, 2 tumor); slices without either are left out.
    """
    grey, labels = np.asarray(images)[:, 0], np.asarray(labels)
    rows = []
    for image, mask in zip(grey, labels, strict=True):
        if (mask == 2).any() and (mask == 1).any():
            contrast = image[mask == 2].mean() - image[mask == 1].mean()
            rows.append({"across": disc_across(largest_px(mask == 2)), "contrast": contrast})
    return pd.DataFrame(rows, columns=["across", "contrast"])
