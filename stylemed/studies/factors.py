"""Is the latent space "disentangled"? How well linear classifiers tell the factors of images in z, in w, and in encoded w.

After Karras 2019, section 4.2 (linear separability): labels of generated images are another network's answers, here the judge's;
those of slices are what was drawn.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stylemed.data.truth import truth as truth_of
from stylemed.errors import BadInput
from stylemed.evaluation.judge import check_reader
from stylemed.latent.codes import encode_store
from stylemed.latent.inversion import check_networks
from stylemed.latent.mixing import synthesize
from stylemed.studies import Result, digests_of

JUDGED = {"tumor": "tumor", "MR": "modality_mr", "kernel": "kernel_sharp", "height": "height", "liver area": "liver_px"}
DRAWN = {"phase none": "phase", "fat": "fat_mm", "scale": "scale_x"}  # of slices only: columns of a phantom's truth.csv
FOLDS, COMPONENTS = 5, 64


def run(
    store,
    generator,
    encoders: Mapping,
    judge,
    *,
    truth: str | Path | None = None,
    rows=None,
    drawn: int = 3000,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """encoders {name: Encoder} of one generator; truth: truth.csv of the phantom that `store` was made from, None for real CT.

    Table `factors`: space, factor, measure (AUC, or R² of what is continuous), value, images; by cross-validation, over patients
    where there are some. BadInput where these do not belong together.
    """
    check_reader(judge, store)
    for encoder in encoders.values():
        check_networks(store, generator, encoder)
    began = time.monotonic()
    rows = np.asarray(store.select("test") if rows is None else rows)
    z = torch.randn(drawn, generator.latent_size, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        w = generator.mapping(z)
    told = judge.findings(synthesize(generator, generator.broadcast(w))).table
    labels = {name: told[column].to_numpy(float) for name, column in JUDGED.items()}
    own = np.arange(drawn)  # every generated image is its own patient
    found = [separability(codes.numpy(), labels, own, space, seed) for space, codes in (("z", z), ("w", w))]
    known = labels_of(store, rows, truth)
    patients = store.slices["patient"].to_numpy()[rows]
    for name, encoder in encoders.items():
        codes = encode_store(store, encoder, rows=rows, progress=progress).w
        found.append(separability(codes, known, patients, f"encoded w, {name}", seed))
    made_from = digests_of({"generator": generator, "judge": judge})
    made_from |= digests_of({f"encoder, {name}": encoder for name, encoder in encoders.items()})
    tables = {"factors": pd.concat(found, ignore_index=True)}
    minutes = (time.monotonic() - began) / 60
    return Result("factors", tables, str(store.digest), made_from, seed, {"drawn": drawn, "slices": len(rows)}, minutes)


def labels_of(store, rows, truth: str | Path | None) -> dict[str, np.ndarray]:
    """Factors of slices {name: [N]}, NaN where one is not known; with a phantom's truth.csv, those of the patient too."""
    table = store.slices.iloc[rows].reset_index(drop=True)
    true = truth_of(store, rows)
    first, last = (table["case"].map(store.slices.groupby("case")["z"].agg(how)) for how in ("min", "max"))
    labels = {
        "tumor": true["tumor"],
        "MR": true["modality_mr"],
        "height": (table["z"] - first) / (last - first).clip(lower=1),
        "liver area": true["liver_px"],
    }
    if truth is not None:
        try:
            columns = ["volume", "z", *(column for column in DRAWN.values() if column != "phase")]
            told = pd.read_csv(truth, usecols=columns, dtype={"volume": str})
        except (OSError, ValueError):
            raise BadInput(
                f"{truth}: is no truth.csv of a phantom; name that of the phantom the store was made from."
            ) from None
        table["volume"] = table["case"].str.removeprefix("volume-")
        told = table[["volume", "z"]].merge(told, on=["volume", "z"], how="left")
        labels |= {name: told[column] for name, column in DRAWN.items() if column in told}
        labels["phase none"] = (table["phase"] == "none").where(table["modality"] == "CT")
        labels["kernel"] = true["kernel_sharp"]
    return {name: pd.to_numeric(values, errors="coerce").to_numpy(float) for name, values in labels.items()}


def separability(codes, labels: dict[str, np.ndarray], groups, space: str, seed: int = 0) -> pd.DataFrame:
    """How well linear models tell each label [N] from codes [N, D], on groups they were not fitted to.

    AUC of a logistic regression for labels of two values, R² of a ridge regression for others, both on the same number of
    principal components. Labels that do not vary, or that have fewer than FOLDS groups, are left out.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.metrics import r2_score, roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    codes, groups, out = np.asarray(codes), np.asarray(groups), []
    for name, values in labels.items():
        known = np.isfinite(values)
        values, x, group = values[known], codes[known], groups[known]
        if name in ("kernel", "MR"):
            values = (values > 0.5).astype(float)
        binary = len(np.unique(values)) == 2
        if len(np.unique(values)) < 2 or len(np.unique(group)) < FOLDS:
            continue
        if binary and min(len(np.unique(group[values == value])) for value in np.unique(values)) < FOLDS:
            continue
        components = min(COMPONENTS, x.shape[1], len(x) // 2)
        last = LogisticRegression(max_iter=2000, C=0.1) if binary else RidgeCV(np.logspace(-1, 4, 11))
        model = make_pipeline(StandardScaler(), PCA(components, random_state=seed), last)
        method = "decision_function" if binary else "predict"
        told = cross_val_predict(
            model, x, values, groups=group, cv=GroupKFold(FOLDS, shuffle=True, random_state=seed), method=method
        )
        value = roc_auc_score(values, told) if binary else r2_score(values, told)
        out.append(
            {
                "space": space,
                "factor": name,
                "measure": "AUC" if binary else "R2",
                "value": value,
                "images": len(values),
            }
        )
    return pd.DataFrame(out)
