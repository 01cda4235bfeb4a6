"""The intro's moving slices: styles go round in W, all of them or a level at a time. `stylemed book picture` draws them."""

from __future__ import annotations

import math

import torch

from stylemed.latent.generation import random_styles
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
