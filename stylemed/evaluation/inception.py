"""Features of Inception v3, for those who have its weights at hand and want a number of the usual kind."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.files import load_state

SIDE = 299  # what the network was trained at


class Inception:
    """The 2048 pooled features of torchvision's Inception v3 (Szegedy 2016).

    The weights are torchvision's, not those of the original FID, so the distances are not to be compared with published ones.
    They come from TensorFlow and read images in [-1, 1]: torchvision's own way, which normalises with ImageNet's mean and
    deviation, takes that back in the network (`transform_input`).

    Args:
        weights: file with the state dict of `torchvision.models.inception_v3`; BadInput when it is missing or something else.
    """

    def __init__(self, weights: str | Path):
        from torchvision.models import inception_v3

        self.network = inception_v3(weights=None, init_weights=False, transform_input=False)
        load_state(self.network, weights, "torchvision Inception v3")
        self.network.fc = torch.nn.Identity()
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """Images [N, C, R, R] in [-1, 1], C 1 or 3 -> float64 [N, 2048]."""
        images = images.float().expand(-1, 3, -1, -1)
        images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        return self.network(images).double().numpy()
