"""Inversion on a small random generator: what it makes can be found again, and images do not disturb each other."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import convolve2d

from stylemed.data import SliceStore
from stylemed.errors import BadInput
from stylemed.latent import inversion
from stylemed.latent.inversion import invert, invert_store, spread_of_w
from stylemed.networks import Discriminator, Generator
from stylemed.training.image_loss import ReconstructionLoss, feature_distance, structural_similarity

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(16, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=16).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images(generator):
    with torch.no_grad():
        return generator(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)))


@pytest.mark.slow
def test_it_finds_images_of_the_generator_again_and_each_by_itself(generator, images):
    options = dict(steps=60, rate=0.1, progress=False)
    together = invert(generator, images, space="w", **options)
    left = together.losses[:, -1] / together.losses[:, 0]
    assert (left < 0.6).all() and left.mean() < 0.4
    assert (together.w_plus == together.w_plus[:, :1]).all()
    assert together.losses.shape == (3, 61)
    few = options | {"steps": 4}  # rounding grows with the steps
    alone, three = (invert(generator, images, space="w", batch=batch, **few) for batch in (1, 3))
    np.testing.assert_allclose(alone.w_plus, three.w_plus, atol=1e-4)
    wider = invert(generator, images, start=together.w_plus, **options)
    assert (wider.losses[:, -1] < together.losses[:, -1]).all()  # every layer by itself can only fit better


@pytest.mark.slow
def test_a_start_is_kept_without_steps_and_w_plus_can_be_held_near_w(generator, images):
    mean, std = spread_of_w(generator)
    start = mean + std * torch.randn(3, generator.num_layers, 16, generator=torch.Generator().manual_seed(2))
    kept = invert(generator, images, start=start, steps=0, progress=False)
    np.testing.assert_allclose(kept.w_plus, start, atol=1e-5)
    assert kept.drift == pytest.approx(1, abs=0.15)

    def apart(near: float) -> float:
        found = invert(generator, images, start=start, steps=40, near=near, progress=False).w_plus
        return np.square(found - found.mean(axis=1, keepdims=True)).mean()

    assert apart(10.0) < 0.5 * apart(0.0)


def test_it_refuses_what_does_not_fit(generator, images):
    with pytest.raises(BadInput, match="32, 32"):
        invert(generator, torch.zeros(1, 1, 32, 32))
    with pytest.raises(BadInput, match="start must be"):
        invert(generator, images, start=torch.zeros(3, 2, 16))
    with pytest.raises(BadInput, match="space"):
        invert(generator, images, space="z")
    with pytest.raises(BadInput, match=r"discriminator\.safetensors"):
        ReconstructionLoss(features=1.0)


def test_structural_similarity_is_that_of_the_formula():
    a, b = torch.randn(2, 1, 1, 11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(x, x) / np.outer(x, x).sum()
    p, q = a[0, 0].numpy(), b[0, 0].numpy()

    def mean(values):
        return convolve2d(values, window, mode="valid").item()

    mp, mq = mean(p), mean(q)
    cov = mean(p * q) - mp * mq
    expected = (2 * mp * mq + 0.02**2) * (2 * cov + 0.06**2)
    expected /= (mp**2 + mq**2 + 0.02**2) * (mean(p * p) - mp**2 + mean(q * q) - mq**2 + 0.06**2)
    assert structural_similarity(a, b).item() == pytest.approx(expected, rel=1e-9)
    assert structural_similarity(a, a).item() == pytest.approx(1)


def test_feature_distance_sees_structure_and_not_which_network_width_it_comes_from(images):
    torch.manual_seed(4)
    critic = Discriminator(16, fmap_base=64, fmap_max=16)
    assert [f.shape[-1] for f in critic.features(images)] == [8, 4]
    assert feature_distance(critic, images, images).abs().max() < 1e-6
    near, far = (feature_distance(critic, images, images + s * torch.randn_like(images)) for s in (0.05, 0.5))
    assert (0 < near).all() and (near < far).all() and (far <= 4).all()


def test_a_stopped_inversion_of_a_store_goes_on_where_it_was(tmp_path, monkeypatch, generator):
    hu = np.random.default_rng(0).integers(-400, 300, (5, 16, 16)).astype(np.int16)
    names = ["case", "patient", "modality", "phase", "z", "z_mm", "liver_px", "tumor_px", "tumor_known"]
    slices = pd.DataFrame({name: np.arange(5) for name in names}).assign(split="test", modality="CT", twin_of="")
    slices = slices.assign(case=list("abcde"), patient=list("abcde"))
    store = SliceStore(
        "store", {"resolution": 16, "windows": {"CT": [-100, 250]}, "digest": "d", "version": 1}, hu, None, slices
    )
    partial, whole = tmp_path / "codes.begun", []

    def run(steps=3):
        options = dict(partial=partial, at_once=2, progress=False, steps=steps)
        return invert_store(store, generator, [4, 3, 2, 1, 0], **options)

    def counted(network, images, **options):
        whole.append(len(images))
        if len(whole) == 2:
            raise KeyboardInterrupt
        return invert(network, images, **options)

    expected = run()
    partial.unlink()  # it is there until who asked has saved the codes
    assert list(expected.table["row"]) == [4, 3, 2, 1, 0]
    assert set(expected.provenance.made_from) == {"generator"}
    monkeypatch.setattr(inversion, "invert", counted)
    with pytest.raises(KeyboardInterrupt):
        run()
    with pytest.raises(BadInput, match="codes.begun"):
        run(steps=4)
    np.testing.assert_array_equal(run().w_plus, expected.w_plus)
    assert whole == [2, 2, 2, 1]
    store.resolution = 32
    with pytest.raises(BadInput, match="--resolution 16"):
        run()
