"""What comes back from latent space: known latents, slices of `test` patients, and their tumors.

Four ways into it are compared on the same slices: the encoder's w, its w+, its w+ and some steps of descent, and many steps from
the mean w. What the last one misses, the generator cannot draw; what the others miss beyond it, the encoder has lost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stylemed.data.store import SliceStore
from stylemed.errors import BadInput
from stylemed.evaluation.judge import check_reader
from stylemed.evaluation.reconstruction import by_patient, image_errors, reconstruction_errors, survival
from stylemed.latent.codes import Codes, encode_store
from stylemed.latent.inversion import check_networks, invert_store
from stylemed.latent.mixing import synthesize
from stylemed.networks import Encoder, Generator
from stylemed.studies import Result, begun, digests_of, kept_codes

FEW, MANY = 50, 1000  # steps of descent
TIMED, TIMED_STEPS = 16, 10  # slices and steps by which seconds are measured


def run(
    store,
    generator,
    encoder,
    judge=None,
    *,
    rows=None,
    drawn: int = 1000,
    few: int = FEW,
    many: int = MANY,
    work: str | Path,
    seed: int = 0,
    progress: bool = True,
) -> Result:
    """The study on `rows` of a store (None: all of `test`); descents are kept in the folder `work`, and go on from there.

    drawn: fresh generated images whose latents are known. judge: looks for tumors; None leaves survival out. Tables: known,
    errors, survival, seconds (per slice). BadInput where these do not belong together.
    """
    check_networks(store, generator, encoder)
    if judge is not None:
        check_reader(judge, store)
    rows = np.asarray(store.select("test") if rows is None else rows)
    if not len(rows):
        raise BadInput(f"{store.path} has no slice to reconstruct.")
    began, work = time.monotonic(), Path(work)
    spaces = ("w", "w+") if encoder.space == "w+" else ("w",)
    tables = {"known": known(generator, encoder, spaces, drawn, seed)}
    made_from = digests_of({"generator": generator, "encoder": encoder})
    key = {"store": store.digest, "rows": [int(row) for row in rows], **made_from}
    errors, survived, seconds = [], [], []
    for name, way in _ways(store, generator, encoder, spaces, few, many).items():
        file = work / f"{name}.safetensors"
        goes_on = dict(partial=begun(file), progress=progress)
        codes = kept_codes(file, key, lambda way=way, goes_on=goes_on: way.codes(rows, **goes_on))
        again = synthesize(generator, codes.w_plus)
        errors.append(by_patient(reconstruction_errors(store, rows, again), seed).assign(way=name))
        seconds.append({"way": name, "seconds": _seconds(way, rows)})
        if judge is not None:
            survived.append(survival(judge, store, rows, again, seed).assign(way=name))
    tables |= {"errors": pd.concat(errors, ignore_index=True), "seconds": pd.DataFrame(seconds)}
    if judge is not None:
        tables["survival"] = pd.concat(survived, ignore_index=True)
        made_from |= digests_of({"judge": judge})
    settings = {"slices": len(rows), "drawn": drawn, "few": few, "many": many}
    minutes = (time.monotonic() - began) / 60
    return Result("reconstruction", tables, str(store.digest), made_from, seed, settings, minutes)


def known(generator, encoder, spaces, drawn: int, seed: int) -> pd.DataFrame:
    """Fresh generated images, by space: R² of w (mean over components), cosine of true and found w, PSNR, SSIM."""
    z = torch.randn(drawn, generator.latent_size, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        w = generator.mapping(z)
        images = synthesize(generator, generator.broadcast(w)).clamp(-1, 1)
    rows = []
    for space in spaces:
        with torch.no_grad():
            found = torch.cat([encoder(part, space=space) for part in images.split(32)])
        again, one = synthesize(generator, found), found.mean(dim=1)
        r2 = 1 - (one - w).square().sum(dim=0) / (w - w.mean(dim=0)).square().sum(dim=0)
        cosine = torch.cosine_similarity(one - encoder.w_avg, w - encoder.w_avg, dim=1)
        row = {"space": space, "r2": r2.mean().item(), "cosine": cosine.mean().item(), "images": drawn}
        rows.append(row | image_errors(images, again).mean().to_dict())
    return pd.DataFrame(rows)


class InSpace:
    """An encoder that answers in one of its spaces, for `encode_store`."""

    def __init__(self, encoder, space: str):
        self.encoder, self.space = encoder, space

    def __call__(self, images):
        return self.encoder(images, space=self.space)

    def __getattr__(self, name):
        return getattr(self.encoder, name)


@dataclass(frozen=True)
class _Way:
    """A way into latent space: an encoder, or `steps` of descent (from its answers, or from the mean w)."""

    store: SliceStore
    generator: Generator
    encoder: Encoder | InSpace | None
    steps: int | None = None

    def codes(self, rows, steps: int | None = None, partial: Path | None = None, progress: bool = False) -> Codes:
        if self.steps is None:
            return encode_store(self.store, self.encoder, rows=rows, progress=progress)
        options = dict(encoder=self.encoder, steps=self.steps if steps is None else steps)
        return invert_store(self.store, self.generator, rows, partial=partial, progress=progress, **options)


def _ways(store, generator, encoder, spaces, few: int, many: int) -> dict[str, _Way]:
    ways = {f"encoder {space}": _Way(store, generator, InSpace(encoder, space)) for space in spaces}
    ways[f"encoder and {few} steps"] = _Way(store, generator, encoder, few)
    return ways | {f"{many} steps": _Way(store, generator, None, many)}


def _seconds(way: _Way, rows) -> float:
    """Seconds for a slice, on the first TIMED of them; a descent takes as much longer as it has more steps."""
    rows, steps = rows[:TIMED], None if way.steps is None else min(way.steps, TIMED_STEPS)
    began = time.monotonic()
    way.codes(rows, steps)
    return (time.monotonic() - began) / len(rows) * (1 if steps is None else way.steps / max(steps, 1))
