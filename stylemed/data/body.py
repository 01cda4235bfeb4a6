"""Where the body is: what is denser than air, in one piece; and the square around it, for the frame `body`.

The square is one for a whole case. It is found from the tissue around the liver and from where liver is, never from what the
liver looks like inside: a case and its twin without tumors have the same square.
"""

from __future__ import annotations

import numpy as np

BODY_HU = -300  # CT: above is body
DARKEST_FAT_HU, BRIGHTEST_FAT_HU = -150, -50  # CT: where intensities were cut off above the first, fat looks like air
ABOVE_CUT = 20  # HU above the lowest value of such a CT: noise, and what an image format smeared, stay below
SIGNAL = 0.1  # MR: of the 99th percentile; above is body
GRID = 128  # pixels: outlines are looked for on a grid of about this size
REACH = 1 / 25  # of the image: gaps between ribs that are bridged where fat is not seen
USUAL = 0.05  # of the slices
MARGIN, FAT_MARGIN = 0.04, 0.08  # of the body's longer side, on each side; the second where fat is not seen
LARGER = 1.3  # a body is at least so many times as large as its liver


def body_piece(dense, thin: int = 1) -> np.ndarray:
    """The largest piece of a slice, holes filled, things no thicker than 2 `thin` pixels (the table) opened away.

    dense: bool [Y, X], what is denser than air. Bool [Y, X], all False where nothing is left.
    """
    from scipy import ndimage

    mask = ndimage.binary_fill_holes(dense)  # before the opening, which tears the thin wall about the lungs
    pieces, n = ndimage.label(ndimage.binary_opening(mask, iterations=thin) if thin else mask)
    return pieces == 1 + np.bincount(pieces.ravel())[1:].argmax() if n else np.zeros_like(mask)


def body_square(volume) -> tuple[float, float, float] | None:
    """The square around the body of a Volume: top, left and side in mm from the image's corner; None where no body is.

    It holds the usual extent of the body over the slices, all of the liver, and a margin. It may reach beyond the image, and is
    never larger than a square that holds the image.
    """
    liver = volume.labels > 0
    shape, spacing = np.array(liver.shape[1:]), np.array(volume.spacing_mm[1:])
    around = volume.hu[~liver]
    if not around.size:
        return None
    threshold, fat_seen = _threshold(volume, around)
    step = max(1, int(max(shape)) // GRID)
    mask = liver[:, ::step, ::step]
    body = body_outline((volume.hu[:, ::step, ::step] > threshold) | mask, fat_seen)
    if body.sum() < max(1, LARGER * _often(mask).sum()):
        return None
    first, last = _box(body) * step
    whole_liver = _box(liver.any(axis=0))
    first, last = np.minimum(first, whole_liver[0]) * spacing, np.maximum(last, whole_liver[1]) * spacing
    side = (last - first).max() * (1 + 2 * (MARGIN if fat_seen else FAT_MARGIN))
    side = min(side, (shape * spacing).max())
    top, left = (first + last - side) / 2
    return float(top), float(left), float(side)


def _threshold(volume, around) -> tuple[float, bool]:
    """Above it is body; and whether fat is above it. around: intensities outside of the liver."""
    if volume.case.modality.upper() != "CT":
        return SIGNAL * float(np.percentile(around, 99)), True
    lowest = int(around.min()) if volume.case.hu_min is None else max(int(around.min()), volume.case.hu_min)
    if lowest < DARKEST_FAT_HU:
        return max(BODY_HU, lowest), True
    return lowest + ABOVE_CUT, False


def body_outline(dense, fat_seen: bool) -> np.ndarray:
    """Where the body of a case usually is: bool [Z, Y, X], what is denser than air -> bool [Y, X].

    Where fat is not seen, what is seen of muscles and ribs is joined.
    """
    from scipy import ndimage

    thin = dense.shape[1] // 64
    if fat_seen:
        return _often(np.stack([body_piece(mask, thin) for mask in dense]))
    outline = _often(dense)
    if thin:
        reach = round(REACH * len(outline))
        wide = np.pad(ndimage.binary_opening(outline), reach)  # without the table, which would be joined too
        outline = ndimage.binary_closing(wide, iterations=reach)[reach:-reach, reach:-reach]
    return body_piece(outline, thin)


def _often(masks) -> np.ndarray:
    """Where a mask is set in more slices than a few: an arm, or a breath between two slices, does not count."""
    return masks.mean(axis=0) >= USUAL


def _box(mask) -> np.ndarray:
    """[[first row, first column], [row after the last, column after the last]]"""
    at = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    return np.array([[places[0] for places in at], [places[-1] + 1 for places in at]])
