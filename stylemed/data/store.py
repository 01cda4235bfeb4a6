"""SliceStore -> datasets in [-1, 1].

A SliceStore is a folder: `hu.npy` int16 [N, R, R], `labels.npy` uint8 [N, R, R] (0, 1 liver, 2 tumor), `slices.csv`
(one row per slice) and `store.json` (how it was made). It keeps intensities as they are; the window is applied on
reading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stylemed.data.layouts import SPLITS
from stylemed.errors import BadInput
from stylemed.provenance import Provenance, short_hash
from stylemed.statistics import evenly_spaced

FORMAT, VERSION = "stylemed slice store", 1
COLUMNS = ["case", "patient", "split", "modality", "phase", "z", "z_mm", "liver_px", "tumor_px", "tumor_known"]
MORE_COLUMNS = ["kernel", "noise_hu", "mm_px", "twin_of"]  # not in stores of before
TEXTS = ["case", "patient", "split", "modality", "phase", "kernel", "twin_of"]  # also where they look like numbers
EMPTY_SPLIT = "give splits in volumes.csv, another --seed or more patients to stylemed prepare"  # the cure


LEAST_PX = 25  # of a tumor that counts apart in `describe`
LEAST_LIVER = 0.01  # share of the image; a smaller one is a tip: it says nothing of anatomy, no tumor has room in it


def largest_px(mask) -> int:
    """Pixels of the largest piece of a mask [Y, X]; 0 where it is empty."""
    from scipy import ndimage

    pieces, n = ndimage.label(mask)
    return int(np.bincount(pieces.ravel())[1:].max()) if n else 0


def disc_across(pixels):
    """Diameter of a disc of so many pixels, in pixels."""
    return np.sqrt(4 / np.pi * pixels)


@dataclass(frozen=True)
class Window:
    """Interval of intensities (HU for CT) that is mapped to [-1, 1] and back."""

    lo: float
    hi: float

    @property
    def per_unit(self) -> float:
        """Intensities (HU for CT) in a step of 1 in [-1, 1]."""
        return (self.hi - self.lo) / 2

    def to_unit(self, hu) -> np.ndarray:
        """Intensities of any shape -> float32, clipped to [-1, 1]."""
        unit = np.asarray(hu, np.float32) * np.float32(2 / (self.hi - self.lo))
        unit -= np.float32((self.hi + self.lo) / (self.hi - self.lo))
        return np.clip(unit, -1, 1, out=unit if unit.ndim else None)

    def to_hu(self, unit) -> np.ndarray:
        """[-1, 1] -> intensities, float32 of the same shape."""
        return (np.asarray(unit, np.float32) + 1) * np.float32(self.per_unit) + np.float32(self.lo)


def window_of(metadata: dict) -> Window | None:
    """The Window of a network's images, by the metadata of its weights: of several the first, None if unknown."""
    return next(iter(windows_of(metadata).values()), None)


def windows_of(metadata: dict) -> dict[str, Window]:
    """{modality: Window} of a network's images, by the metadata of its weights."""
    return {name: Window(**ends) for name, ends in (metadata.get("windows") or {}).items()}


class SliceStore:
    """An opened store; `.hu` and `.labels` stay on disk until rows are read.

    Attributes: path, hu [N, R, R], labels [N, R, R], slices (pandas table, one row per slice), resolution, windows
    {modality: Window}, window (of the only or first modality), info (store.json), digest (inputs and settings).
    """

    def __init__(self, path, info, hu, labels, slices):
        self.path, self.info, self.hu, self.labels, self.slices = path, info, hu, labels, slices
        self.resolution: int = info["resolution"]
        self.windows = {modality: Window(*ends) for modality, ends in info["windows"].items()}
        self.window = self.windows.get("CT") or next(iter(self.windows.values()))
        self.digest: str = info["digest"]

    @classmethod
    def open(cls, path) -> SliceStore:
        """Raises BadInput for a folder that is no store, of another version, or not whole."""
        import pandas as pd

        path = Path(path)
        cure = "make it again with stylemed prepare"
        if not (path / "store.json").is_file():
            raise BadInput(f"{path} is no slice store (it has no store.json); make one with stylemed prepare")
        try:
            info = json.loads((path / "store.json").read_text())
            version, known = info["version"], info["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path / 'store.json'} is damaged; {cure}") from None
        if not known or version != VERSION:
            raise BadInput(
                f"{path} is a slice store of version {version}, this program reads version {VERSION}; {cure}"
            )
        for name in ("hu.npy", "labels.npy", "slices.csv"):
            if not (path / name).is_file():
                raise BadInput(f"{path} lacks {name}; {cure}")
        try:
            hu = np.load(path / "hu.npy", mmap_mode="r")
            labels = np.load(path / "labels.npy", mmap_mode="r")
            slices = pd.read_csv(path / "slices.csv", dtype=dict.fromkeys(TEXTS, str), keep_default_na=False)
            shape = (len(slices), info["resolution"], info["resolution"])
            whole = hu.shape == labels.shape == shape and (hu.dtype, labels.dtype) == (np.int16, np.uint8)
            whole = whole and set(COLUMNS) <= set(slices.columns) and bool(info["windows"]) and "digest" in info
        except (ValueError, OSError, KeyError, TypeError, EOFError):
            whole = False
        if not whole:
            raise BadInput(f"{path} is damaged (its files do not fit together); {cure}")
        if "twin_of" not in slices:
            slices["twin_of"] = ""
        return cls(path, info, hu, labels, slices)

    def __len__(self) -> int:
        return len(self.slices)

    def select(self, split=None, tumor=None, modality=None, twins: bool | str = False) -> np.ndarray:
        """Row numbers. `tumor` True: known to hold tumor, False: known to hold none, None: all, unknown ones too.

        `twins`: False leaves them out, True takes them in, "only" takes nothing else.
        """
        t = self.slices
        if split is not None and split not in SPLITS:
            raise BadInput(f"unknown split {split!r}; choose train, judge or test")
        if twins not in (False, True, "only"):
            raise BadInput(f"unknown choice of twins {twins!r}; choose False, True or 'only'")
        twin = (t["twin_of"] != "").to_numpy()
        mask = np.ones(len(t), bool) if twins is True else twin if twins == "only" else ~twin
        if split is not None:
            mask &= (t["split"] == split).to_numpy()
        if modality is not None:
            mask &= (t["modality"] == modality).to_numpy()
        if tumor is not None:
            mask &= ((t["tumor_known"] == 1) & ((t["tumor_px"] > 0) == bool(tumor))).to_numpy()
        return np.flatnonzero(mask)

    def twin_rows(self, rows) -> np.ndarray:
        """For each row the row of its twin: the slice at the same z of the case that is a twin of its case; -1 where none is."""
        t = self.slices
        twins = self.select(twins="only")
        at = dict(zip(zip(t["twin_of"].iloc[twins], t["z"].iloc[twins], strict=True), twins, strict=True))
        asked = t.iloc[np.atleast_1d(np.asarray(rows, dtype=np.int64))]
        return np.array([at.get(key, -1) for key in zip(asked["case"], asked["z"], strict=True)], dtype=np.int64)

    @property
    def provenance(self) -> Provenance:
        """Where the store comes from, with all its patients."""
        settings = self.info.get("settings", {})
        frame, mm = settings.get("frame", "image"), settings.get("mm")
        return Provenance(
            kind="store",
            format=self.info["version"],
            windows={name: [window.lo, window.hi] for name, window in self.windows.items()},
            frame=frame if mm is None else f"{frame}, {mm:g} mm a pixel",
            resolution=self.resolution,
            store=self.digest,
            patients=self._patients(range(len(self))),
            seed=settings.get("seed"),
        )

    def some_rows(self, split: str | None = None, count: int | None = None) -> np.ndarray:
        """Rows of a split (None: of all), `count` of them evenly spaced (None: all); BadInput where there are none."""
        rows = np.asarray(self.select(split))
        if not len(rows):
            raise BadInput(f"{self.path} has no slice of the split {split}.")
        return rows if count is None else rows[evenly_spaced(len(rows), count)]

    def learned_from(self, rows, split: str | None = None, shown=None) -> Provenance:
        """Provenance of something that learns from `rows`, of the given split.

        shown: the rows as often as they are shown, for the share of those with tumor; None: each once.
        """
        told = self.slices.iloc[rows if shown is None else shown]
        tumor = told["tumor_px"][told["tumor_known"] == 1] > 0
        prevalence = round(float(tumor.mean()), 4) if len(tumor) else None
        return replace(
            self.provenance, kind=None, patients=self._patients(rows), split=split, seed=None, prevalence=prevalence
        )

    def _patients(self, rows) -> dict[str, list[str]]:
        """{patient: short hashes of the files of all its cases} of the patients in `rows`."""
        files = {entry["case"]: [f["sha256"] for f in entry["files"]] for entry in self.info.get("inputs", [])}
        wanted = sorted(set(self.slices["patient"].to_numpy()[rows]))
        cases = self.slices.drop_duplicates("case").groupby("patient")["case"]
        hashes = {name: [sha for case in mine for sha in files.get(case, [])] for name, mine in cases}
        return {name: sorted({short_hash(sha) for sha in hashes[name] if sha != "missing"}) for name in wanted}

    def images(self, rows) -> np.ndarray:
        """Rows -> float32 [n, 1, R, R] in [-1, 1], each through the window of its modality."""
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        hu = self.hu[rows]
        out = np.empty((len(rows), 1, *hu.shape[1:]), np.float32)
        modality = self.slices["modality"].to_numpy()[rows]
        for name, window in self.windows.items():
            out[modality == name, 0] = window.to_unit(hu[modality == name])
        return out

    def describe(self) -> str:
        """What is in the store, as a table for the terminal."""
        t = self.slices
        lines = [f"{self.path}: {len(t)} slices of {self.resolution} x {self.resolution} pixels, store {self.digest}"]
        lines += [f"window {name} [{w.lo:g}, {w.hi:g}]" for name, w in self.windows.items()]
        lines.append(f"{'split':<7}{'patients':>9}{'cases':>7}{'slices':>8}{'tumor':>8}{'no tumor':>10}{'unknown':>9}")
        own = t.iloc[self.select()]
        for name in (*SPLITS, "all"):
            part = own if name == "all" else own[own["split"] == name]
            if not len(part):
                continue
            known = part["tumor_known"] == 1
            tumor = part["tumor_px"] > 0
            lines.append(
                f"{name:<7}{part['patient'].nunique():>9}{part['case'].nunique():>7}{len(part):>8}"
                f"{(known & tumor).sum():>8}{(known & ~tumor).sum():>10}{(~known).sum():>9}"
            )
        tumors = self.prevalence()
        if len(tumors):
            shown = tumors.rename_axis("tumors").reset_index()
            lines += ["", *shown.to_string(index=False, float_format="%.1f", na_rep="-").splitlines(), ""]
        twins = t.iloc[self.select(twins="only")]
        if len(twins):
            lines.append(f"beside these {len(twins)} slices of {twins['case'].nunique()} twins without their tumors")
        left = self.info.get("left_out", {})
        lines += [f"left out {len(left)} cases:"] if left else []
        lines += [f"  {name}: {why}" for name, why in left.items()]
        notes = self.info.get("case_notes", {})
        lines += [f"odd about {len(notes)} cases:"] if notes else []
        lines += [f"  {name}: {'; '.join(found)}" for name, found in list(notes.items())[:20]]
        lines += [f"  … and {len(notes) - 20} more, in store.json"] if len(notes) > 20 else []
        return "\n".join(lines)

    def prevalence(self):
        """How common and how large tumors are where they are known, twins left out: a table with a row per split, and "all".

        Columns: patients with and without; % of the slices that hold a tumor, and one of at least 25 pixels; median diameter of
        the largest tumor of such slices in pixels, and in mm (NaN where no header is to be believed).
        """
        import pandas as pd

        own = self.slices.iloc[self.select()]
        own = own[own["tumor_known"] == 1]
        own = own.assign(largest=[largest_px(self.labels[i] == 2) if px else 0 for i, px in own["tumor_px"].items()])
        rows, measured = {}, set(self.info.get("mm_known", []))
        for name in (*SPLITS, "all"):
            part = own if name == "all" else own[own["split"] == name]
            if not len(part):
                continue
            sick = part.groupby("patient")["tumor_px"].max() > 0
            ill = part[part["tumor_px"] > 0]
            largest = ill["largest"].to_numpy()
            across, in_mm = disc_across(largest), ill["case"].isin(measured).to_numpy()
            rows[name] = {
                "patients with": int(sick.sum()),
                "without": int((~sick).sum()),
                "% of slices": 100 * len(ill) / len(part),
                f"% with {LEAST_PX} px": 100 * (largest >= LEAST_PX).sum() / len(part),
                "median px": np.median(across) if len(ill) else np.nan,
                "median mm": np.median((across * ill["mm_px"])[in_mm]) if in_mm.any() else np.nan,
            }
        return pd.DataFrame.from_dict(rows, orient="index")


class SliceDataset:
    """Slices of one split as torch tensors in [-1, 1]; `select` takes what SliceStore.select takes.

    resolution: a smaller side than the store's; slices are then averaged over squares. BadInput where it does not divide that.
    """

    channels = 1

    def __init__(self, store: SliceStore, split: str | None = "train", resolution: int | None = None, **select):
        self.store = store
        self.rows = store.select(split, **select)
        self.resolution = resolution or store.resolution
        if not 0 < self.resolution <= store.resolution or store.resolution % self.resolution:
            raise BadInput(
                f"{store.path} holds slices of {store.resolution}², which cannot be averaged to {resolution}²."
            )
        # What travels with weights trained on these slices.
        windows = {name: {"lo": window.lo, "hi": window.hi} for name, window in store.windows.items()}
        provenance = replace(store.learned_from(self.rows, split), resolution=self.resolution).to_dict()
        self.metadata = {"windows": windows, "store": store.digest, "split": split, "provenance": provenance}
        if split is not None and not len(store.select(split, twins=True)):
            raise BadInput(f"{store.path} holds no slice of split {split}; {EMPTY_SPLIT}")
        if not len(self.rows):
            raise BadInput(
                f"{store.path} holds no slice of split {split or 'any'} with {select or 'any label'}; "
                "see what it holds with stylemed inspect"
            )

    @property
    def tumors(self) -> np.ndarray:
        """bool [N]: known to hold a tumor."""
        return np.isin(self.rows, self.store.select(tumor=True, twins=True))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        """float32 tensor [1, R, R]."""
        return self.images([i])[0]

    def images(self, positions):
        """Positions in the dataset -> float32 tensor [n, 1, R, R]."""
        import torch

        images = self.store.images(self.rows[np.asarray(positions, dtype=np.int64)])
        side = self.resolution
        if side < self.store.resolution:
            images = images.reshape(len(images), 1, side, -1, side, self.store.resolution // side).mean(axis=(3, 5))
        return torch.from_numpy(images)
