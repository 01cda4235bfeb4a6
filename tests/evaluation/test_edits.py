"""What an edit did, on images that were changed in a known way."""

import numpy as np
import pytest
import torch
from painted import Eye, painted

from stylemed.evaluation.edits import corrected_change, edit_effects, inpaint, truth_errors


def test_effects_are_told_apart_by_region():
    before = painted([0] * 4, [8] * 4)
    after = painted([1, 1, 0, 0], [8, 8, 8, 10])
    after[1, :, 12:14, 12:14] += 0.1  # 17.5 HU in 4 pixels of the 132 of the body outside the liver
    after[2, :, 3:11, 3:11] = -0.5  # the whole liver darkened
    eye = Eye()
    table = edit_effects(before, after, eye.findings(before), eye.findings(after), 1, 175.0)
    assert table["changed"].tolist() == [1, 1, 1, 0]
    assert table["outside_hu"][:3].tolist() == pytest.approx([0, 17.5 * 4 / 132, 0], abs=1e-4)
    assert table["outside_hu"][3] == pytest.approx(70 * 36 / 132, abs=1e-4)
    assert table["rest_hu"][0] == 0 and np.isnan(table["rest_hu"][2]) and table["tumor_share"][2] == 1
    assert table["tumor_share"][0] == pytest.approx(9 / 64) and table["liver_dice"][0] == 1
    assert table["liver_dice"][3] == pytest.approx(2 * 64 / 164) and (table["body_dice"] == 1).all()


def test_shares_are_freed_of_the_readers_errors_both_ways():
    # Of tumors it sees 80 %, and of slices without it calls 10 % tumor.
    assert corrected_change([0.8, 0.45, 0.0], 1, 0.8, 0.9) == pytest.approx([1, 0.5, 0])
    assert corrected_change([0.9, 0.55, 0.1], 0, 0.8, 0.9) == pytest.approx([1, 0.5, 0])
    assert np.isnan(corrected_change([0.5], 1, 0.4, 0.5)).all()


def test_errors_against_the_truth_stay_within_their_region():
    labels = np.zeros((2, 16, 16), int)
    labels[:, 3:11, 3:11] = 1
    labels[0, 4:7, 4:7] = 2
    twins = painted([0, 0], [8, 8])
    images = painted([1, 0], [8, 8])
    images[1, :, 3:11, 3:11] += 0.1
    table = truth_errors(images, twins, labels, [175.0, 100.0])
    assert table["tumor_hu"][0] == pytest.approx(0.9 * 175, rel=1e-5) and np.isnan(table["tumor_hu"][1])
    assert table["liver_hu"].tolist() == pytest.approx([0, 10], abs=1e-4) and (table["elsewhere_hu"] == 0).all()


def test_inpainting_is_exact_where_the_bilaplacian_is_zero():
    y, x = np.mgrid[:24, :24] / 24 - 0.5
    smooth = np.stack([0.3 + 0.5 * x - 0.7 * y + x * y, x**3 - 3 * x * y**2, np.full_like(x, 0.25)])[:, None]
    masks = np.zeros((3, 24, 24), bool)
    masks[0, 5:12, 8:15] = masks[1, 10:14, 9:16] = True
    spoilt = torch.from_numpy(np.where(masks[:, None], -1.0, smooth))
    np.testing.assert_allclose(inpaint(spoilt, masks), smooth, atol=1e-5)
    bent = inpaint(np.exp(3 * x)[None, None] / 5, masks[:1])  # not biharmonic: near it, and untouched elsewhere
    error = np.abs(bent[0, 0] - np.clip(np.exp(3 * x) / 5, -1, 1))
    assert 0 < error[masks[0]].max() < 0.02 and error[~masks[0]].max() < 1e-6
