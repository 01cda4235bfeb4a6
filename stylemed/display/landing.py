"""What the intro shows of a released model: slices that move, and slices with a tumor put in (`stylemed book picture`)."""

from __future__ import annotations

import math

import numpy as np
import torch

from stylemed.latent.generation import random_styles
from stylemed.latent.guided import guided_edit
from stylemed.latent.mixing import LEVELS, layers_of, synthesize

STOPS = 3  # slices that a round passes, the first one again at its end
FRAMES = 12  # from one to the next
PSI = 0.7  # truncation


@torch.no_grad()
def round_trips(generator, seed: int = 0) -> dict[str, torch.Tensor]:
    """One slice on four ways, each back where it began: {name: images [STOPS * FRAMES, 1, R, R] in [-1, 1]}.

    "all": all styles go to those of other slices in turn. "coarse", "middle", "fine": those of this level do, the others stay.
    What is drawn comes from `seed`; nothing is chosen.
    """
    stops = random_styles(generator, STOPS, PSI, seed)  # [STOPS, L, latent]
    eased = (1 - (math.pi * torch.arange(FRAMES) / FRAMES).cos())[:, None, None] / 2  # slow where a slice is
    there = torch.cat([torch.lerp(a, b, eased) for a, b in zip(stops, stops.roll(-1, 0), strict=True)])
    ways = {}
    for level in ("all", *LEVELS):
        layers = layers_of(level, generator.num_layers)
        w_plus = stops[0].repeat(len(there), 1, 1)
        w_plus[:, layers] = there[:, layers]
        ways[level] = synthesize(generator, w_plus).clamp(-1, 1)
    return ways


def with_tumors(generator, labeller, per_unit: float, count: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Slices without tumor, and the same after `guided_edit` was asked for one: images [count, 1, R, R] in [-1, 1] each.

    They are the first that come from `seed` in which the labeller sees no tumor, and a liver on a twentieth of the image.
    per_unit: HU in an image step of 1, as `Window.per_unit`.
    """
    styles = random_styles(generator, 12 * count, PSI, seed)
    images = synthesize(generator, styles).clamp(-1, 1)
    seen = labeller.findings(images).table
    free = (seen["tumor"] == 0) & (seen["liver_px"] > images.shape[-1] ** 2 / 20)
    chosen = np.flatnonzero(free)[:count]
    edited = guided_edit(generator, labeller, styles[chosen], 1, per_unit=per_unit, seed=seed)
    after = synthesize(generator, torch.as_tensor(edited.w_plus)).clamp(-1, 1)
    return images[chosen].numpy(), after.numpy()
