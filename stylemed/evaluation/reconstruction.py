"""What is lost on the way through latent space: the error of reconstructions, and whether their tumors are still seen.

Users of inversion in medicine ask about the second more than about the first: a finding is a few pixels, and an error that hardly
counts in the mean can be the whole of it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from stylemed.data.body import body_piece
from stylemed.data.truth import truth
from stylemed.errors import BadInput
from stylemed.evaluation.judge import SIZES, size_name
from stylemed.statistics import mean_interval

BLACK = -0.9  # in [-1, 1]: what is darker is air, or fat below the window
METRICS = ("psnr", "ssim", "mae_body", "mae_liver", "mae_tumor")


def image_errors(wanted, again) -> pd.DataFrame:
    """psnr (dB; the range is 2) and ssim (Wang 2004, MONAI) of images [N, 1, R, R] in [-1, 1], a row each."""
    from monai.metrics import SSIMMetric

    wanted, again = (torch.as_tensor(x, dtype=torch.float32).cpu().clamp(-1, 1) for x in (wanted, again))
    mse = (again - wanted).square().mean(dim=(1, 2, 3)).clamp_min(1e-12)
    ssim = SSIMMetric(2, data_range=2.0)(again, wanted)[:, 0]
    return pd.DataFrame({"psnr": 10 * torch.log10(4 / mse).numpy(), "ssim": ssim.numpy()})


def body_masks(images) -> np.ndarray:
    """Where the body is in images [N, 1, R, R] in [-1, 1]: bool [N, R, R]."""
    return np.stack([body_piece(image > BLACK, thin=0) for image in np.asarray(images)[:, 0]])


def mean_inside(values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean of values [N, R, R] where the masks [N, R, R] are true: [N], NaN where they nowhere are."""
    count = masks.sum(axis=(1, 2))
    return np.where(count > 0, (values * masks).sum(axis=(1, 2)) / np.maximum(count, 1), np.nan)


def reconstruction_errors(store, rows, again) -> pd.DataFrame:
    """Reconstructions [N, 1, R, R] of the slices `rows` of a store against these slices; a row each.

    `image_errors` over the whole image; mean absolute error in HU within the body, the liver (tumors too) and tumors (NaN where
    there are none). Both are compared inside the window. MR alone: in its own units; beside CT: NaN, as the two cannot be averaged.
    """
    rows = np.asarray(rows)
    wanted = torch.from_numpy(store.images(rows))
    again = torch.as_tensor(again, dtype=torch.float32).cpu().clamp(-1, 1)
    if again.shape != wanted.shape:
        raise BadInput(f"{len(rows)} reconstructions {tuple(wanted.shape[1:])} are needed, not {tuple(again.shape)}.")
    error = (again - wanted)[:, 0].numpy()
    modality = store.slices["modality"].iloc[rows]
    half = modality.map({name: window.per_unit for name, window in store.windows.items()}).to_numpy(float, copy=True)
    if modality.nunique() > 1:
        half[modality != "CT"] = np.nan
    labels = np.asarray(store.labels[rows])
    body = body_masks(wanted)
    table = pd.DataFrame({"row": rows, "patient": store.slices["patient"].to_numpy()[rows]})
    table[["psnr", "ssim"]] = image_errors(wanted, again)
    for name, mask in {"body": body, "liver": labels > 0, "tumor": labels == 2}.items():
        table[f"mae_{name}"] = half * mean_inside(np.abs(error), mask)
    return table


def by_patient(table: pd.DataFrame, seed: int = 0, metrics=METRICS) -> pd.DataFrame:
    """Means of `reconstruction_errors` with 95 % intervals over patients: a row per metric, with slices and patients."""
    out = []
    for name in metrics:
        known = table[name].notna()
        if known.any():
            low, high, value = mean_interval(table[name][known].to_numpy(), table["patient"][known].to_numpy(), seed)
            out.append((name, value, low, high, int(known.sum()), table["patient"][known].nunique()))
    return pd.DataFrame(out, columns=["what", "value", "low", "high", "slices", "patients"])


def survival(judge, store, rows, again, seed: int = 0) -> pd.DataFrame:
    """Does the judge still see in reconstructions [N, 1, R, R] the tumors it sees in the slices `rows`? By size, with intervals.

    A row per size of the largest tumor (pixels across): `slice` and `reconstruction` (the judge's sensitivity on each), `survived`
    (of those it saw in the slice), with low and high (95 %, over patients), slices, patients. The last row, "invented": among
    slices without a tumor, and none seen, how often it sees one in the reconstruction. Slices of unknown state are left out.
    """
    rows = np.asarray(rows)
    true, patients = truth(store, rows), store.slices["patient"].to_numpy()[rows]
    before = judge.findings(store.images(rows)).table["tumor"].to_numpy() == 1
    after = judge.findings(again).table["tumor"].to_numpy() == 1
    across, has = true["tumor_across"].to_numpy(), (true["tumor"] == 1).to_numpy()
    out = []

    def add(name: str, where, kept) -> None:
        if where.any():
            row = {"what": name, "slice": before[where].mean(), "reconstruction": after[where].mean()}
            if kept.any():
                low, high, value = mean_interval(after[kept].astype(float), patients[kept], seed)
                row |= {"survived": value, "low": low, "high": high}
            out.append(row | {"slices": int(where.sum()), "patients": len(set(patients[where]))})

    for low, high in ((0, SIZES[0][0]), *SIZES, (SIZES[0][0], np.inf)):
        where = has & (across >= low) & (across < high)
        add(size_name(low, high), where, where & before)
    none = (true["tumor"] == 0).to_numpy()
    add("invented", none, none & ~before)
    return pd.DataFrame(out)
