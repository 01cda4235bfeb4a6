"""What a store knows of its slices, as a reader is asked for it, and of its patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

from stylemed.data.store import disc_across, largest_px
from stylemed.statistics import by_chance

LEAST_ACROSS = 3.0  # pixels: smaller tumors are counted apart


def truth(store, rows) -> pd.DataFrame:
    """What the store knows of `rows`, in the columns of `Findings.table`; NaN (phase: "") where it does not know.

    tumor_across: diameter in pixels of a disc as large as the largest tumor of the slice. height only where a case has ten slices
    or more.
    """
    table = store.slices.iloc[rows].reset_index(drop=True)
    known = table["tumor_known"] == 1
    labels = np.asarray(store.labels[rows])
    along = (np.arange(labels.shape[-1]) + 0.5) / labels.shape[-1]
    tumor = labels == 2
    count = np.where(tumor.any(axis=(1, 2)), tumor.sum(axis=(1, 2)), np.nan)
    first, last, slices = (store.slices.groupby("case")["z"].agg(how) for how in ("min", "max", "count"))
    low, high = table["case"].map(first), table["case"].map(last)
    height = (table["z"] - low) / (high - low).clip(lower=1)
    mr = table["modality"].map({"CT": 0.0, "MR": 1.0})
    columns = {
        "tumor": (table["tumor_px"] > 0).astype(float).where(known),
        "tumor_across": [disc_across(largest_px(mask)) for mask in tumor],
        "tumor_px": table["tumor_px"].astype(float).where(known),
        "liver_px": table["liver_px"],
        "tumor_x": tumor.sum(axis=1) @ along / count,
        "tumor_y": tumor.sum(axis=2) @ along / count,
        "modality_mr": mr,
        "phase": table["phase"].where(mr == 0, ""),
        "kernel_sharp": _column(table, "kernel").map({"soft": 0.0, "sharp": 1.0}),
        "noise_hu": pd.to_numeric(_column(table, "noise_hu"), errors="coerce"),
        "height": height.where(table["case"].map(slices) >= 10),
    }
    return pd.DataFrame(columns)


def _column(table, name):
    return table[name] if name in table else pd.Series([""] * len(table))


def present(true: pd.DataFrame) -> pd.Series:
    """1 with a tumor, 0 without; NaN where none of its tumors is large enough to be asked for."""
    return true["tumor"].where((true["tumor"] == 0) | (true["tumor_across"] >= LEAST_ACROSS))


def patients_by_tumors(table, seed: int) -> dict[str, list[str]]:
    """Patients by what is known of their tumors (some, none, unknown) in a store's table, in an order by chance."""
    strata: dict[str, list[str]] = {}
    for patient, part in table.groupby(table["patient"].astype(str)):
        state = "some" if (part["tumor_px"] > 0).any() else "none" if (part["tumor_known"] == 1).all() else "unknown"
        strata.setdefault(state, []).append(patient)
    return {state: by_chance(names, seed) for state, names in strata.items()}
