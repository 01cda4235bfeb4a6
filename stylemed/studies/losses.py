"""What an encoder should be asked for: the same network, trained with more and more losses for equal time.

The paper asks for latents only. Each variant here adds one thing to the one before it; all are compared on the same slices of
`test` patients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from stylemed.data.store import SliceDataset
from stylemed.errors import BadInput
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.reconstruction import by_patient, reconstruction_errors, survival
from stylemed.latent.codes import encode_store
from stylemed.latent.inversion import check_networks
from stylemed.latent.mixing import synthesize
from stylemed.studies import Result, digests_of
from stylemed.studies.reconstruction import InSpace, known
from stylemed.training.encoder import encoder_config, train_encoder
from stylemed.training.run import load_encoder, load_generator

REAL = 0.5  # of a batch, in the variants that learn from slices too
TICKS = 4  # of the log, by which the speed of a variant is told
_PAIRS = {"real_share": 0.0}
_BY_IMAGE = {**_PAIRS, "feature_weight": 0.0}
_BY_LATENT = {**_BY_IMAGE, "image_weight": 0.0, "structure_weight": 0.0}
# Name of a variant -> what it changes in the preset, which has all losses of pairs.
VARIANTS: dict[str, dict] = {
    "latent": _BY_LATENT,
    "image": _BY_IMAGE,
    "features": _PAIRS,
    "slices": {"real_share": REAL},
    "slices, in W": {"real_share": REAL, "space": "w"},
    # No latent is known of any of its images: what its codes hold comes from slices alone. A shortcut would be fitted to pairs.
    "slices alone": {"real_share": 1.0, "shortcut": 0},
}


def run(
    store,
    generator: str | Path,
    judge=None,
    *,
    variants=tuple(VARIANTS),
    preset: str = "phantom-64",
    changes: Mapping = MappingProxyType({}),
    minutes: float = 20.0,
    rows=None,
    drawn: int = 1000,
    work: str | Path,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """Train each of `variants` for so many minutes (no less than TICKS of its log) and measure it on `rows` (None: all of `test`).

    generator: run folder, with its discriminator. changes: of single fields of the preset, for all variants. work: folder for the
    encoders' runs; the same call goes on. How many images a variant sees is told from the speed of its first ticks, so nothing else
    should run beside. Tables, with the column `variant`: training (images in thousands and per second), known, errors, survival.
    BadInput where these do not belong together, for a preset without an image loss, and for an unknown variant.
    """
    config = encoder_config(preset, **changes)
    if not config.compares_images or config.feature_weight == 0:
        raise BadInput(f"Preset {preset} asks for latents only; name one that asks for images and features too.")
    for name in set(variants) - set(VARIANTS):
        raise BadInput(f"There is no variant {name}; there are: {', '.join(VARIANTS)}.")
    network, _ = load_generator(generator)
    check_networks(store, network)
    if judge is not None:
        check_reader(judge, store)
    rows = np.asarray(store.select("test") if rows is None else rows)
    began, train = time.monotonic(), SliceDataset(store, split="train")
    made_from = digests_of({"generator": network})
    told: dict[str, list] = {"training": [], "known": [], "errors": [], "survival": []}
    for name in variants:
        folder = Path(work) / name.replace(", ", "-").replace(" ", "-")
        settings = dict(preset=preset, dataset=train, seed=seed, progress=progress) | dict(changes) | VARIANTS[name]
        first = train_encoder(generator, folder, kimg=TICKS * config.tick_kimg, **settings).log()
        speed = float(first["images_per_second"][:TICKS].median())
        kimg = max(speed * 60 * minutes / 1000, TICKS * config.tick_kimg)
        encoder, metadata = load_encoder(train_encoder(generator, folder, kimg=kimg, **settings).path)
        made_from |= digests_of({f"encoder, {name}": encoder})
        spaces = ("w", "w+") if encoder.space == "w+" else ("w",)
        told["training"].append(
            pd.DataFrame({"variant": [name], "kimg": [metadata["nimg"] / 1000], "images_per_second": [speed]})
        )
        told["known"].append(known(network, encoder, spaces, drawn, seed).assign(variant=name))
        for space in spaces:
            codes = encode_store(store, InSpace(encoder, space), rows=rows, progress=progress)
            again = synthesize(network, codes.w_plus)
            which = dict(variant=name, space=space)
            told["errors"].append(by_patient(reconstruction_errors(store, rows, again), seed).assign(**which))
            if judge is not None:
                told["survival"].append(survival(judge, store, rows, again, seed).assign(**which))
    if judge is not None:
        made_from |= digests_of({"judge": judge})
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in told.items() if parts}
    settings = {"preset": preset, **changes, "minutes": minutes, "slices": len(rows), "drawn": drawn}
    taken = (time.monotonic() - began) / 60
    return Result("losses", tables, str(store.digest), made_from, seed, settings, taken)
