"""How well a linear classifier in latent space tells a class in patients it has not seen, and what tells it as well.

Where few patients are labelled all of them take part by turns (patient-wise cross-validation, every choice inside of it), so that
no split is spent. Beside it: what area of liver and height tell without any network, and the same with permuted labels.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from stylemed.errors import BadInput
from stylemed.latent.codes import Codes
from stylemed.latent.direction import find_direction, labels_of
from stylemed.latent.inversion import codes_by
from stylemed.provenance import refuse_seen
from stylemed.statistics import patient_auc
from stylemed.studies import Result, digests_of

CONFOUNDERS = {"liver area alone": "liver_px", "height alone": "z_mm"}
COLUMNS = ("auc", "low", "high", "slices", "slices_with", "patients_with", "patients_without")


def run(
    store,
    generator,
    encoder,
    label: str = "tumor",
    *,
    steps: int = 0,
    folds: int = 5,
    permutations: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """The study on all slices of a store whose label is known, of any split.

    Args:
        steps: of descent from the encoder's answers; told apart from the answers themselves.
        permutations: of the labels among all slices, for each way into latent space; 0 for none.

    Tables: auc, a row for each way and confounder: AUC with its 95 % interval over patients, and how many slices and patients stand
    behind it. permuted: by way, the AUCs with permuted labels (mean, largest) and p, the share that is at least as large.
    BadInput where encoder or generator has learned from these patients, and where fewer than three have the class or have it not.
    """
    began = time.monotonic()
    known = store.select()
    known = known[~np.isnan(labels_of(store.slices.iloc[known], label))]
    if not len(known):
        raise BadInput(f"{store.path} has no slice whose {label} is known; label some, or name another column.")
    refuse_seen({"encoder": encoder, "generator": generator}, store, known)
    ways = {"encoder": codes_by(store, generator, encoder, known, progress=progress)}
    if steps:
        ways[f"encoder and {steps} steps"] = codes_by(store, generator, encoder, known, steps=steps, progress=progress)
    options = dict(split=None, folds=folds, seed=seed)
    rows, permuted = {}, {}
    for name, codes in ways.items():
        rows[name] = find_direction(codes, label, **options).cv
        rows[f"{name}, orthogonal to liver area"] = find_direction(
            codes, label, orthogonal_to=["liver_px"], **options
        ).cv
        if permutations:
            chance = [
                find_direction(_shuffled(codes, label, seed + i), "shuffled", **options) for i in range(permutations)
            ]
            values = np.array([found.cv["auc"] for found in chance])
            p = (1 + (values >= rows[name]["auc"]).sum()) / (1 + permutations)
            permuted[name] = {"auc": rows[name]["auc"], "mean": values.mean(), "largest": values.max(), "p": p}
    table, y = ways["encoder"].table, labels_of(ways["encoder"].table, label) == 1
    for name, column in CONFOUNDERS.items():
        found = patient_auc(table[column].to_numpy(float), y, table["patient"], seed=seed)
        rows[name] = rows["encoder"] | dict(zip(("auc", "low", "high"), found, strict=True))
    tables = {
        "auc": pd.DataFrame.from_dict(rows, orient="index")[list(COLUMNS)].rename_axis("what").reset_index(),
        "permuted": pd.DataFrame.from_dict(permuted, orient="index").rename_axis("what").reset_index(),
    }
    settings = {
        "label": label,
        "steps": steps,
        "folds": folds,
        "permutations": permutations,
        "resolution": store.resolution,
    }
    made_from = digests_of({"generator": generator, "encoder": encoder})
    return Result("classifier", tables, str(store.digest), made_from, seed, settings, (time.monotonic() - began) / 60)


def _shuffled(codes: Codes, label: str, seed: int) -> Codes:
    """The codes with a column "shuffled": the labels in another order."""
    values = np.random.default_rng(seed).permutation(labels_of(codes.table, label))
    return Codes(codes.table.assign(shuffled=values), codes.w_plus, codes.info)
