"""Codes of generated images that a labeller has labelled: no end of images where patients are few.

A direction found on them (Shen 2020, InterFaceGAN, section 3.1) is that of the labeller's answers: it holds the labeller's errors,
and whatever goes with the class among generated images. `matched` takes liver area and height out of that.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from stylemed import __version__
from stylemed.errors import BadInput
from stylemed.files import FORMAT, digest_of_weights
from stylemed.latent.codes import Codes
from stylemed.latent.direction import labels_of
from stylemed.latent.mixing import synthesize
from stylemed.provenance import Provenance, belong_together
from stylemed.training.loop import random_stream
from stylemed.training.reader import PHASES

MATCHED = ("liver_px", "height")
BINS = 10  # of each number that classes are matched in


def findings_of_samples(generator, reader, z: Tensor, psi: float = 1.0, batch: int = 64, progress: bool = False):
    """Latents z [N, latent] -> styles [N, L, latent] truncated by psi (1: not at all), the reader's table of their images, and the
    pixels of the body that it outlines [N]. The noise is the stored one."""
    styles, tables, bodies = [], [], []
    for part in tqdm(z.split(batch), desc="label", unit="batch", disable=not progress):
        with torch.no_grad():
            w_plus = generator.broadcast(generator.mapping(part.to(generator.w_avg.device)))
            w_plus = w_plus if psi == 1 else generator.truncate(w_plus, psi)
        images = synthesize(generator, w_plus, batch)
        found = reader.findings(images.float().mean(dim=1, keepdim=True).clamp(-1, 1))
        tables.append(found.table)
        bodies.append((found.masks >= 1).sum(axis=(1, 2)))
        styles.append(w_plus.cpu().numpy().copy())
    return np.concatenate(styles), pd.concat(tables, ignore_index=True), np.concatenate(bodies)


def label_samples(
    generator,
    labeller,
    count: int = 20_000,
    *,
    psi: float = 1.0,
    seed: int = 0,
    batch: int = 64,
    progress: bool = True,
    names: tuple[str, str] = ("the generator", "the labeller"),
) -> Codes:
    """Codes of `count` generated images, each a patient of its own, with the labeller's answers in the place of labels.

    psi: truncation, 1 for none. The table has all columns of `Findings.table`, body_px, phase_none, phase_arterial and phase_portal
    (0/1). A tumor is known where the labeller's two answers agree: it says that there is one, and outlines it, or neither; else
    tumor_known is 0. The provenance names the patients that generator and labeller have learned from.
    BadInput, with `names`, for a judge in the place of the labeller, and for two that do not belong together.
    """
    if getattr(labeller, "kind", "labeller") != "labeller":
        raise BadInput(
            f"{names[1]} is a {labeller.kind}, which only measures; give a labeller (stylemed train labeller)."
        )
    if count < 1:
        raise BadInput(f"{count} images cannot be labelled; ask for at least 1.")
    its, of_labeller = (getattr(network, "provenance", Provenance()) for network in (generator, labeller))
    cure = "train a labeller on slices like those of the generator"
    belong_together(its, of_labeller, names=names, same_store=False, cure=cure)
    z = torch.randn(count, generator.latent_size, generator=random_stream(seed, 0, "label"))
    w_plus, told, body_px = findings_of_samples(generator, labeller, z, psi, batch, progress)
    name = [f"sample {seed}/{i}" for i in range(count)]
    table = pd.DataFrame({"row": range(count), "case": name, "patient": name, "split": "", "modality": "", "z": 0})
    table = pd.concat([table, told], axis=1).assign(
        body_px=body_px, tumor_known=(told["tumor"] == (told["tumor_px"] > 0)) + 0
    )
    for phase in PHASES:
        table[f"phase_{phase}"] = (told["phase"] == phase).astype(int)
    made_from = {
        "generator": digest_of_weights(generator.state_dict()),
        "labeller": digest_of_weights(labeller.network.state_dict()),
    }
    patients = {**of_labeller.patients, **its.patients}
    made = replace(its, kind="codes", format=FORMAT, digest=None, made_from=made_from, patients=patients, seed=seed)
    made = replace(made, nimg=None, prevalence=None, version=__version__)
    info = {"resolution": generator.resolution, "store": its.store, "encoder": None, "window": its.window}
    info |= {"generated": count, "psi": psi, "provenance": made.to_dict()}
    return Codes(table, w_plus, info)


def matched(codes: Codes, label: str = "tumor", by=MATCHED, bins: int = BINS, seed: int = 0) -> Codes:
    """As many codes with the label as without in every stratum; who finds no partner, and whose label is unknown, is left out.

    A stratum is a cell of `by`: numbers in `bins` parts of equal count, text as it is. BadInput for an unknown column or label, and
    where no stratum holds both classes.
    """
    y, strata = labels_of(codes.table, label), pd.DataFrame(index=codes.table.index)
    for name in by:
        if name not in codes.table:
            raise BadInput(f"cannot match in {name!r}: use a column of the codes, such as liver_px or height.")
        values = codes.table[name]
        if pd.api.types.is_numeric_dtype(values):
            edges = np.unique(np.quantile(values[np.isfinite(y)].dropna(), np.linspace(0, 1, bins + 1)[1:-1]))
            values = pd.Series(np.searchsorted(edges, values, "right"), values.index).where(values.notna())
        strata[name] = values
    stratum = strata.groupby(list(by), sort=True).ngroup().to_numpy() if len(by) else np.zeros(len(codes), int)
    order, kept = np.random.default_rng(seed).permutation(len(codes)), []
    for number in np.unique(stratum[stratum >= 0]):
        with_, without = (order[(stratum[order] == number) & (y[order] == value)] for value in (1, 0))
        pairs = min(len(with_), len(without))
        kept += [with_[:pairs], without[:pairs]]
    kept = np.sort(np.concatenate(kept)) if kept else np.zeros(0, int)
    if not len(kept):
        raise BadInput(
            f"Of {len(codes)} codes {np.sum(y == 1)} have {label} and {np.sum(y == 0)} have not, and none of them can be "
            f"matched in {', '.join(by)}; label more images, or match in less."
        )
    return codes.select(kept)
