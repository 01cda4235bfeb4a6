"""The shape of a cloud of latents: its principal axes."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_plane(points: Tensor) -> Tensor:
    """Points [n, D] along their first two principal axes -> [n, 2], centred, in units of their total standard deviation."""
    centred = (points - points.mean(dim=0)).detach()
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T / centred.square().sum(dim=1).mean().sqrt()


def components_for(points: Tensor, share: float = 0.9) -> int:
    """How many principal axes hold `share` of the variance of points [n, D]."""
    power = torch.linalg.svdvals((points - points.mean(dim=0)).double()).square()
    return int((power.cumsum(0) / power.sum() < share).sum()) + 1
