"""What an edit of the code or of the noise does to the image: where, at which spatial frequency, and whose image it becomes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from stylemed.latent.mixing import mix
from stylemed.statistics import draw_patients

# Cycles per image: the finest detail that an 8² grid (end of coarse) and a 32² grid (end of middle) can hold.
BANDS = {"up to 4": (0.0, 4.0), "4 to 16": (4.0, 16.0), "above 16": (16.0, np.inf)}
REGIONS = ("tumor", "liver", "elsewhere")


def band_split(images) -> dict[str, np.ndarray]:
    """Split images [..., R, R] by spatial frequency (cycles per image); the parts add up to the images."""
    images = np.asarray(images, dtype=np.float64)
    frequency = np.fft.fftfreq(images.shape[-1]) * images.shape[-1]
    radius = np.hypot(frequency[:, None], frequency[None, :])  # [R, R]
    spectrum = np.fft.fft2(images)
    parts = {}
    for name, (low, high) in BANDS.items():
        keep = (radius <= high) & ((radius > low) | (low == 0))
        parts[name] = np.fft.ifft2(spectrum * keep).real
    return parts


def mixing_effect(a_images, b_images, grids: dict, inside, window) -> pd.DataFrame:
    """How the mixed images differ from A, one row per level and a row "all" for B itself.

    a_images [na, 1, R, R] and b_images [nb, 1, R, R]: the unedited reconstructions, [-1, 1];
    grids: {level: [na, nb, 1, R, R]}; inside: bool [na, R, R], such as A's liver; window: the Window of the images.
    Columns: `change`, `change inside`, `change outside`: mean abs(mixed - A) in HU. For each band of BANDS (cycles per
    image): `share BAND`, its part of the squared change (the shares add up to 1), and `to B BAND`, how far the
    mixed image went from A to B there: 0 = A, 1 = B (least squares).
    """
    a = _seen(a_images)[:, None]  # [na, 1, 1, R, R]
    b = _seen(b_images)[None]  # [1, nb, 1, R, R]
    hu = window.per_unit
    whole = band_split(b - a)
    rows = {}
    for level, grid in {**grids, "all": np.broadcast_to(b, (len(a), *b.shape[1:]))}.items():
        change = _seen(grid) - a  # [na, nb, 1, R, R]
        mask = np.broadcast_to(np.asarray(inside, dtype=bool)[:, None, None], change.shape)
        size = np.abs(change) * hu
        row = {
            "change": size.mean(),
            "change inside": _mean(size[mask]),
            "change outside": _mean(size[~mask]),
        }
        parts = band_split(change)
        energy = {name: (part**2).sum() for name, part in parts.items()}
        total = sum(energy.values())
        row |= {f"share {name}": value / total if total > 0 else 0.0 for name, value in energy.items()}
        row |= {
            f"to B {name}": _share((part * whole[name]).sum(), (whole[name] ** 2).sum()) for name, part in parts.items()
        }
        rows[level] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("level")


def follows(a, b, mixed, seed: int = 0, draws: int = 1000) -> dict[str, float]:
    """How much of a factor's way from source A to source B a mixture goes, over n pairs.

    a, b, mixed: values [n] (a yes is 1, a no is 0) or [n, d] (a place, or the pixels of an outline); pairs with a NaN are left out.
    value: sum of (mixed - a)·(b - a) over sum of (b - a)², which is the slope of the regression through the origin: 0 stays A's,
    1 becomes B's. Of a yes or no, and of outlines, it is the share of pairs (pixels) with B's answer among those where A and B
    differ. low, high: 95 % interval by a bootstrap over pairs. neither: 1 less the weights of a and b in a regression of mixed on
    both; a factor that the mixture draws anew, whatever A and B have, has a value of 0.5 and a `neither` of 1. pairs: those that
    can be used and differ. NaN where there are none.
    """
    a, b, mixed = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in (a, b, mixed))
    known = np.isfinite(a + b + mixed).all(axis=1)
    a, b, mixed = a[known], b[known], mixed[known]
    moved, apart = ((mixed - a) * (b - a)).sum(axis=1), ((b - a) ** 2).sum(axis=1)
    found = {"value": _share(moved.sum(), apart.sum()), "low": np.nan, "high": np.nan, "neither": np.nan}
    if apart.sum() > 0:
        drawn = draw_patients(len(apart), draws, seed)
        below = drawn @ apart
        low, high = np.quantile((drawn @ moved)[below > 0] / below[below > 0], (0.025, 0.975))
        found |= {"low": float(low), "high": float(high)}
        mean = np.concatenate([a, b]).mean(axis=0)
        sources = np.stack([(a - mean).ravel(), (b - mean).ravel()], axis=1)
        found["neither"] = 1 - float(np.linalg.lstsq(sources, (mixed - mean).ravel(), rcond=None)[0].sum())
    return found | {"pairs": int((apart > 0).sum())}


def region_change(images, steps, labels, window) -> pd.DataFrame:
    """Change against step 0 along a walk, by region: one row per step and region that occurs.

    images [B, S, 1, R, R] in [-1, 1]; steps [S], one of them 0; labels [B, R, R] of the true slice (0 background,
    1 liver, 2 tumor); window: the Window of the images. Columns: step, region (tumor, liver without tumor, elsewhere),
    `mean` = mean change in HU with its sign, `size` = mean abs(change) in HU, `slices` = how many slices hold the region.
    Every slice counts alike, however large its region.
    """
    images, steps = _seen(images)[:, :, 0], np.asarray(steps, dtype=float)
    hu = window.per_unit
    unedited = int(np.flatnonzero(steps == 0)[0])
    change = (images - images[:, unedited, None]) * hu  # [B, S, R, R]
    labels = np.asarray(labels)
    masks = {"tumor": labels == 2, "liver": labels == 1, "elsewhere": labels == 0}
    rows = []
    for region, mask in masks.items():
        present = np.flatnonzero(mask.any(axis=(1, 2)))
        if len(present) == 0:
            continue
        signed = np.array([change[i][:, mask[i]].mean(axis=1) for i in present])  # [slices, S]
        size = np.array([np.abs(change[i][:, mask[i]]).mean(axis=1) for i in present])
        for k, step in enumerate(steps):
            row = {"step": step, "region": region, "mean": signed[:, k].mean(), "size": size[:, k].mean()}
            rows.append(row | {"slices": len(present)})
    return pd.DataFrame(rows)


@torch.no_grad()
def noise_footprints(generator, w_plus, size: float = 3.0) -> dict[int, np.ndarray]:
    """Where the image changes when one value of one noise map changes: {resolution: change [R, R]}.

    The value in the middle of the first map at each resolution is raised by `size`; w_plus [1, L, latent].
    """
    before = generator.synthesis(w_plus)
    changes = {}
    for i, side in enumerate(generator.resolutions):
        maps = [m.clone() for m in generator.noise_maps()]
        maps[2 * i][..., side // 2, side // 2] += size
        changes[side] = (generator.synthesis(w_plus, maps) - before).abs().mean(dim=(0, 1)).numpy()
    return changes


def footprint_width(change: np.ndarray, share: float = 0.9) -> float:
    """Side of a square of as many pixels as hold `share` of the squared change [R, R], largest first."""
    energy = np.sort(np.square(change, dtype=np.float64), axis=None)[::-1].cumsum()
    if energy[-1] == 0:
        return 0.0
    return float(np.sqrt(np.searchsorted(energy, share * energy[-1]) + 1))


@torch.no_grad()
def change_of_level(generator, a, b, level) -> tuple[np.ndarray, float]:
    """Root mean square change of each pixel, and of the mean grey, when a level's styles of A become B's.

    a, b [n, L, latent] -> ([R, R], number), both in image units ([-1, 1] is black to white).
    """
    change = generator.synthesis(mix(a, b, level)) - generator.synthesis(a)
    grey = change.mean(dim=(1, 2, 3)).square().mean().sqrt()
    return change.square().mean(dim=(0, 1)).sqrt().numpy(), float(grey)


def _seen(images) -> np.ndarray:
    """Clipped to the window, as slices are: what a generator puts outside [-1, 1] can neither be seen nor compared."""
    return np.asarray(images, dtype=np.float64).clip(-1, 1)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
