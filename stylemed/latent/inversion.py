"""Inversion: the style whose image is nearest to a given slice, found by descent for each slice by itself.

It needs hundreds of steps where an encoder needs one, and is what an encoder is measured against: what even inversion misses is
missing in the generator, the rest is the encoder's error (Abdal 2019, Image2StyleGAN; Karras 2020, StyleGAN2, section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from stylemed.errors import BadInput
from stylemed.files import digest_of_weights, load_tensors, save_tensors
from stylemed.latent.codes import Codes, codes_of, encode_store
from stylemed.provenance import Provenance, belong_together
from stylemed.training.image_loss import ReconstructionLoss

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
    rate: float | None = None,
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
        rate: largest learning rate, in standard deviations of each component of w. None: 0.05 for 1,000 steps, and more for fewer,
            as the square root of 1,000 / steps, up to 0.2: of 0.05 to 0.4, that went farthest in 50 steps (benchmarks/RESULTS.md).
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
    loss, rate = loss or ReconstructionLoss(), usual_rate(steps) if rate is None else rate
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


def usual_rate(steps: int) -> float:
    """The learning rate of `invert` where none is given."""
    return min(0.05 * math.sqrt(1000 / max(steps, 1)), 0.2)


def invert_store(
    store,
    generator,
    rows,
    *,
    encoder=None,
    split: str | None = None,
    partial: str | Path | None = None,
    at_once: int = 32,
    progress: bool = True,
    **options,
) -> Codes:
    """`invert` for slices of a store -> Codes.

    Args:
        encoder: descent begins at its answers instead of the mean w.
        partial: file that keeps what is done, `at_once` slices at a time, for the same call to go on from; to be
            deleted when the codes are saved.
        options: of `invert` (space, steps, rate, near, loss).

    BadInput where store, generator and encoder do not belong together, or the file holds the part of another inversion.
    """
    rows = np.asarray(rows)
    check_networks(store, generator, encoder)
    made_from = {"generator": digest_of_weights(generator.state_dict())}
    if encoder is not None:
        made_from["encoder"] = digest_of_weights(encoder.state_dict())
    partial = None if partial is None else Path(partial)
    asked = {name: value for name, value in options.items() if name != "loss"} | {"made_from": made_from}
    asked |= {"store": store.digest, "rows": [int(row) for row in rows]}
    found = np.zeros((0, generator.num_layers, generator.latent_size), np.float32)
    if partial is not None and partial.exists():
        kept, header = load_tensors(partial, "inversion")
        if header["asked"] != asked:
            raise BadInput(f"{partial} is the beginning of another inversion; delete it, or name another output.")
        found = kept["w_plus"]
    with tqdm(total=len(rows), initial=len(found), desc="invert", unit="slice", disable=not progress) as bar:
        while len(found) < len(rows):
            part = rows[len(found) : len(found) + at_once]
            images = torch.from_numpy(store.images(part))
            start = None
            if encoder is not None:
                with torch.no_grad():
                    start = encoder(images)
            found = np.concatenate([found, invert(generator, images, start=start, progress=False, **options).w_plus])
            bar.update(len(part))
            if partial is not None:
                save_tensors(partial, "inversion", {"w_plus": found}, {"asked": asked})
    return codes_of(store, rows, found, made_from, split)


def codes_by(store, generator, encoder, rows, *, steps: int = 0, partial=None, progress: bool = True) -> Codes:
    """The encoder's codes of slices, and `steps` of descent from there: `encode_store`, or `invert_store` with an encoder."""
    if steps == 0:
        return encode_store(store, encoder, rows=rows, progress=progress)
    return invert_store(store, generator, rows, encoder=encoder, steps=steps, partial=partial, progress=progress)


def check_networks(store, generator, encoder=None) -> None:
    """BadInput where generator, store and encoder do not belong together; patients may be new ones."""
    if generator.resolution != store.resolution:
        raise BadInput(
            f"The generator makes {generator.resolution}² images but the store {store.path} holds {store.resolution}² slices; "
            f"prepare the store with --resolution {generator.resolution}."
        )
    of_generator = getattr(generator, "provenance", Provenance())
    cure = "prepare the store as the generator's was"
    names = ("the generator", f"the store {store.path}")
    belong_together(of_generator, store.provenance, names=names, same_store=False, cure=cure)
    if encoder is not None:
        of_encoder = getattr(encoder, "provenance", Provenance())
        cure = "give the encoder that was trained for this generator"
        belong_together(of_generator, of_encoder, names=("the generator", "the encoder"), same_store=False, cure=cure)


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
