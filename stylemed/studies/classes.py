"""Data sets with and without tumors, by each way of making them: are they what was asked for, and how much do they vary?

The labeller has a part in making them; the judge measures. Held-out slices are read by the same judge and stand beside every
number: what it says of them is its own error.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from stylemed.data.preparing import prepare
from stylemed.data.store import SliceStore, disc_across, largest_px
from stylemed.data.truth import LEAST_ACROSS
from stylemed.errors import BadInput
from stylemed.evaluation.edits import corrected_change
from stylemed.evaluation.fixed_features import features
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.memorization import nearest, nearest_other_patient
from stylemed.evaluation.reference import Reference
from stylemed.evaluation.variety import covered, pairwise_dice
from stylemed.latent.direction import Direction
from stylemed.latent.generation import class_images, write_class_images
from stylemed.provenance import refuse_seen
from stylemed.statistics import dice, mean_interval, patient_auc
from stylemed.studies import Result, digests_of
from stylemed.training.reader import Findings

CLASSES = {"tumor": 1, "none": 0}
LARGE = f"tumor of {LEAST_ACROSS:g} pixels or more"
SLICES = "held-out slices"


def run(
    store,
    generator,
    labeller,
    judge,
    directions: Mapping[str, Direction],
    *,
    count: int = 500,
    guided: int = 0,
    steps: int = 50,
    psi: float = 0.7,
    read_back: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Sets of `count` images, half with and half without tumor: by coarse styles, by each direction, and `guided` of them by edits.

    steps: of each edit. psi: truncation of random styles. read_back: write every set and have `prepare` read it.

    Tables, with a row for each way of making the set and one for held-out slices (all of `test`, but in spread):

    - made: styles drawn, candidates read, and how many of them were accepted; draws for each image that was accepted; images whose
      outline contradicts the class; slices that `prepare` read from what was written, with and without tumor.
    - agreement: share that the judge takes for the class that was asked for, 95 % intervals over images (patients), and the same
      freed of the judge's errors on held-out slices (`corrected_change`); of tumors, also of those whose outline is as large as
      LARGE says; last the AUC of the judge's score.
    - outlines: those that are written with the images (of slices, the true ones) beside the judge's: pixels of the tumor (median),
      Dice of tumor and of liver; of guided sets, how often the judge's tumor covers the place that was asked for.
    - spread, against `train` slices of the same class, on the first images of each set, for every number that some set has, and
      on as many slices by chance: recall and precision (`covered`), Dice between two livers as the judge outlines them, distance to
      the nearest `train` slice (`nearest`). Row "train slices": distance to the nearest one of another patient.

    BadInput where these do not belong together, where the judge has learned from `test` patients, and for a store without
    slices of both classes in `train` and `test`.
    """
    began = time.monotonic()
    check_reader(judge, store)
    refuse_seen({"judge": judge}, store)
    if getattr(judge, "kind", "judge") != "judge":
        raise BadInput(f"A {judge.kind} has a part in making the images and may not measure them; give a judge.")
    rows = {
        (split, wanted): store.select(split, tumor=bool(wanted)) for split in ("train", "test") for wanted in (1, 0)
    }
    for (split, wanted), some in rows.items():
        if len(some) < 4:
            raise BadInput(
                f"{store.path} has {len(some)} slices of {split} {'with' if wanted else 'known to be without'} tumor, and it "
                "takes 4; give it more patients."
            )
    ways = {"coarse": {"by": "coarse"}}
    ways |= {f"direction, {name}": {"by": "direction", "direction": d} for name, d in directions.items()}
    ways |= {"guided": {"by": "guided", "steps": steps}} if guided else {}
    sets, made = {SLICES: _of_slices(store, judge, np.concatenate([rows["test", 1], rows["test", 0]]))}, []
    for way, how in tqdm(ways.items(), desc="make", unit="set", disable=not progress):
        number = guided if way == "guided" else count
        images = class_images(generator, labeller, number, psi=psi, seed=seed, **how)
        sets[way] = _of_images(images, judge)
        made.append(_made(images).assign(way=way, **(_read(images, store, generator) if read_back else {})))
    tables = {
        "made": pd.concat(made, ignore_index=True),
        "agreement": pd.concat(
            [_agreement(s, sets[SLICES], seed).assign(way=w) for w, s in sets.items()], ignore_index=True
        ),
        "outlines": pd.concat([_outlines(s, seed).assign(way=w) for w, s in sets.items()], ignore_index=True),
        "spread": _spread(store, sets, rows, seed),
    }
    tables = {name: table[["way", *table.columns.drop("way")]] for name, table in tables.items()}
    made_from = digests_of({"generator": generator, "labeller": labeller, "judge": judge})
    made_from |= digests_of({f"direction, {name}": direction for name, direction in directions.items()})
    settings = {"count": count, "guided": guided, "steps": steps, "psi": psi, "resolution": generator.resolution}
    minutes = (time.monotonic() - began) / 60
    return Result("classes", tables, str(store.digest), made_from, seed, settings, minutes)


@dataclass(frozen=True)
class _Set:
    """N images [N, 1, R, R] in [-1, 1], the class asked for [N], outlines (1 liver, 2 tumor) [N, R, R], patients [N] (each image is
    one), what the judge finds, and the centres (x, y) [N, 2] where a tumor was asked for.
    """

    images: np.ndarray
    asked: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    found: Findings
    places: np.ndarray

    def part(self, where) -> _Set:
        found = Findings(self.found.masks[where], self.found.table.iloc[where])
        plain = (x[where] for x in (self.images, self.asked, self.labels, self.patients))
        return _Set(*plain, found, self.places[where])

    @property
    def large(self) -> np.ndarray:
        """bool [N]: a tumor of LEAST_ACROSS in the outline."""
        return np.array([disc_across(largest_px(labels == 2)) >= LEAST_ACROSS for labels in self.labels], bool)


def _of_slices(store, judge, rows) -> _Set:
    images, labels = store.images(rows), np.asarray(store.labels[rows])
    asked, patients = (labels == 2).any(axis=(1, 2)).astype(int), store.slices["patient"].to_numpy().astype(str)[rows]
    return _Set(images, asked, labels, patients, judge.findings(images), np.full((len(rows), 2), np.nan))


def _of_images(made, judge) -> _Set:
    images, asked = made.images.clamp(-1, 1).numpy(), made.table["class"].to_numpy()
    places = made.table.reindex(columns=["asked_x", "asked_y"]).to_numpy(float)
    patients = np.arange(len(images)).astype(str)
    return _Set(images, asked, made.labels, patients, judge.findings(images), places)


def _made(images) -> pd.DataFrame:
    """A row for each class."""
    table = images.tally.assign(asked=images.tally["class"].map({value: name for name, value in CLASSES.items()}))
    table["draws an image"] = table["drawn"] / table["accepted"]
    table["accepted of candidates"] = table["accepted"] / table["candidates"]
    its = images.table.groupby("class")
    table["images"] = table["class"].map(its.size())
    table["outline says otherwise"] = table["class"].map(
        its["tumor_labels"].agg(lambda told: (told == "unknown").sum())
    )
    return table.drop(columns="class")


def _read(images, store, generator) -> dict[str, int]:
    """How many slices `prepare` reads from the written set, and in which class it counts them."""
    with TemporaryDirectory() as folder:
        written = write_class_images(Path(folder) / "set", images, store.windows, generator)
        prepare(written, Path(folder) / "store", generator.resolution, workers=1, progress=False)
        again = SliceStore.open(Path(folder) / "store")
        told = {"read": len(again.select()), "read with tumor": len(again.select(tumor=True))}
        return told | {"read without": len(again.select(tumor=False))}


def _agreement(its: _Set, slices: _Set, seed: int) -> pd.DataFrame:
    out, errors = [], {}
    for name, wanted in (("tumor", 1), (LARGE, 1), ("none", 0)):
        for part in (slices, its):
            use = (part.asked == wanted) & (part.large | (name != LARGE))
            agrees = (part.found.table["tumor"].to_numpy()[use] == wanted).astype(float)
            if part is slices:
                errors[name] = agrees.mean() if len(agrees) else np.nan
        out.append((name, wanted, agrees, its.patients[use]))
    rows = []
    for name, wanted, agrees, patients in out:
        if not len(agrees):
            continue
        low, high, value = mean_interval(agrees, patients, seed)
        row = {"asked": name, "what": "judge agrees", "value": value, "low": low, "high": high}
        right = errors[name if wanted else "tumor"], errors["none"]
        corrected = corrected_change([value, low, high], wanted, *right)
        row |= dict(zip(("corrected", "corrected_low", "corrected_high"), corrected, strict=True))
        rows.append(row | {"images": len(agrees), "patients": len(set(patients))})
    auc, low, high = patient_auc(its.found.table["tumor_score"], its.asked, its.patients, seed=seed)
    last = {"asked": "tumor or none", "what": "AUC of the judge's score", "value": auc, "low": low, "high": high}
    rows.append(last | {"images": len(its.asked), "patients": len(set(its.patients))})
    return pd.DataFrame(rows)


def _outlines(its: _Set, seed: int) -> pd.DataFrame:
    tumor, seen = its.labels == 2, its.found.masks == 3
    asked, rows = its.asked == 1, []
    for what, mask in (("tumor as written, pixels, median", tumor), ("tumor of the judge, pixels, median", seen)):
        pixels = mask.sum(axis=(1, 2))[asked & mask.any(axis=(1, 2))]
        low, high = np.quantile(pixels, (0.25, 0.75)) if len(pixels) else (np.nan, np.nan)
        rows.append((what, np.median(pixels) if len(pixels) else np.nan, low, high, "quartiles", len(pixels)))

    def add(what, values, where):
        where = where & np.isfinite(values)
        if where.any():
            low, high, value = mean_interval(values[where], its.patients[where], seed)
            rows.append((what, value, low, high, "95 %", int(where.sum())))

    add("tumor, Dice", dice(seen, tumor), asked & tumor.any(axis=(1, 2)))
    add("liver, Dice", dice(its.found.masks >= 2, its.labels > 0), np.ones(len(asked), bool))
    placed = asked & np.isfinite(its.places).all(axis=1)
    y, x = np.mgrid[: seen.shape[1], : seen.shape[2]]
    centres = np.nan_to_num(its.places)
    near = np.hypot(x - centres[:, :1, None], y - centres[:, 1:, None]) <= LEAST_ACROSS
    add("judge's tumor is where it was asked for", (seen & near).any(axis=(1, 2)).astype(float), placed)
    return pd.DataFrame(rows, columns=["what", "value", "low", "high", "range", "images"])


def _spread(store, sets: Mapping[str, _Set], rows, seed: int) -> pd.DataFrame:
    every, with_tumor = np.concatenate([rows["train", 1], rows["train", 0]]), len(rows["train", 1])
    shown, patients = store.images(every), store.slices["patient"].to_numpy().astype(str)[every]
    reference, out = Reference(features(shown), count=2, seed=seed), []  # for its scale of features
    most = {way: min((its.asked == wanted).sum() for wanted in (1, 0)) for way, its in sets.items()}
    sizes = sorted({min(number, most[SLICES]) for way, number in most.items() if way != SLICES})
    for name, wanted in CLASSES.items():
        train = slice(None, with_tumor) if wanted else slice(with_tumor, None)
        points, mine = reference.standardised[train], shown[train]

        def distances(way, far, groups, name=name):
            low, high, value = mean_interval(far, groups, seed)
            out.append((way, name, "nearest train slice, mean", value, low, high, len(far)))
            out.append((way, name, "nearest train slice, least", far.min(), np.nan, np.nan, len(far)))

        for size, (way, its) in itertools.product(sizes, sets.items()):
            if most[way] < size:
                continue
            where = np.flatnonzero(its.asked == wanted)
            chosen = (
                np.random.default_rng([seed, size]).permutation(len(where)) if way == SLICES else np.arange(len(where))
            )
            part = its.part(where[chosen[:size]])
            theirs = reference.standardise(features(part.images))
            for what, value in {
                "recall": covered(points, theirs),
                "precision": covered(theirs, points),
                "Dice between two livers": pairwise_dice(part.found.masks >= 2, part.patients, seed=seed),
            }.items():
                out.append((way, name, what, value, np.nan, np.nan, size))
            distances(way, nearest(part.images, mine)[0], part.patients)
        distances("train slices", nearest_other_patient(mine, patients[train]), patients[train])
    return pd.DataFrame(out, columns=["way", "asked", "what", "value", "low", "high", "images"])
