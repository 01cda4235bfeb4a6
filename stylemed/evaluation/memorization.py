"""Is a generated slice a copy? Its distance to the nearest training slice, and what that distance is among real slices.

A generator that has learned by heart draws slices much nearer to a training slice than slices of different patients are
to each other. One number alone says little: read it beside its yardstick, `nearest_other_patient`.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.errors import BadInput
from stylemed.networks.layers import downscale, upscale

SIDE = 32  # pixels: coarse enough that shifting the texture by a pixel does not hide a copy
LARGEST = 1024
CHUNK = 512  # rows compared at a time, so that memory grows with the number of slices and not with its square


def grey(images) -> Tensor:
    """Images [N, C, R, R] in [-1, 1] -> float32 [N, 1, R, R] on the CPU: the mean over channels, at least 32².

    Images below 32² are brought up with nearest neighbours. BadInput unless R is a power of two up to 1024 and every
    value is finite.
    """
    images = torch.as_tensor(images).detach()
    side = images.shape[-1] if images.ndim == 4 else 0
    if not 4 <= side <= LARGEST or images.shape[2] != side or side & (side - 1):
        raise BadInput(
            f"Images must be [N, C, R, R] with R a power of two from 4 to {LARGEST}, not {list(images.shape)}."
        )
    images = images.float().mean(dim=1, keepdim=True).cpu()
    if not torch.isfinite(images).all():
        raise BadInput("Some images hold values that are not finite; the generator that drew them has come apart.")
    return upscale(images, max(1, SIDE // side))


def thumbnails(images) -> Tensor:
    """Images [N, C, R, R] in [-1, 1] -> grey float32 [N, 1, 32, 32], averaged over squares; thumbnails stay as they are."""
    images = grey(images)
    return downscale(images, images.shape[-1] // SIDE)


def nearest(images, train) -> tuple[np.ndarray, np.ndarray]:
    """Each image's nearest training slice: distances [N] (float64, grey values of [-1, 1]) and positions [N] in `train`.

    The distance is the root mean square difference of the pixels at 32². images [N, C, R, R], train [M, C, R', R'];
    either may be thumbnails. BadInput for other shapes, values that are not finite, and an empty `train`.
    """
    if not len(train):
        raise BadInput("There is no training slice to compare with.")
    return _nearest(thumbnails(images), thumbnails(train))


def nearest_other_patient(train, patients=None) -> np.ndarray:
    """The yardstick: each training slice's distance to the nearest slice of another patient, [N], as `nearest` measures it.

    patients: N labels. Without them the nearest *other slice* is taken; neighbours within a volume look alike, so that
    yardstick is shorter and lets copies pass more easily. BadInput unless there are two patients (or two slices).
    """
    labels = np.arange(len(train)) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    if len(labels) != len(train):
        raise BadInput(f"There are {len(train)} slices and {len(labels)} patient labels; give one for each slice.")
    if len(np.unique(labels)) < 2:
        raise BadInput("At least two patients are needed (two slices where patients are unknown).")
    small = thumbnails(train)
    return _nearest(small, small, torch.from_numpy(labels))[0]


def _nearest(images: Tensor, among: Tensor, labels: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`; where labels are given, the two sets are the same and slices of the same label do not count."""
    rows, among = images.flatten(1).double(), among.flatten(1).double()
    distances, positions = [], []
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        apart = torch.cdist(part, among)  # (chunk, M)
        if labels is not None:
            apart.masked_fill_(labels[start : start + CHUNK, None] == labels, torch.inf)
        where = apart.argmin(dim=1)
        # Once more by subtraction: cdist multiplies, which leaves 1e-7 where a copy has 0.
        distances.append(F.mse_loss(part, among[where], reduction="none").mean(dim=1).sqrt())
        positions.append(where)
    if not distances:
        return np.zeros(0), np.zeros(0, np.int64)
    return torch.cat(distances).numpy(), torch.cat(positions).numpy()
