"""Whose factors does a mixture have? Pairs of random styles, one level taken from B and all else from A, read by a judge.

The paper infers from pictures that coarse styles decide on the tumor and fine ones on the look of the modality (figure 1). What no
style holds lies in the constant and in the noise, so the noise of A and B differs too and is taken from B like a level.
"""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from stylemed.data.body import body_piece
from stylemed.latent.effects import follows
from stylemed.latent.generation import random_styles
from stylemed.latent.mixing import LEVELS, layers_of, mix, synthesize
from stylemed.provenance import Provenance, belong_together
from stylemed.studies import Result, digests_of
from stylemed.training.reader import PHASES


def run(generator, judge, *, pairs: int = 500, seed: int = 0) -> Result:
    """Table `attribution`: factor, level (coarse, middle, fine, each resolution, all styles, noise), and `follows` of the pairs.

    pairs: of untruncated random styles. BadInput where generator and judge do not belong together.
    """
    its, of_judge = (getattr(network, "provenance", Provenance()) for network in (generator, judge))
    cure = "give a judge that learned from slices like those of the generator"
    belong_together(its, of_judge, names=("the generator", "the judge"), same_store=False, cure=cure)
    began = time.monotonic()
    styles = random_styles(generator, 2 * pairs, psi=1.0, seed=seed)
    a, b = styles[:pairs], styles[pairs:]
    noise_a, noise_b = 2 * seed + 1, 2 * seed + 2

    def told(w_plus, noise: int) -> dict[str, np.ndarray]:
        return factors(judge, synthesize(generator, w_plus, noise_seed=noise))

    of_a, of_b, rows = told(a, noise_a), told(b, noise_b), []
    levels = [name for name in LEVELS if layers_of(name, generator.num_layers)]
    levels += [str(side) for side in generator.resolutions]
    ways = {level + "²" * level.isdecimal(): (mix(a, b, level), noise_a) for level in levels}
    ways |= {"all styles": (b, noise_a), "noise": (a, noise_b)}
    for level, (w_plus, noise) in ways.items():
        of_mixture = told(w_plus, noise)
        for name in of_a:
            found = follows(of_a[name], of_b[name], of_mixture[name], seed)
            rows.append({"factor": name, "level": level} | found)
    table = pd.DataFrame(rows).sort_values("factor", key=lambda names: names.map(list(of_a).index), kind="stable")
    made_from = digests_of({"generator": generator, "judge": judge})
    settings = {"pairs": pairs, "resolution": generator.resolution}
    minutes = (time.monotonic() - began) / 60
    return Result("attribution", {"attribution": table}, str(its.store or ""), made_from, seed, settings, minutes)


def factors(judge, images) -> dict[str, np.ndarray]:
    """What a judge reads in images [N, 1, R, R], as `follows` takes it: [N] or [N, d], NaN where there is no such thing.

    The body is what the judge outlines: a grey level alone loses it where fat is below the window or air is not black. A tumor's
    place only where there is one; phase (one column each: a third phase counts half), kernel and noise only in CT.
    """
    found = judge.findings(images)
    table, liver = found.table, found.masks >= 2
    body = np.stack([body_piece(mask > 0, thin=0) for mask in found.masks])
    mr = table["modality_mr"].to_numpy() > 0.5
    ct_only = np.where(mr, np.nan, 1.0)
    phase = np.stack([table["phase"] == name for name in PHASES], axis=1).astype(float)
    return {
        "tumor present": table["tumor"].to_numpy(float),
        "tumor place": table[["tumor_x", "tumor_y"]].to_numpy(float),
        "liver area": table["liver_px"].to_numpy(float),
        "liver shape": _flat(liver),
        "body area": body.sum(axis=(1, 2)).astype(float),
        "body shape": _flat(body),
        "height": table["height"].to_numpy(float),
        "modality": mr.astype(float),
        "phase": phase * ct_only[:, None],
        "kernel": (table["kernel_sharp"].to_numpy() > 0.5) * ct_only,
        "noise": table["noise_hu"].to_numpy(float) * ct_only,
    }


def _flat(masks: np.ndarray) -> np.ndarray:
    return masks.reshape(len(masks), -1).astype(np.float32)
