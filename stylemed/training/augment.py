"""What the discriminator sees: mild, differentiable changes of real and generated images alike (Karras 2020, ADA).

The set fits CT: a patient lies a little to the side, is a little larger, the table is a little tilted, the contrast agent is a
little stronger, the dose is lower, a part is missing. There is no mirroring and no 90-degree turn, because anatomy has a left
and a right.
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
    brightness: float = 0.1  # of half the window, uniform; from the middle of the window up, less below, none in air
    contrast: float = 0.1  # uniform about 1, of what is above air
    noise: float = 0.05  # largest standard deviation of white noise, of half the window
    cutout: float = 0.3  # side of the square that is set to air, of the image side


def draw(
    shape: tuple[int, int, int, int],
    p: float,
    generator: torch.Generator | None = None,
    ranges: Ranges = Ranges(),  # noqa: B008
) -> dict[str, Tensor]:
    """Parameters of every change for images of `shape` (B, C, H, W), each kind applied to a sample with probability p.

    All have length B along dim 0, so that processes that share a batch can take their samples out of one draw.
    """
    n = shape[0]

    def uniform():
        return torch.rand(n, generator=generator) * 2 - 1

    def on():
        return (torch.rand(n, generator=generator) < p).float()

    moved, turned, scaled, lit, grainy, cut = on(), on(), on(), on(), on(), on()
    strength = torch.rand(n, generator=generator) * ranges.noise * grainy
    return {
        "x": uniform() * 2 * ranges.translation * moved,
        "y": uniform() * 2 * ranges.translation * moved,
        "angle": torch.randn(n, generator=generator) * ranges.rotation * turned,
        "scale": torch.exp(torch.randn(n, generator=generator) * ranges.scale * scaled),
        "brightness": uniform() * ranges.brightness * lit,
        "contrast": 1 + uniform() * ranges.contrast * lit,
        "cut": cut * ranges.cutout,
        "cut_x": uniform(),
        "cut_y": uniform(),
        "noise": torch.randn(shape, generator=generator) * strength[:, None, None, None],
    }


def apply(images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """Images [B, C, H, W] in [-1, 1] changed by `parameters`; differentiable with respect to the images.

    Samples that no geometric change was drawn for are not resampled: their pixels stay sharp.
    """
    moved = (parameters["x"] != 0) | (parameters["y"] != 0) | (parameters["angle"] != 0) | (parameters["scale"] != 1)
    rows = moved.nonzero()[:, 0].to(images.device)  # counted where they were drawn: a GPU need not be waited for
    p = {name: value.to(images.device, images.dtype) for name, value in parameters.items()}
    cos, sin = torch.cos(p["angle"]) / p["scale"], torch.sin(p["angle"]) / p["scale"]
    theta = torch.stack([cos, -sin, -p["x"], sin, cos, -p["y"]], dim=1).reshape(-1, 2, 3)
    if len(rows):
        grid = F.affine_grid(theta[rows], [len(rows), *images.shape[1:]], align_corners=False)
        # Zeros come from outside, so air is made zero for the resampling.
        warped = F.grid_sample(images[rows] - AIR, grid, padding_mode="zeros", align_corners=False) + AIR
        images = images.index_copy(0, rows, warped)
    # Air stays air, as it does on any scanner: where augmentation lifted it, generators learned to draw grey air.
    above, wider, lighter = images - AIR, (p["contrast"] - 1)[:, None, None, None], p["brightness"][:, None, None, None]
    images = images + wider * above + lighter * above.clamp(max=1) + p["noise"]
    height, width = images.shape[2:]
    y = (torch.arange(height, device=images.device) + 0.5) / height * 2 - 1
    x = (torch.arange(width, device=images.device) + 0.5) / width * 2 - 1
    row = (y - p["cut_y"][:, None]).abs() < p["cut"][:, None]  # (B, H)
    column = (x - p["cut_x"][:, None]).abs() < p["cut"][:, None]  # (B, W)
    return images.masked_fill((row[:, :, None] & column[:, None])[:, None], AIR)
