"""An edit that looks for its own way: the code of each slice moves until a labeller reads the asked outline, and the rest stays.

One direction for all slices cannot know where a tumor lies. Here every slice has its own path, found by descent in w+ through
generator and labeller; it goes beyond the paper. The labeller is a party to the edit, so only a judge may say what came of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from stylemed.errors import BadInput
from stylemed.latent.inversion import spread_of_w
from stylemed.latent.mixing import synthesize
from stylemed.networks.reader import CLASSES
from stylemed.provenance import Provenance, belong_together

LIVER, TUMOR = CLASSES.index("liver"), CLASSES.index("tumor")
MARGIN = 2  # pixels around the asked change that may change with it: nothing ends sharply after the blur
SURE = 4.0  # log odds beyond the labeller's threshold that are asked for
HU = 10.0  # unit of what else changes: so many HU weigh as much as a nat of the labeller's answer
RATE = 0.05  # of Adam, in standard deviations of w
RISE, FALL = 5, 0.3  # steps over which the rate rises, and share of the steps over which it falls


@dataclass(frozen=True)
class Guided:
    """Edited slices: codes w_plus float32 [N, L, latent]; where a change was asked for, bool [N, R, R].

    That is empty where a removed tumor has no outline for the labeller; then only its answer is asked for.
    """

    w_plus: np.ndarray
    asked: np.ndarray


def guided_edit(
    generator,
    labeller,
    w_plus,
    wanted: int,
    *,
    per_unit: float,
    places=None,
    radius: float | Sequence[float] = 3.0,
    keep: float = 1.0,
    steps: int = 150,
    batch: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> Guided:
    """Codes [N, L, latent] moved until the labeller reads a tumor at a place (wanted 1), or none any more (wanted 0).

    Args:
        per_unit: HU in an image step of 1, as `Window.per_unit`.
        places: centres (x, y) [N, 2] of the tumors to add, in pixels from the upper left; None: drawn from `seed` within the liver
            that the labeller outlines, as far from its edge as it allows.
        radius: of an added tumor, in pixels, or of each [N]. A removed one has the labeller's outline.
        keep: weight of what else changes: mean absolute change of the rest of the liver, and of the body outside, in tens of HU.
        steps: of Adam for each slice.

    Minimized is, for each slice: the labeller's cross-entropy where the change is asked for and in the rest of its liver; its
    answer whether there is a tumor, until it is sure; and keep times what else changes.
    BadInput for a judge in the place of a labeller, for places outside the image, and where the two do not belong together.
    """
    if getattr(labeller, "kind", "labeller") != "labeller":
        raise BadInput(f"A {labeller.kind} only measures and may not guide an edit; give a labeller.")
    its, of_labeller = (getattr(network, "provenance", Provenance()) for network in (generator, labeller))
    cure = "train a labeller on slices like those of the generator"
    belong_together(its, of_labeller, names=("the generator", "the labeller"), same_store=False, cure=cure)
    w_plus = torch.as_tensor(np.asarray(w_plus), dtype=torch.float32)
    before = torch.as_tensor(synthesize(generator, w_plus), dtype=torch.float32)
    masks = labeller.findings(before).masks
    if wanted:
        radius = np.broadcast_to(np.asarray(radius, dtype=float), len(w_plus))
        places = _drawn(masks, radius, seed) if places is None else _checked(places, before.shape)
        asked = _discs(places, radius, before.shape[-1]) & (masks >= LIVER)
    else:
        asked = masks == TUMOR
    goal = np.where(asked, TUMOR if wanted else LIVER, masks)
    mean, std = spread_of_w(generator)
    moved = []
    with tqdm(total=len(w_plus) * steps, desc="edit", unit="step", disable=not progress) as bar:
        for part in torch.arange(len(w_plus)).split(batch):
            parts = (torch.as_tensor(x)[part] for x in (before, asked, goal.astype(np.int64), masks))
            start = (w_plus[part] - mean.cpu()) / std.cpu()
            aim = _Aim(*parts, wanted, keep * per_unit / HU)
            moved.append(_descend(generator, labeller, start, (mean, std), aim, steps, bar))
    return Guided(torch.cat(moved).cpu().numpy(), asked)


def local_edit(slices, before, after, asked) -> Tensor:
    """The change of an edit put into the slices themselves [N, 1, R, R], around the place asked for; the rest is untouched.

    before, after: what the generator draws without the edit and with it; asked [N, R, R]: `Guided.asked`. An aid beyond the paper:
    what the generator cannot draw (noise, sharp edges) stays that of the slice, and nothing elsewhere can change.
    """
    mask = torch.as_tensor(np.asarray(asked))[:, None].float()
    mask = F.max_pool2d(mask, 2 * MARGIN + 1, stride=1, padding=MARGIN)
    mask = F.avg_pool2d(mask, 3, stride=1, padding=1)  # no seam
    slices, before, after = (torch.as_tensor(images) for images in (slices, before, after))
    return (slices + mask * (after - before)).clamp(-1, 1)


class _Aim:
    """What is minimized for some slices."""

    def __init__(self, before: Tensor, asked: Tensor, goal: Tensor, masks: Tensor, wanted: int, weight: float):
        free = F.max_pool2d(asked[:, None].float(), 2 * MARGIN + 1, stride=1, padding=MARGIN)[:, 0]
        liver = (masks >= LIVER).float()
        self.before, self.goal, self.sign, self.weight = before, goal, 1 if wanted else -1, weight
        self.asked, self.rest = asked.float(), liver * (1 - asked.float())
        self.kept = liver * (1 - free), (masks > 0).float() * (1 - liver) * (1 - free)

    def __call__(self, images: Tensor, labeller) -> Tensor:
        """[B, 1, R, R] -> [B]"""
        logits, heads = labeller.network(images.clamp(-1, 1))
        read = F.cross_entropy(logits, self.goal, reduction="none")
        answer = heads["present"][:, 0] - labeller.threshold
        change = (images - self.before).abs()[:, 0]
        loss = _over(read, self.asked) + _over(read, self.rest) + F.softplus(SURE - self.sign * answer)
        return loss + self.weight * sum(_over(change, where) for where in self.kept)


def _over(values: Tensor, where: Tensor) -> Tensor:
    """Mean of [B, R, R] within a mask, [B]; 0 where it is empty."""
    return (values * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp_min(1)


def _descend(generator, labeller, v: Tensor, spread, aim: _Aim, steps: int, bar) -> Tensor:
    mean, std = spread
    v = v.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([v], lr=RATE)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / RISE, (1 - step / steps) / FALL)
        with torch.enable_grad():
            loss = aim(generator.synthesis(v * std + mean), labeller).sum()
            (v.grad,) = torch.autograd.grad(loss, v)
        optimizer.step()
        bar.update(len(v))
    return (v * std + mean).detach()


def _drawn(masks: np.ndarray, radii: np.ndarray, seed: int) -> np.ndarray:
    """A centre (x, y) for each image, in the liver, a radius and a pixel from its edge, or in its middle where it is too thin."""
    from scipy.ndimage import distance_transform_edt

    random, places = np.random.default_rng(seed), []
    for liver, radius in zip(masks >= LIVER, radii, strict=True):
        depth = distance_transform_edt(liver)
        y, x = random.permutation(np.argwhere(depth >= min(radius + 1, depth.max())))[0]
        places.append((x, y))
    return np.array(places, dtype=float).reshape(-1, 2)


def _checked(places, shape) -> np.ndarray:
    places, side = np.asarray(places, dtype=float), shape[-1]
    if places.shape != (shape[0], 2) or not ((places >= 0) & (places < side)).all():
        raise BadInput(
            f"places must be {shape[0]} centres (x, y) from 0 to {side - 1} pixels; give one for each slice."
        )
    return places


def _discs(places: np.ndarray, radii: np.ndarray, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.hypot(x - places[:, :1, None], y - places[:, 1:, None]) <= radii[:, None, None]
