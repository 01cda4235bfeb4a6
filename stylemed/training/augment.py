"""What the discriminator sees: mild, differentiable changes of real and generated images alike (Karras 2020, ADA).

The set fits CT: a patient lies a little to the side, is a little larger, the table is a little tilted, the contrast agent is a
little stronger. There is no mirroring and no 90-degree turn, because anatomy has a left and a right.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

AIR = -1.0  # what lies outside the image


@dataclass(frozen=True)
class Ranges:
    """How far each change goes when it is applied."""

    translation: float = 0.12  # of the image side, uniform
    rotation: float = 0.1  # standard deviation, radians
    scale: float = 0.1  # standard deviation of log scale
    brightness: float = 0.1  # of half the window, uniform
    contrast: float = 0.1  # uniform about 1


def draw(n: int, p: float, generator: torch.Generator | None = None, ranges: Ranges = Ranges()) -> dict[str, Tensor]:  # noqa: B008
    """Parameters [n] of every change, each kind applied to a sample with probability p."""

    def uniform():
        return torch.rand(n, generator=generator) * 2 - 1

    def on():
        return (torch.rand(n, generator=generator) < p).float()

    moved, turned, scaled, lit = on(), on(), on(), on()
    return {
        "x": uniform() * 2 * ranges.translation * moved,
        "y": uniform() * 2 * ranges.translation * moved,
        "angle": torch.randn(n, generator=generator) * ranges.rotation * turned,
        "scale": torch.exp(torch.randn(n, generator=generator) * ranges.scale * scaled),
        "brightness": uniform() * ranges.brightness * lit,
        "contrast": 1 + uniform() * ranges.contrast * lit,
    }


def apply(images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """Images [B, C, H, W] in [-1, 1] changed by `parameters`; differentiable with respect to the images.

    Samples that no geometric change was drawn for keep their pixels exactly.
    """
    p = {name: value.to(images.device, images.dtype) for name, value in parameters.items()}
    cos, sin = torch.cos(p["angle"]) / p["scale"], torch.sin(p["angle"]) / p["scale"]
    theta = torch.stack([cos, -sin, -p["x"], sin, cos, -p["y"]], dim=1).reshape(-1, 2, 3)
    moved = (p["x"] != 0) | (p["y"] != 0) | (p["angle"] != 0) | (p["scale"] != 1)
    rows = moved.nonzero()[:, 0]
    if len(rows):
        grid = F.affine_grid(theta[rows], [len(rows), *images.shape[1:]], align_corners=False)
        # Zeros come from outside, so air is made zero for the resampling.
        warped = F.grid_sample(images[rows] - AIR, grid, padding_mode="zeros", align_corners=False) + AIR
        images = images.index_copy(0, rows, warped)
    return images * p["contrast"][:, None, None, None] + p["brightness"][:, None, None, None]
