"""Codes: one style code per encoded slice, beside what is known about that slice."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from stylemed import __version__
from stylemed.data.body import BODY_HU
from stylemed.errors import BadInput
from stylemed.files import FORMAT, digest_of_weights, load_tensors, save_tensors
from stylemed.provenance import Provenance, belong_together

COLUMNS = ["row", "case", "patient", "split", "modality", "phase", "z", "z_mm"]
COLUMNS += ["liver_px", "tumor_px", "tumor_known", "body_px"]


@dataclass
class Codes:
    """Codes of N slices.

    Attributes:
        table: one row per slice: row (its number in the store), case, patient, split, modality, phase, z, z_mm,
            liver_px, tumor_px, tumor_known (0/1), body_px (pixels above -300 HU: body, or the table).
        w_plus: float32 [N, L, latent], one style per layer.
        info: where they come from: resolution, window, digests of store and encoder, and the whole provenance.
    """

    table: pd.DataFrame
    w_plus: np.ndarray
    info: dict = field(default_factory=dict)

    def __post_init__(self):
        self.w_plus = np.asarray(self.w_plus, dtype=np.float32)
        self.table = self.table.reset_index(drop=True)
        if self.w_plus.ndim != 3 or len(self.w_plus) != len(self.table):
            raise BadInput(
                f"codes need one [layers, latent] array per table row, but w_plus has shape "
                f"{self.w_plus.shape} and the table {len(self.table)} rows"
            )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def w(self) -> np.ndarray:
        """Mean over the layers, float32 [N, latent]: the point in W nearest to each w+."""
        return self.w_plus.mean(axis=1)

    @property
    def provenance(self) -> Provenance:
        """Where they come from; its patients are those that were encoded."""
        return Provenance.from_dict(self.info.get("provenance"))

    def select(self, mask) -> Codes:
        """The codes at a boolean mask [N] or at integer positions."""
        positions = np.arange(len(self))[np.asarray(mask)]
        return Codes(self.table.iloc[positions], self.w_plus[positions], dict(self.info))

    def find(self, split: str | None = None, tumor: bool | None = None) -> np.ndarray:
        """Positions of the slices of a split; tumor=True or False keeps only slices whose state is known."""
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            keep &= (self.table["split"] == split).to_numpy()
        if tumor is not None:
            known = (self.table["tumor_known"] == 1).to_numpy()
            keep &= known & ((self.table["tumor_px"] > 0).to_numpy() == tumor)
        return np.flatnonzero(keep)

    def pick(self, n: int, split=None, tumor: bool | None = None, seed: int = 0, without=()) -> np.ndarray:
        """Positions of up to n slices of n different patients: of each the one with most tumor, else most liver.

        `without`: positions whose patients are left out. Fewer than n when there are fewer patients.
        """
        positions = self.find(split, tumor)
        rows = self.table.iloc[positions].assign(position=positions)
        rows = rows[~rows["patient"].isin(self.table["patient"].iloc[list(without)])]
        rows = rows.sort_values(["tumor_px" if tumor else "liver_px", "position"], ascending=[False, True])
        best = rows.drop_duplicates("patient").sort_values("position")["position"].to_numpy()
        order = np.random.default_rng(seed).permutation(len(best))
        return best[order[:n]]

    def save(self, path: Path | str) -> Path:
        """Write one .safetensors file: w_plus, and the table and info as JSON in its metadata."""
        table = json.loads(self.table.to_json(orient="split", double_precision=15))
        return save_tensors(path, "codes", {"w_plus": self.w_plus}, {"table": table, "info": self.info})

    @classmethod
    def load(cls, path: Path | str) -> Codes:
        """Read codes; BadInput for a missing or damaged file, another kind of file or another version."""
        tensors, header = load_tensors(path, "codes")
        text = io.StringIO(json.dumps(header["table"]))
        table = pd.read_json(text, orient="split", dtype=False, convert_axes=False, convert_dates=False)
        return cls(table, tensors["w_plus"], header["info"])


def encode_store(
    store, encoder, *, split: str | None = None, rows=None, batch: int = 32, progress: bool = True
) -> Codes:
    """Encode the slices of a store (of one split, or all, or these rows) -> Codes, in the order of the store.

    BadInput when encoder and store differ in resolution, window or frame, or when the split is empty.
    """
    if encoder.resolution != store.resolution:
        raise BadInput(
            f"the encoder works at {encoder.resolution}² but the store {store.path} holds {store.resolution}² "
            f"slices: prepare the store with --resolution {encoder.resolution}"
        )
    its = getattr(encoder, "provenance", Provenance())
    belong_together(
        its,
        store.provenance,
        names=("the encoder", f"the store {store.path}"),
        same_store=False,  # its patients may be new ones
        cure="prepare the store as the encoder's was, or train an encoder for it",
    )
    rows = np.asarray(store.select(split=split) if rows is None else rows)
    if len(rows) == 0:
        raise BadInput(f"the store {store.path} has no slices in split {split!r}")
    device = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.eval()
    parts = []
    with torch.no_grad():
        for start in tqdm(range(0, len(rows), batch), desc="encode", unit="batch", disable=not progress):
            images = torch.from_numpy(store.images(rows[start : start + batch])).to(device)  # [b, 1, R, R]
            parts.append(encoder(images).cpu().numpy())
    encoder.train(was_training)
    digest = digest_of_weights(encoder.state_dict())
    behind = its.made_from if its.digest == digest else {}  # not where it was trained on since it was loaded
    return codes_of(store, rows, np.concatenate(parts), {**behind, "encoder": digest}, split)


def codes_of(store, rows, w_plus, made_from: dict[str, str], split: str | None = None) -> Codes:
    """Codes w+ [N, L, latent] of the slices `rows` of a store, with what the store knows of them.

    made_from {kind: digest}: the networks that found them.
    """
    table = store.slices.iloc[rows].copy()
    table["row"] = rows
    table["body_px"] = [int((np.asarray(store.hu[row]) > BODY_HU).sum()) for row in rows]
    made = replace(
        store.learned_from(rows, split),
        kind="codes",
        format=FORMAT,
        made_from=made_from,
        prevalence=None,
        version=__version__,
    )
    info = {
        "resolution": int(store.resolution),
        "store": str(store.digest),
        "encoder": made_from.get("encoder"),
        "window": [float(store.window.lo), float(store.window.hi)],
        "provenance": made.to_dict(),
    }
    return Codes(table[[name for name in COLUMNS if name in table]], w_plus, info)
