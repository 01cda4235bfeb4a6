"""Features of Inception v3, for those who have its weights at hand and want a number of the usual kind."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.networks.encoder import load_state

SIDE = 299  # what the network was trained at
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours


class Inception:
    """The 2048 pooled features of torchvision's Inception v3 (Szegedy 2016).

    The weights are torchvision's, not those of the original FID, so the distances are not to be compared with published ones.

    Args:
        weights: file with the state dict of `torchvision.models.inception_v3`; BadInput when it is missing or something else.
    """

    def __init__(self, weights: str | Path):
        from torchvision.models import inception_v3

        self.network = inception_v3(weights=None, init_weights=False)
        load_state(self.network, weights, "torchvision Inception v3")
        self.network.fc = torch.nn.Identity()
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """Images [N, C, R, R] in [-1, 1], C 1 or 3 -> float64 [N, 2048]."""
        images = images.float().expand(-1, 3, -1, -1)
        images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        mean, deviation = (torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
        return self.network(((images + 1) / 2 - mean) / deviation).double().numpy()
