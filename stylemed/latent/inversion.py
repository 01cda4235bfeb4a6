"""Inversion: the style whose image is nearest to a given slice, found by descent for each slice by itself.

It needs hundreds of steps where an encoder needs one, and is what an encoder is measured against: what even inversion misses is
missing in the generator, the rest is the encoder's error (Abdal 2019, Image2StyleGAN; Karras 2020, StyleGAN2, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from stylemed.errors import BadInput
from stylemed.training.reconstruction import ReconstructionLoss

DRAWN = 4096  # latents that the spread of w is measured on
WARM, COOL = 0.05, 0.25  # shares of the steps over which the rate rises from and falls to 0 (Karras 2020, appendix D)


@dataclass(frozen=True)
class Inversion:
    """What was found for N images.

    Attributes:
        w_plus: float32 [N, L, latent]; in space "w" all L rows of an image are the same.
        losses: float32 [N, steps + 1], before each step and after the last.
        drift: float32 [N], root mean square distance of the rows from the mean w, in standard deviations of w: generated images lie
            near 1, and far beyond it a picture may fit while the generator no longer knows what it draws.
    """

    w_plus: np.ndarray
    losses: np.ndarray
    drift: np.ndarray


def invert(
    generator,
    images: Tensor,
    *,
    space: str = "w+",
    start: Tensor | np.ndarray | None = None,
    steps: int = 1000,
    rate: float = 0.05,
    near: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    batch: int = 8,
    progress: bool = True,
) -> Inversion:
    """Adam on the style of each image, with the generator and its stored noise fixed.

    Args:
        images: [N, C, R, R] in [-1, 1], as the generator makes them.
        space: "w" (one style for all layers) or "w+" (one for each).
        start: styles [N, L, latent] to begin from, such as an encoder's; None: the mean w.
        steps: of descent; 0 gives back the start.
        rate: largest learning rate, in standard deviations of each component of w.
        near: weight of the mean squared distance of the rows of w+ from their mean, in units of the variance of w, which keeps w+
            near W (Tov 2021, e4e); 0 lets every row go where it likes.
        loss: (images, wanted) -> [B]; `ReconstructionLoss()` unless given.
        batch: images at a time; each goes its own way, so it changes the speed only.

    BadInput for images of another size, a start of another shape, an unknown space.
    """
    images = torch.as_tensor(images)
    shape = (generator.channels, generator.resolution, generator.resolution)
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        raise BadInput(
            f"The generator makes images {list(shape)}, these are {list(images.shape[1:])}; prepare them at that size."
        )
    if space not in ("w", "w+"):
        raise BadInput(f"space must be w or w+, not {space}.")
    if steps < 0:
        raise BadInput(f"steps cannot be {steps}; 0 gives back the start.")
    device, rows = generator.w_avg.device, generator.num_layers if space == "w+" else 1
    mean, std = spread_of_w(generator)
    if start is None:
        begun = torch.zeros(len(images), rows, generator.latent_size, device=device)
    else:
        begun = torch.as_tensor(np.asarray(start), device=device)
        if begun.shape != (len(images), generator.num_layers, generator.latent_size):
            raise BadInput(
                f"The start must be styles [{len(images)}, {generator.num_layers}, {generator.latent_size}], not "
                f"{list(begun.shape)}; encode the same images with an encoder of this generator."
            )
        begun = (begun - mean) / std
        begun = begun if space == "w+" else begun.mean(dim=1, keepdim=True)
    loss = loss or ReconstructionLoss()
    found, losses = [], []
    with tqdm(total=steps * math.ceil(len(images) / batch), desc="invert", unit="step", disable=not progress) as bar:
        for wanted, v in zip(images.split(batch), begun.split(batch), strict=True):
            v, curve = _descend(generator, wanted.to(device), v, (mean, std), steps, rate, near, loss, bar)
            found.append(v)
            losses.append(curve)
    v = torch.cat(found)
    w_plus = (v * std + mean).expand(-1, generator.num_layers, -1)
    drift = v.square().mean(dim=(1, 2)).sqrt()
    return Inversion(w_plus.cpu().numpy().copy(), torch.cat(losses).cpu().numpy(), drift.cpu().numpy())


def spread_of_w(generator, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of w over mapped latents, [latent] each."""
    z = torch.randn(DRAWN, generator.latent_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        w = generator.mapping(z.to(generator.w_avg.device))
    return w.mean(dim=0), w.std(dim=0).clamp_min(1e-6)


def _descend(generator, wanted, v, spread, steps, rate, near, loss, bar) -> tuple[Tensor, Tensor]:
    """v [B, rows, latent] in standard deviations -> (where the descent ends, losses [B, steps + 1])."""
    mean, std = spread
    v = v.clone().requires_grad_(steps > 0)
    optimizer = torch.optim.Adam([v], lr=rate, betas=(0.9, 0.999))
    curve = []

    def now() -> Tensor:
        styles = (v * std + mean).expand(-1, generator.num_layers, -1)
        value = loss(generator.synthesis(styles), wanted)
        if near > 0:
            value = value + near * (v - v.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2))
        curve.append(value.detach())
        return value

    for step in range(steps):
        left = min(1.0, (1 - step / steps) / COOL)
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / (WARM * steps), 0.5 - 0.5 * math.cos(math.pi * left))
        (gradient,) = torch.autograd.grad(now().sum(), v)
        v.grad = gradient
        optimizer.step()
        bar.update()
    with torch.no_grad():
        now()
    return v.detach(), torch.stack(curve, dim=1)
