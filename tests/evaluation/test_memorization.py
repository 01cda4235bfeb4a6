"""Copies are found, exact and shifted; other slices of the same patient are not the yardstick."""

import numpy as np
import pytest
import torch

from stylemed.errors import BadInput
from stylemed.evaluation import memorization, nearest, nearest_other_patient, thumbnails


def slices(n: int, side: int = 64, seed: int = 0, channels: int = 1) -> torch.Tensor:
    """Smooth random images with some texture."""
    stream = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, channels, 8, 8, generator=stream)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (0.4 * smooth + 0.1 * torch.randn(n, channels, side, side, generator=stream)).clamp(-1, 1)


@pytest.mark.parametrize("side", [16, 32, 64, 256])
def test_exact_copies_are_at_distance_zero(side, monkeypatch):
    monkeypatch.setattr(memorization, "CHUNK", 3)
    train = slices(20, side)
    order = torch.tensor([7, 0, 19, 7, 3])
    distances, positions = nearest(train[order], train)
    assert distances.tolist() == [0.0] * 5 and positions.tolist() == order.tolist()


def test_distance_is_the_root_mean_square_at_32():
    train, image = slices(6), slices(1, seed=1)
    difference = torch.nn.functional.avg_pool2d(image - train, 2).double()
    expected = difference.square().mean(dim=(1, 2, 3)).sqrt()
    distances, positions = nearest(image, train)
    assert positions[0] == expected.argmin() and np.isclose(distances[0], expected.min(), rtol=1e-6)
    again = nearest(thumbnails(image), thumbnails(train))
    assert again[0] == distances and again[1] == positions


def test_a_copy_shifted_by_a_pixel_or_repainted_is_still_found():
    train = slices(30)
    yardstick = np.median(nearest_other_patient(train))
    shifted = train[:10].roll((1, 1), dims=(2, 3))
    grainy = train[:10] + 0.1 * torch.randn(train[:10].shape, generator=torch.Generator().manual_seed(2))
    for copies in (shifted, grainy):
        distances, positions = nearest(copies, train)
        assert positions.tolist() == list(range(10)) and distances.max() < yardstick / 2
    assert np.median(nearest(slices(30, seed=3), train)[0]) > 0.9 * yardstick  # fresh images are no copies


def test_yardstick_leaves_out_the_own_patient():
    """Patients are three slices that hardly differ; only without labels do these neighbours count."""
    train = slices(10).repeat_interleave(3, dim=0)
    train = train + 0.01 * torch.randn(train.shape, generator=torch.Generator().manual_seed(1))
    patients = np.repeat([f"p{i}" for i in range(10)], 3)
    known, unknown = nearest_other_patient(train, patients), nearest_other_patient(train)
    assert known.shape == (30,) and unknown.max() < 0.02 < 10 * 0.02 < known.min()
    own = np.array([nearest(train[i : i + 1], train[patients != patients[i]])[0][0] for i in range(30)])
    assert np.allclose(known, own)


def test_what_cannot_be_compared_is_refused():
    train = slices(4)
    with pytest.raises(BadInput, match="power of two"):
        nearest(train[..., :48, :48], train)
    with pytest.raises(BadInput, match="not finite"):
        nearest(train * float("nan"), train)
    with pytest.raises(BadInput, match="no training slice"):
        nearest(train, train[:0])
    with pytest.raises(BadInput, match="two patients"):
        nearest_other_patient(train, ["a"] * 4)
    with pytest.raises(BadInput, match="4 slices and 3"):
        nearest_other_patient(train, ["a", "b", "c"])
