"""What a walk does to images: whether it changed the class, what else it changed, and how near it comes to a true counterfactual.

Effects are measured against the unedited reconstruction. Truth is the twin: the same patient drawn without its tumors.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from stylemed.errors import BadInput
from stylemed.evaluation.reconstruction import body_masks, mean_inside
from stylemed.evaluation.variety import corrected_share
from stylemed.statistics import dice

EFFECTS = ("changed", "outside_hu", "rest_hu", "liver_dice", "body_dice", "tumor_share")
TRUTH = ("tumor_hu", "liver_hu", "elsewhere_hu")


def edit_effects(before, after, found_before, found_after, wanted: int, per_unit) -> pd.DataFrame:
    """What an edit did to images [N, 1, R, R] in [-1, 1], by a reader's Findings before and after; a row of EFFECTS each.

    changed: 1 where the reader now tells `wanted` (1 tumor, 0 none). Mean absolute change in HU (per_unit: HU in a step of 1,
    a number or [N]) of the body outside the liver, and of the liver outside the tumors of both images; NaN where nothing is left of
    it. Dice of the liver and of the body's outline, before and after. tumor_share: of the liver's pixels after the edit,
    those called tumor, so that a liver that became dark as a whole is not taken for one with a tumor.
    """
    change = np.abs(_seen(after) - _seen(before)) * np.reshape(per_unit, (-1, 1, 1))
    liver, liver_after = found_before.masks >= 2, found_after.masks >= 2
    tumor = (found_before.masks == 3) | (found_after.masks == 3)
    body, body_after = body_masks(before), body_masks(after)
    size = liver_after.sum(axis=(1, 2))
    return pd.DataFrame(
        {
            "changed": (found_after.table["tumor"].to_numpy() == wanted).astype(float),
            "outside_hu": mean_inside(change, (body | body_after) & ~liver),
            "rest_hu": mean_inside(change, liver & ~tumor),
            "liver_dice": dice(liver, liver_after),
            "body_dice": dice(body, body_after),
            "tumor_share": np.where(size > 0, (found_after.masks == 3).sum(axis=(1, 2)) / np.maximum(size, 1), np.nan),
        }
    )


def corrected_change(changed, wanted: int, sensitivity: float, specificity: float) -> np.ndarray:
    """Shares that a reader tells changed to `wanted` (1 tumor, 0 none), freed of its errors (`corrected_share`).

    NaN where the reader is no better than chance. Its errors are taken to be those on slices, exactly, and the same after the
    edit: an interval that is corrected so leaves out how well they are known.
    """
    out = []
    for share in np.atleast_1d(np.asarray(changed, float)):
        try:
            true = corrected_share(share if wanted else 1 - share, sensitivity, specificity)
        except BadInput:
            true = np.nan
        out.append(true if wanted else 1 - true)
    return np.array(out)


def truth_errors(images, twins, labels, per_unit) -> pd.DataFrame:
    """Mean absolute error in HU of images [N, 1, R, R] against the twins [N, 1, R, R], both in [-1, 1]; a row of TRUTH each.

    labels [N, R, R] of the slice with its tumors (0 background, 1 liver, 2 tumor): within the tumors, the rest of the liver, and
    the rest of the twin's body. NaN where there is none of it.
    """
    error = np.abs(_seen(images) - _seen(twins)) * np.reshape(per_unit, (-1, 1, 1))
    labels = np.asarray(labels)
    masks = labels == 2, labels == 1, body_masks(twins) & (labels == 0)
    return pd.DataFrame({name: mean_inside(error, mask) for name, mask in zip(TRUTH, masks, strict=True)})


def inpaint(images, masks) -> np.ndarray:
    """Images [N, 1, R, R] with the masks [N, R, R] filled by the smoothest surface: its bi-Laplacian is 0 (biharmonic inpainting).

    As `skimage.restoration.inpaint_biharmonic` (Damelin and Hoang 2018), solved here with SciPy; masks that touch the border of the
    image are continued as if mirrored there.
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    images, masks = np.array(images, dtype=np.float32), np.asarray(masks, dtype=bool)
    side = images.shape[-1]
    inner = np.full(side, -2.0)
    inner[[0, -1]] = -1.0
    along = sparse.diags([np.ones(side - 1), inner, np.ones(side - 1)], [-1, 0, 1])
    laplacian = sparse.kron(sparse.eye(side), along) + sparse.kron(along, sparse.eye(side))
    smooth = (laplacian @ laplacian).tocsr()
    for image, mask in zip(images.reshape(len(images), -1), masks.reshape(len(masks), -1), strict=True):
        if mask.any():
            rows = smooth[mask]
            image[mask] = spsolve(rows[:, mask].tocsc(), -rows[:, ~mask] @ image[~mask].astype(float))
    return images.clip(-1, 1)


def _seen(images) -> np.ndarray:
    """[N, R, R], clipped to the window, as slices are."""
    return np.asarray(images, dtype=np.float64)[:, 0].clip(-1, 1)
