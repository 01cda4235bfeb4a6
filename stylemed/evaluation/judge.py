"""How wrong a reader is, factor by factor: on patients of another split, or by turns on patients that it did not learn from.

A reader (`training.reader`) is a judge, which only measures, or a labeller, which may take part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stylemed.data.truth import LEAST_ACROSS, patients_by_tumors, truth
from stylemed.errors import BadInput
from stylemed.provenance import Provenance, belong_together
from stylemed.statistics import dice, mean_interval, patient_auc
from stylemed.training.reader import PHASES, Findings, Judge, Reader, ReaderConfig, train_reader

SIZES = ((3, 5), (5, 8), (8, np.inf))  # pixels across: [from, to) of the largest tumor of a slice


def check_reader(reader, store) -> None:
    """BadInput where a reader's slices looked otherwise than those of a store: window, frame, resolution. Patients may differ."""
    its, of_store = (getattr(artifact, "provenance", Provenance()) for artifact in (reader, store))
    belong_together(
        its,
        of_store,
        names=(f"the {its.kind or 'reader'}", f"the store {getattr(store, 'path', '')}".strip()),
        same_store=False,
        cure=f"prepare the store as that of the {its.kind or 'reader'} was, or train one on slices like these",
    )


def errors(
    reader: Reader, store, split: str = "test", seed: int = 0, draws: int = 1000, *, seen: bool = False
) -> pd.DataFrame:
    """The reader's own errors on a split: `error_table` of what it finds there.

    BadInput where the store has another window, frame or resolution than it learned from, and where it has learned from some of
    these patients; with seen=True they are asked about all the same, and a column `seen` says how many they are.
    """
    check_reader(reader, store)
    rows = store.select(split)
    if not len(rows):
        raise BadInput(f"{store.path} has no slice of the split {split} to measure the {reader.kind} on.")
    known = reader.provenance.shared_patients(store.learned_from(rows, split))
    if known and not seen:
        some = ", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
        raise BadInput(
            f"The {reader.kind} has learned from {some} of {store.path}, so what it finds there says nothing about new patients; "
            "choose another split or store, or ask for it with --seen (seen=True)."
        )
    table = error_table(reader.findings(store.images(rows)), store, rows, seed=seed, draws=draws)
    return table.assign(seen=len(known)) if seen else table


def size_name(low: float, high: float) -> str:
    """The sizes [low, high) in words."""
    return f"{low} to {high} pixels" if np.isfinite(high) else f"{low} pixels or more"


def error_table(found: Findings, store, rows, folds=None, *, seed: int = 0, draws: int = 1000) -> pd.DataFrame:
    """What was found in `rows` against what is true: a row per factor with value, 95 % interval (bootstrap over patients), n.

    Tumors of at least 3 pixels across count for AUC and sensitivity; each of SIZES has a sensitivity too, and so have smaller ones.
    The AUC is given for each modality and phase too, where there are several. folds [n]: which judge answered; scores of different
    judges are not compared.
    """
    table, true, patients = found.table, truth(store, rows), store.slices["patient"].to_numpy()[rows]
    labels = np.asarray(store.labels[rows])
    large = (true["tumor"] == 1) & (true["tumor_across"] >= LEAST_ACROSS)
    none, small = true["tumor"] == 0, (true["tumor"] == 1) & ~large
    out = []
    looks = store.slices.iloc[rows][["modality", "phase"]].fillna("").agg(" ".join, axis=1).str.strip().to_numpy()
    for look in ("", *sorted(set(looks))) if len(set(looks)) > 1 else ("",):
        use = (large | none).to_numpy() & ((looks == look) | (look == ""))
        if large[use].any() and none[use].any():
            asked = None if folds is None else np.asarray(folds)[use]
            auc = patient_auc(table["tumor_score"][use], large[use], patients[use], asked, seed=seed)
            out.append((f"tumor, AUC{look and ', ' + look}", *auc, int(use.sum()), len(set(patients[use]))))

    def add(name, values, where):
        where = np.asarray(where) & np.isfinite(np.asarray(values, float))
        if where.any():
            low, high, value = mean_interval(np.asarray(values, float)[where], patients[where], seed, draws)
            out.append((name, value, low, high, int(where.sum()), len(set(patients[where]))))

    add("tumor, sensitivity", table["tumor"], large)
    for low, high in SIZES:
        add(
            f"tumor of {size_name(low, high)}, sensitivity",
            table["tumor"],
            large & true["tumor_across"].between(low, high, "left"),
        )
    add("tumor under 3 pixels, sensitivity", table["tumor"], small)
    add("no tumor, specificity", 1 - table["tumor"], none)
    add("tumor, Dice", dice(found.masks == 3, labels == 2), large)
    add("liver, Dice", dice(found.masks >= 2, labels > 0), np.ones(len(rows), bool))
    add("tumor area, error in pixels", (table["tumor_px"] - true["tumor_px"]).abs(), large)
    add(
        "liver area, error in %",
        100 * (table["liver_px"] - true["liver_px"]).abs() / true["liver_px"],
        true["liver_px"] > 50,
    )
    away = np.hypot(table["tumor_x"] - true["tumor_x"], table["tumor_y"] - true["tumor_y"]) * store.resolution
    add("tumor place, error in pixels", away, large)
    add("modality, accuracy", (table["modality_mr"] > 0.5) == true["modality_mr"], true["modality_mr"].notna())
    add("phase, accuracy", table["phase"] == true["phase"], true["phase"].isin(PHASES))
    add("kernel, accuracy", (table["kernel_sharp"] > 0.5) == true["kernel_sharp"], true["kernel_sharp"].notna())
    add("noise, error in HU", (table["noise_hu"] - true["noise_hu"]).abs(), true["noise_hu"].notna())
    add("height, error", (table["height"] - true["height"]).abs(), true["height"].notna())
    return pd.DataFrame(out, columns=["what", "value", "low", "high", "slices", "patients"])


def cross_validate(
    store, run: str | Path, folds: int = 5, preset: str | ReaderConfig = "standard", *, seed: int = 0, **how
) -> pd.DataFrame:
    """`error_table` of judges that never saw the patients they are asked about: for data too poor for a split judge.

    The patients whose tumors are known are dealt into `folds`; for each fold a judge learns from everybody else (those with
    unknown tumors show it livers), fixes its threshold on some of them, and answers for the fold. Every split is used, so no
    such judge may measure a generator that was trained on the same patients. A folder below `run` for each; how: as
    `training.reader.train_reader` takes it, max_minutes each.
    """
    use = store.select()
    patients = store.slices["patient"].astype(str).to_numpy()[use]
    strata = patients_by_tumors(store.slices.iloc[use], seed)
    labelled = strata.get("some", []) + strata.get("none", [])
    if folds < 2 or len(labelled) < folds:
        raise BadInput(
            f"{store.path} has {len(labelled)} patients whose tumors are known, not enough for {folds} folds of at least 1; "
            "choose from 2 to as many folds as there are such patients."
        )
    parts, rows, which = [], [], []
    for fold in range(folds):
        inside = np.isin(patients, labelled[fold::folds])
        folder, name = Path(run) / f"fold-{fold + 1}", f"{fold + 1} of {folds}"
        train_reader(Judge, store, folder, preset, seed=seed, rows=use[~inside], fold=name, **how)
        rows.append(use[inside])
        parts.append(Judge.load(folder).findings(store.images(rows[-1])))
        which += [fold] * len(rows[-1])
    masks = np.concatenate([part.masks for part in parts])
    found = Findings(masks, pd.concat([part.table for part in parts], ignore_index=True))
    return error_table(found, store, np.concatenate(rows), which, seed=seed)
