"""Errors of reconstructions and survival of tumors, on slices whose reconstructions are made up."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed.data.store import Window
from stylemed.errors import BadInput
from stylemed.evaluation.reconstruction import by_patient, reconstruction_errors, survival

SIDE = 32


@pytest.fixture
def store():
    """Six slices of three patients: a square body with a square liver; tumors of 2, 4 and 6 pixels across in the first three."""
    images, labels = np.full((6, 1, SIDE, SIDE), -1.0, np.float32), np.zeros((6, SIDE, SIDE), np.uint8)
    images[:, :, 4:28, 4:28] = 0.0
    labels[:, 8:20, 8:20] = 1
    for i, across in enumerate((2, 4, 6)):
        labels[i, 10 : 10 + across, 10 : 10 + across] = 2
    slices = pd.DataFrame(
        {"patient": list("aabbcc"), "modality": "CT", "case": list("aabbcc"), "z": [0, 1] * 3, "phase": "portal"}
    )
    slices["tumor_px"] = (labels == 2).sum(axis=(1, 2))
    slices["liver_px"] = (labels > 0).sum(axis=(1, 2))
    slices["tumor_known"] = [1, 1, 1, 1, 1, 0]
    return SimpleNamespace(
        images=lambda rows: images[rows],
        labels=labels,
        slices=slices,
        windows={"CT": Window(-100.0, 250.0)},
        resolution=SIDE,
    )


class Told:
    """Stands in for a judge: sees a tumor where an image's corner says so."""

    def __init__(self, before):
        self.before = before

    def findings(self, images):
        told = torch.as_tensor(images)[:, 0, 0, 0].numpy()
        seen = (told > 0.5) if (told > -1).any() else np.array(self.before)
        return SimpleNamespace(table=pd.DataFrame({"tumor": seen.astype(int)}))


@pytest.mark.slow
def test_errors_are_in_hu_and_each_within_its_region(store):
    rows = np.arange(6)
    again = torch.from_numpy(store.images(rows)).clone()
    again[:, 0][torch.from_numpy(store.labels == 1)] += 0.1  # 17.5 HU in the liver, not in tumors
    table = reconstruction_errors(store, rows, again)
    assert table["mae_tumor"].max() < 1e-3 and table["mae_tumor"][3:].isna().all()
    assert table["mae_liver"][5] == pytest.approx(17.5, abs=1e-3)
    assert table["mae_body"][5] == pytest.approx(17.5 * 144 / 576, abs=1e-3)
    assert table["psnr"][5] == pytest.approx(10 * np.log10(4 / (0.01 * 144 / SIDE**2)), abs=1e-3)
    assert (table["ssim"] < 1).all()
    store.slices.loc[5, "modality"] = "MR"  # whose units cannot be averaged with HU
    mixed = reconstruction_errors(store, rows, again)
    assert np.isnan(mixed["mae_liver"][5]) and mixed["mae_liver"][:5].equals(table["mae_liver"][:5])
    assert np.isfinite(mixed["psnr"][5])
    store.slices.loc[5, "modality"] = "CT"
    exact = by_patient(reconstruction_errors(store, rows, store.images(rows))).set_index("what")
    assert exact.loc["ssim", "value"] == pytest.approx(1) and exact.loc["mae_body", "value"] == 0
    assert exact.loc["mae_tumor", ["slices", "patients"]].tolist() == [3, 2]
    with pytest.raises(BadInput, match="6 reconstructions"):
        reconstruction_errors(store, rows, again[:5])


def test_survival_counts_by_size_what_was_seen_before_and_after(store):
    again = torch.full((6, 1, SIDE, SIDE), -1.0)
    seen_after = [False, False, True, True, False, True]
    again[:, 0, 0, 0] = torch.tensor([1.0 if seen else -0.5 for seen in seen_after])
    table = survival(Told([True, True, True, False, False, False]), store, np.arange(6), again).set_index("what")
    assert table["slices"].to_dict() == {
        "0 to 3 pixels": 1,
        "3 to 5 pixels": 1,
        "5 to 8 pixels": 1,
        "3 pixels or more": 2,
        "invented": 2,  # the sixth slice's state is not known
    }
    assert table.loc["3 pixels or more", ["slice", "reconstruction", "survived"]].tolist() == [1.0, 0.5, 0.5]
    assert table.loc["0 to 3 pixels", "survived"] == 0
    assert table.loc["invented", ["slice", "survived"]].tolist() == [0.0, 0.5]
