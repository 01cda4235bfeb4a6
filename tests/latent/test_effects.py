"""What the demonstrations measure, on an untrained generator and on clouds with a planted shape."""

import numpy as np
import pytest
import torch

from stylemed.evaluation import spread
from stylemed.evaluation.cost import network_sizes, training_memory
from stylemed.latent import change_of_level, components_for, follows, footprint_width, mix, noise_footprints
from stylemed.latent.geometry import principal_plane
from stylemed.networks import Discriminator, Encoder, Generator
from stylemed.networks.untrained import random_generator
from stylemed.training import gan_config

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def generator():
    return random_generator(seed=1, resolution=32, latent_size=16)


def test_the_untrained_generator_is_of_its_seed_and_draws_nothing_global(generator):
    before = torch.get_rng_state()
    again = random_generator(seed=1, resolution=32, latent_size=16)
    assert torch.equal(torch.get_rng_state(), before)
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(z), generator(z)) and spread(again(z)) > 0.01
    assert not torch.equal(random_generator(seed=2, resolution=32, latent_size=16)(z), again(z))


def test_coarse_noise_reaches_further_than_fine(generator):
    w_plus = generator.broadcast(generator.mapping(torch.ones(1, 16)))
    footprints = noise_footprints(generator, w_plus)
    widths = [footprint_width(change) for change in footprints.values()]
    assert list(footprints) == [4, 8, 16, 32]
    assert widths == sorted(widths, reverse=True) and widths[0] > 2 * widths[-1]


def test_width_of_a_footprint_is_the_side_of_a_square():
    change = np.zeros((32, 32))
    assert footprint_width(change) == 0.0
    change[3, 4] = 2.0
    assert footprint_width(change) == 1.0
    change[:] = 0.0
    change[10:20, 5:15] = -0.3  # 100 pixels; 90 of them hold 90 %
    assert footprint_width(change) == pytest.approx(np.sqrt(90), abs=0.06)


def test_change_of_a_level_is_that_of_its_mixture(generator):
    z = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    w_plus = generator.broadcast(generator.mapping(z))
    a, b = w_plus[:3], w_plus[3:]
    change, grey = change_of_level(generator, a, b, "coarse")
    wanted = generator.synthesis(mix(a, b, "coarse")) - generator.synthesis(a)
    np.testing.assert_allclose(np.square(change).mean(), wanted.square().mean(), rtol=1e-5)
    assert 0 < grey <= np.sqrt(np.square(change).mean())
    assert change_of_level(generator, a, a, "coarse")[0].max() == 0.0


def test_what_follows_a_source_and_what_neither():
    a, b, other = np.random.default_rng(0).standard_normal((3, 4000))
    assert follows(a, b, 0.3 * b + 0.7 * a)["value"] == pytest.approx(0.3)
    drawn_anew = follows(a, b, other)
    assert drawn_anew["value"] == pytest.approx(0.5, abs=0.05) and drawn_anew["neither"] == pytest.approx(1, abs=0.05)
    assert abs(follows(a, b, a)["neither"]) < 1e-9 and follows(a, a, b)["pairs"] == 0
    yes = follows([0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 1, np.nan], [1, 0, 0, 0, 1, 1])  # of four that differ, three are B's
    assert yes["value"] == 0.75 and yes["pairs"] == 4 and 0 <= yes["low"] < 0.75 < yes["high"] <= 1
    masks_a, masks_b = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    masks_b[:, 0] = 1
    mixed = masks_b.copy()
    mixed[0] = 0
    assert follows(masks_a, masks_b, mixed)["value"] == 0.5  # half of the pixels that differ
    assert np.isnan(follows(a, a, b)["value"])


def test_axes_of_a_cloud():
    points = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9, 1, 3, 0, 0]) + 5
    assert [components_for(points, share) for share in (0.5, 0.9, 0.95, 0.9999)] == [1, 2, 2, 4]
    flat = principal_plane(points)
    np.testing.assert_allclose(flat.square().mean(dim=0), np.array([81, 9]) / 92, rtol=0.08)
    assert torch.allclose(flat.mean(dim=0), torch.zeros(2), atol=1e-3)


def test_costs_are_those_of_the_networks_themselves():
    config = gan_config("smoke", resolution=32)
    shared = {name: getattr(config, name) for name in ("resolution", "channels", "fmap_base", "fmap_max")}
    networks = {
        "generator": Generator(**shared, latent_size=config.latent_size, mapping_layers=config.mapping_layers),
        "discriminator": Discriminator(**shared, stddev_group=config.stddev_group),
    }
    layers = networks["generator"].num_layers
    networks["encoder"] = Encoder(config.resolution, config.channels, config.latent_size, layers)
    counted = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    assert network_sizes(config) == counted
    few, many = training_memory(config, 4), training_memory(config, 12)
    wanted = 4 * (5 * counted["generator"] + 4 * counted["discriminator"]) / 2**30
    assert few["weights"] == many["weights"] == pytest.approx(wanted)
    for step in ("D step", "G step"):  # what is remembered grows with the batch, the weights among it do not
        assert 2.0 < many[step] / few[step] <= 3.0
