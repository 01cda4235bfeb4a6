"""CT to MR and back by fine styles, against the slice of the same patient at the same height in the other modality.

Only a phantom has that slice: its patients are looked at twice on one grid (`stylemed phantom --mr`).
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from stylemed.errors import BadInput
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.memorization import nearest
from stylemed.evaluation.reconstruction import METRICS, by_patient, reconstruction_errors
from stylemed.latent.inversion import check_networks, codes_by
from stylemed.latent.mixing import layers_of, mix, synthesize
from stylemed.statistics import dice
from stylemed.studies import Result, digests_of

MODALITIES = ("CT", "MR")


def run(
    store,
    generator,
    encoder,
    judge,
    *,
    levels=("fine",),
    rows=None,
    shown: int = 1000,
    steps: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Both directions on `rows` (None: all of `test`), those that have their other modality.

    levels: whose styles come from the target. shown: so many `train` slices of the target at most, by chance, give the mean style,
    the grey values of histogram matching, and the nearest slice. steps: of descent from the encoder's answers. Table
    `translation`: what (METRICS of reconstructions; liver, Dice between the judge's outline and the true one; judged as target),
    value, low, high, slices, patients, way, source, target.
    BadInput where these do not belong together, and for a store without slices of both modalities.
    """
    check_networks(store, generator, encoder)
    check_reader(judge, store)
    for level in levels:
        if not layers_of(level, generator.num_layers):
            raise BadInput(f"The level {level} has no layers at {generator.resolution}²; name another one.")
    began = time.monotonic()
    rows = np.asarray(store.select("test") if rows is None else rows)
    modality, others = store.slices["modality"].to_numpy(), counterparts(store, rows)
    parts, rng = [], np.random.default_rng(seed)
    for source, target in (MODALITIES, MODALITIES[::-1]):
        use = (modality[rows] == source) & (others >= 0)
        pool = store.select("train", modality=target)
        if not use.any() or not len(pool):
            raise BadInput(
                f"{store.path} lacks slices to go from {source} to {target}; it takes a phantom that was made with --mr, "
                "and `train` and `test` patients."
            )
        mine, true = rows[use], others[use]
        pool = np.sort(rng.permutation(pool)[:shown])
        codes = {
            name: codes_by(store, generator, encoder, asked, steps=steps, progress=progress).w_plus
            for name, asked in {"mine": mine, "true": true, "pool": pool}.items()
        }
        made = translations(store, generator, mine, codes["mine"], pool, codes["pool"], levels, rng)
        made["reconstruction of the truth"] = synthesize(generator, codes["true"])
        for way, images in made.items():
            table = by_patient(_errors(store, judge, true, images), seed, (*METRICS, "liver, Dice", "judged as target"))
            parts.append(table.assign(way=way, source=source, target=target))
    made_from = digests_of({"generator": generator, "encoder": encoder, "judge": judge})
    settings = {"levels": list(levels), "slices": int((others >= 0).sum()), "shown": shown, "steps": steps}
    settings |= {"resolution": generator.resolution}
    tables, minutes = {"translation": pd.concat(parts, ignore_index=True)}, (time.monotonic() - began) / 60
    return Result("translation", tables, str(store.digest), made_from, seed, settings, minutes)


def counterparts(store, rows) -> np.ndarray:
    """For each row that of the same patient and z in the other modality, twins left out; -1 where there is none."""
    table = store.slices.iloc[store.select()]
    keys = zip(table["patient"], table["z"], table["modality"], strict=True)
    at = dict(zip(keys, table.index, strict=True))
    other = dict(zip(MODALITIES, MODALITIES[::-1], strict=True))
    asked = store.slices.iloc[rows]
    keys = zip(asked["patient"], asked["z"], asked["modality"].map(other), strict=True)
    return np.array([at.get(key, -1) for key in keys], dtype=np.int64)


def translations(store, generator, rows, codes, pool, target, levels, rng) -> dict[str, torch.Tensor]:
    """Images [N, 1, R, R] of the slices `rows` in the modality of the slices `pool`, by way; codes, target: w+ of the two.

    "LEVEL, mean style" and "LEVEL, style of a slice": that level's styles from the mean of the pool, or from one slice of it,
    another one for each row. Beside them: what is already there (slice, reconstruction), and two ways without latent space.
    """
    codes, target = torch.as_tensor(codes), torch.as_tensor(target)
    slices, shown = store.images(rows), store.images(pool)
    matched = match_histogram(slices, shown)
    one = target[rng.integers(len(pool), size=len(rows))]
    made = {}
    for level in levels:
        made[f"{level}, mean style"] = synthesize(generator, mix(codes, target.mean(dim=0), level))
        made[f"{level}, style of a slice"] = synthesize(generator, mix(codes, one, level))
    made["histogram matching"] = torch.from_numpy(matched)
    made["nearest training slice"] = torch.from_numpy(shown[nearest(matched, shown)[1]])  # by matched grey values
    return made | {"slice as it is": torch.from_numpy(slices), "reconstruction": synthesize(generator, codes)}


def match_histogram(images, reference) -> np.ndarray:
    """Each image [N, 1, R, R] with the grey values that `reference` [M, 1, R, R] has as a whole: the k-th darkest by the k-th.

    Pixels of one grey value keep one: that of their mean rank. (Half of a slice is air; told apart by place it would be striped.)
    """
    flat = np.asarray(images).reshape(len(images), -1)
    shares = (rankdata(flat, axis=1) - 0.5) / flat.shape[1]
    return np.quantile(np.asarray(reference), shares, method="hazen").reshape(np.shape(images)).astype(np.float32)


def _errors(store, judge, true, images) -> pd.DataFrame:
    """`reconstruction_errors` against the slices `true`, and what the judge sees; a row each."""
    found, mr = judge.findings(images), (store.slices["modality"].to_numpy()[true] == "MR")
    table = reconstruction_errors(store, true, images)
    table["liver, Dice"] = dice(found.masks >= 2, np.asarray(store.labels[true]) > 0)
    table["judged as target"] = ((found.table["modality_mr"].to_numpy() > 0.5) == mr).astype(float)
    return table
