"""What a generator draws: how often and how large its tumors are, and whether its images are training slices learned by heart."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stylemed.data.store import disc_across
from stylemed.data.truth import truth
from stylemed.errors import BadInput
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.memorization import nearest, nearest_other_patient
from stylemed.evaluation.variety import corrected_share, survey_samples
from stylemed.latent.generation import random_styles
from stylemed.latent.inversion import check_networks
from stylemed.latent.mixing import synthesize
from stylemed.provenance import refuse_seen
from stylemed.statistics import evenly_spaced
from stylemed.studies import Result, digests_of

SIZES = ((0, 3), (3, 5), (5, 8), (8, np.inf))  # pixels across
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 30
GRID = 64  # slices to look at
GENERATED, HELD_OUT, TRAIN = "generated", "slices of test patients", "training slices, to other patients"


def run(
    store, generator, judge=None, *, count: int = 1000, samples: int = 5000, pairs: int = 10, seed: int = 0
) -> tuple[Result, dict[str, torch.Tensor]]:
    """The study on a store with the slices that the generator has learned from (`train`), and others (`test`).

    Args:
        judge: that reads tumors; without one there is no table of them. count: generated images, not truncated, whose nearest
            training slice is looked for. samples: that the judge reads. pairs: the closest ones, to look at.

    -> the result, and images [n, 1, R, R] to look at: slices (of `test`), generated (of the closest pairs, closest first), nearest.
    Tables: tumors (shares found, corrected and true, by size in pixels across), distances (root mean square differences at 32² in
    grey values of [-1, 1], QUANTILES of each set), closer (share of each set closer than the closest hundredth of held-out slices),
    histogram, pairs. BadInput for parts that do not belong together and a store without `train` or `test`.
    """
    began = time.monotonic()
    check_networks(store, generator)
    rows = {split: store.select(split) for split in ("train", "test")}
    for split, some in rows.items():
        if not len(some):
            raise BadInput(f"{store.path} has no slice of the split {split}; prepare it with such patients.")
    refuse_seen({"generator": generator}, store)
    train, test = (store.images(some) for some in rows.values())
    made = synthesize(generator, random_styles(generator, count, 1.0, seed)).clamp(-1, 1)
    away, which = nearest(made, train)
    patients = store.slices["patient"].to_numpy()
    found = {
        GENERATED: away,
        HELD_OUT: nearest(test, train)[0],
        TRAIN: nearest_other_patient(train, patients[rows["train"]]),
    }

    closest = np.argsort(away)[:pairs]
    behind = store.slices.iloc[rows["train"][which[closest]]][["case", "z"]].reset_index(drop=True)
    tables = {"tumors": pd.DataFrame()}
    made_from = digests_of({"generator": generator})
    if judge is not None:
        check_reader(judge, store)
        refuse_seen({"judge": judge}, store)
        made_from |= digests_of({"judge": judge})
        tables["tumors"] = _tumors(generator, judge, store, rows["test"], samples, seed)
    tables["distances"] = pd.DataFrame(
        [
            {"set": name, "images": len(x)} | {f"{q:g}": np.quantile(x, q) for q in QUANTILES}
            for name, x in found.items()
        ]
    )
    least = np.quantile(found[HELD_OUT], 0.01)
    tables["closer"] = pd.DataFrame(
        [{"set": name, "than": least, "share": (x < least).mean()} for name, x in found.items()]
    )
    edges = np.linspace(0, max(x.max() for x in found.values()), BINS + 1)
    shares = {name: np.histogram(x, edges)[0] / len(x) for name, x in found.items()}
    tables["histogram"] = pd.DataFrame({"from": edges[:-1], "to": edges[1:], **shares})
    tables["pairs"] = behind.assign(sample=closest, distance=away[closest])
    settings = {"count": count, "samples": samples, "resolution": generator.resolution}
    some = evenly_spaced(len(rows["test"]), GRID)
    pictures = {"slices": test[some], "generated": made[closest.tolist()], "nearest": train[which[closest]]}
    pictures = {name: torch.as_tensor(images) for name, images in pictures.items()}
    minutes = (time.monotonic() - began) / 60
    return Result("draws", tables, str(store.digest), made_from, seed, settings, minutes), pictures


def write_pictures(folder: Path, pictures: dict[str, torch.Tensor], window) -> list[Path]:
    """slices.png, and pairs.png with the generated images above the training slices that are nearest."""
    from stylemed.display import figures
    from stylemed.files import write_atomic

    pairs = {"drawn": pictures["generated"], "nearest": pictures["nearest"]}
    made = {
        "slices": figures.show_slices(pictures["slices"], window=window, columns=8),
        "pairs": figures.show_rows(pairs, window=window),
    }
    paths = [folder / f"{name}.png" for name in made]
    for path, figure in zip(paths, made.values(), strict=True):
        write_atomic(path, figure.png())
    return paths


def _tumors(generator, judge, store, rows, samples: int, seed: int) -> pd.DataFrame:
    """Generated images beside slices whose tumors are known; shares corrected by the errors there (Rogan and Gladen 1978)."""
    rows = rows[(store.slices["tumor_known"] == 1).to_numpy()[rows]]
    slices, true = judge.findings(store.images(rows)).table, truth(store, rows)["tumor"].to_numpy() == 1
    if true.all() or not true.any():
        raise BadInput(
            f"{store.path} has no slices of test both with and without a tumor; give it more patients, or no judge."
        )
    errors = (slices["tumor"][true] == 1).mean(), (slices["tumor"][~true] == 0).mean()
    out = []
    for name, answers in ((GENERATED, survey_samples(generator, judge, samples, seed)), (HELD_OUT, slices)):
        share, across = answers["tumor"].mean(), disc_across(answers["tumor_px"][answers["tumor_px"] > 0])
        row = {"set": name, "images": len(answers), "found": share, "corrected": corrected_share(share, *errors)}
        row |= {"true": true.mean() if name == HELD_OUT else np.nan, "sensitivity": errors[0], "specificity": errors[1]}
        out.append(row | {_size(lo, hi): ((across >= lo) & (across < hi)).sum() / len(answers) for lo, hi in SIZES})
    return pd.DataFrame(out)


def _size(low: float, high: float) -> str:
    return f"{low} to {high} px" if np.isfinite(high) else f"{low} px or more"
