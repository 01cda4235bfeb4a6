"""128 fixed features of a slice: nothing to download, nothing learned.

Inception's features (Heusel et al. 2017) were learned on photographs, have to be downloaded, and have 2048 dimensions: a few
hundred training slices leave their covariance singular and a distance mostly sampling error. The features here are written down
beforehand, and few enough for the slices at hand.
"""

import numpy as np
import torch
from torch import Tensor

from stylemed.evaluation.memorization import grey
from stylemed.networks.layers import downscale, upscale

LAYOUT = 8  # side of the coarse image
CELLS, BANDS = 4, 4  # detail: 4 bands, each in 4x4 cells
FAINT = 0.01  # about one step of 8-bit grey: detail below it counts as none, so that the log of plain air is not -inf
BATCH = 32


def features(images, batch: int = BATCH) -> np.ndarray:
    """Images [N, C, R, R] in [-1, 1] -> float64 [N, 128]; R a power of two up to 1024, channels averaged to grey.

    - 64 of layout: the image averaged to 8×8. Says where things are, and how bright.
    - 64 of detail: how strong the structure of each size is in each of 4×4 cells. An octave is the image at one size less
      the same image at half that size (a Laplacian pyramid with 2×2 means, after Burt and Adelson 1983); its strength is
      the mean absolute value, in logarithms because strengths are skewed and ratios are what the eye sees, while the
      Fréchet distance takes every feature for normal. The octaves from R down to 8 make four bands, finest first; above
      64² neighbouring octaves share a band (the mean of their logarithms), so that no size of structure is left out.

    Images below 32² are brought up to it with nearest neighbours. BadInput for other shapes and values that are not finite.
    """
    images = torch.as_tensor(images)
    parts = [features_of_grey(grey(part)) for part in images.split(batch)]
    return torch.cat(parts).numpy()


def features_of_grey(image: Tensor) -> Tensor:
    """Grey images [n, 1, R, R] -> float64 [n, 128]."""
    side = image.shape[-1]
    layout = downscale(image, side // LAYOUT).flatten(1).double()  # (n, 64)
    octaves = []
    for _ in range(max(BANDS, side.bit_length() - LAYOUT.bit_length() + 1)):
        coarser = downscale(image)
        strength = downscale((image - upscale(coarser)).abs(), image.shape[-1] // CELLS)
        octaves.append((strength.flatten(1).double() + FAINT).log())  # (n, 16)
        image = coarser
    bands = [band.mean(dim=0) for band in torch.stack(octaves).tensor_split(BANDS)]
    return torch.cat([layout, *bands], dim=1)
