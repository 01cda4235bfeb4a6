"""How wrong a judge or a labeller is: its learning curve, its errors by factor and size, and on a phantom by kind of tumor.

    python benchmarks/reader_errors.py RUN --store STORE [--phantom FOLDER] [--labeller]

FOLDER: the phantom that the store was made from; its lesions.csv says which kinds a slice holds.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from stylemed.data.store import SliceStore
from stylemed.data.truth import LEAST_ACROSS, truth
from stylemed.evaluation.judge import errors
from stylemed.training.reader import Judge, Labeller


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--phantom", type=Path)
    parser.add_argument("--labeller", action="store_true", help="RUN is a labeller's")
    options = parser.parse_args()
    reader = (Labeller if options.labeller else Judge).load(options.run)
    store = SliceStore.open(options.store)
    print(pd.read_csv(options.run / "curve.csv").round(3).to_markdown(index=False), end="\n\n")
    print(errors(reader, store).round(3).to_markdown(index=False), end="\n\n")
    if options.phantom:
        print(by_kind(reader, store, options.phantom).round(3).to_markdown(index=False))


def by_kind(reader, store, phantom: Path) -> pd.DataFrame:
    """Sensitivity for tumors of 3 pixels or more across, in slices of `test` that cut tumors of one kind only."""
    rows = store.select("test", tumor=True)
    rows = rows[truth(store, rows)["tumor_across"].to_numpy() >= LEAST_ACROSS]
    found = reader.findings(store.images(rows)).table["tumor"].to_numpy()
    slices = store.slices.iloc[rows].reset_index(drop=True)
    told = pd.read_csv(phantom / "truth.csv", usecols=["volume", "z", "z_mm", "scale_z"], dtype={"volume": str})
    slices["volume"] = slices["case"].str.removeprefix("volume-")
    slices = slices.drop(columns="z_mm").merge(told, on=["volume", "z"], how="left")
    lesions = pd.read_csv(phantom / "lesions.csv")
    lesions = lesions[lesions["tumor"] == 1].groupby("patient")
    kinds = []
    for patient, z in zip(slices["patient"], slices["z_mm"], strict=True):
        mine = lesions.get_group(patient)
        reached = mine[(mine["z_mm"] - z).abs() < mine["diameter_mm"] / 2]
        kinds.append(reached["kind"].iloc[0] if reached["kind"].nunique() == 1 else "several, or at a rim")
    table = pd.DataFrame({"kind": kinds, "modality": slices["modality"], "phase": slices["phase"], "found": found})
    table["look"] = np.where(table["modality"] == "MR", "MR", "CT " + table["phase"].astype(str))
    shares = table.pivot_table("found", "kind", "look", aggfunc="mean", margins=True, margins_name="all")
    counts = table.groupby("kind")["found"].size()
    return shares.assign(slices=counts).fillna({"slices": len(table)}).reset_index()


if __name__ == "__main__":
    main()
