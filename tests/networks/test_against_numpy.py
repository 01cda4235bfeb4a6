"""Our networks against an independent float64 NumPy version of the paper's: 16², every kind of lod, R1's gradient."""

import numpy as np
import numpy_stylegan as plain
import pytest
import torch

from stylemed.networks import Discriminator, Generator

LODS = [0.0, 0.3, 1.0]


def arrays(network):
    return {name: value.detach().double().numpy() for name, value in network.state_dict().items()}


def perturbed(network):
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p) * p.abs().mean().clamp_min(0.5)
    return network.double()


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return perturbed(Generator(16, channels=3, latent_size=32, mapping_layers=3, fmap_base=64, fmap_max=16))


@pytest.fixture(scope="module")
def discriminator():
    torch.manual_seed(1)
    return perturbed(Discriminator(16, channels=3, fmap_base=64, fmap_max=16))


def test_mapping(generator):
    z = torch.randn(5, 32, dtype=torch.float64)
    np.testing.assert_allclose(generator.mapping(z).detach(), plain.mapping(arrays(generator), z.numpy()), rtol=1e-9)


@pytest.mark.parametrize("lod", LODS)
def test_synthesis(generator, lod):
    w_plus = torch.randn(3, generator.num_layers, 32, dtype=torch.float64)
    ours = generator.synthesis(w_plus, lod=lod).detach().numpy()
    theirs = plain.synthesis(arrays(generator), w_plus.numpy(), lod)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lod", LODS)
def test_discriminator(discriminator, lod):
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    ours = discriminator(x, lod=lod).detach().numpy()
    np.testing.assert_allclose(ours, plain.discriminator(arrays(discriminator), x.numpy(), lod), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lod", LODS)
def test_gradient_of_r1(discriminator, lod):
    """The gradient at the images, whose squared norm is R1, against central differences of the NumPy version."""
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(x, lod=lod).sum(), x)
    weights, base = arrays(discriminator), x.detach().numpy()
    random = np.random.default_rng(0)
    for _ in range(6):
        direction = random.normal(size=base.shape)
        step = 1e-6
        ahead, behind = (plain.discriminator(weights, base + s * step * direction, lod).sum() for s in (1, -1))
        assert np.isclose((gradient.numpy() * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-5)
