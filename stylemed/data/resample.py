"""How a slice gets its R x R pixels.

The whole image is kept, made square with air where it is not; or, at a given size of pixel, the square about its middle; or
any other square, with air where it reaches beyond the image.
HU: mean over the area of each new pixel when shrinking, linear interpolation when growing, before any window.
Labels: a pixel is liver where at least half of its area is liver or tumor, and tumor where tumor has at least half of
that part. What a slice held is never lost: where no pixel reaches the half, the one with the largest share of tumor
(or liver) gets the label.
"""

from __future__ import annotations

import numpy as np


class Resampler:
    """Brings slices [Y, X] of one grid to R x R by weights that are computed once."""

    def __init__(self, shape, spacing_mm, resolution, mm=None, square=None):
        """shape [Y, X] and spacing_mm (y, x) of the slices; mm: of a new pixel; square: top, left and side in mm."""
        whole = max(n * size for n, size in zip(shape, spacing_mm, strict=True))  # a square that holds the image, mm
        side = whole if mm is None else resolution * mm
        starts = [(n - side / size) / 2 for n, size in zip(shape, spacing_mm, strict=True)]  # in pixels
        if square is not None:
            *corner, side = square
            starts = [edge / size for edge, size in zip(corner, spacing_mm, strict=True)]
        self.mm_px = side / resolution
        self.down, self.across = (
            _weights(n, size, side, resolution, start) for n, size, start in zip(shape, spacing_mm, starts, strict=True)
        )
        self.same = all(_identity(weights) for weights in (self.down, self.across))

    def _mean(self, image) -> np.ndarray:
        return self.across.dot(self.down.dot(image).T).T

    def hu(self, image, fill: int) -> np.ndarray:
        """int16 [Y, X] -> int16 [R, R]; outside of the image lies `fill`."""
        if self.same:
            return image
        return np.rint(self._mean(image.astype(np.float32) - fill) + fill).astype(np.int16)

    def labels(self, labels) -> np.ndarray:
        """uint8 [Y, X] -> uint8 [R, R] by area; what was there keeps at least one pixel."""
        if self.same:
            return labels
        liver, tumor = self._mean((labels > 0).astype(np.float32)), self._mean((labels == 2).astype(np.float32))
        inside = liver >= 0.499
        if not inside.any() and liver.max() > 0:
            inside.flat[liver.argmax()] = True
        out = inside.astype(np.uint8)
        out[inside & (tumor >= 0.499 * liver) & (tumor > 0)] = 2
        if not (out == 2).any() and tumor.max() > 0:
            out.flat[tumor.argmax()] = 2
        return out


def _identity(weights) -> bool:
    rows, columns = weights.shape
    return rows == columns == weights.nnz and bool((weights.diagonal() == 1).all())


def _weights(n, mm, side, resolution, start):
    """Sparse [R, n]: mean over the area of a new pixel, or linear interpolation where new pixels are smaller."""
    from scipy import sparse

    pixel = side / resolution / mm  # size of a new pixel in old ones
    i = np.arange(n)
    if pixel >= 1:
        lo = start + np.arange(resolution)[:, None] * pixel
        weights = np.clip(np.minimum(lo + pixel, i + 1) - np.maximum(lo, i), 0, None) / pixel
    else:
        centre = np.clip(start + (np.arange(resolution)[:, None] + 0.5) * pixel - 0.5, 0, n - 1)
        weights = np.clip(1 - np.abs(centre - i), 0, None)
        beyond = start + (np.arange(resolution) + 0.5) * pixel
        weights[(beyond < 0) | (beyond > n)] = 0
    return sparse.csr_array(weights.astype(np.float32))
