"""Properties that hold whatever the weights are."""

import math

import pytest
import torch
import torch.nn.functional as F

from stylemed.networks import Discriminator, Encoder, Generator, levels, num_layers
from stylemed.networks.layers import blur, conv_down, conv_up, downscale, minibatch_stddev, pixel_norm, upscale
from stylemed.networks.widening import widened

SMALL = {"fmap_base": 64, "fmap_max": 16}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def awake(network):
    """Perturb what is initialised to a constant, so that no path is silent."""
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return network


def generator(resolution=16, **kwargs):
    return awake(Generator(resolution, latent_size=24, mapping_layers=2, **SMALL, **kwargs))


def test_fused_convolutions_are_the_same_function():
    x, w = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.randn(5, 3, 3, 3, dtype=torch.float64)
    assert torch.allclose(conv_up(x, w), F.conv2d(upscale(x), w, padding=1), atol=1e-12)
    assert torch.allclose(conv_down(x, w), downscale(F.conv2d(x, w, padding=1)), atol=1e-12)


def test_blur_smooths_with_zeros_outside_and_adds_the_bias_after_it():
    x = torch.ones(1, 2, 6, 6)
    y = blur(x, torch.tensor([0.0, 1.0]))
    assert torch.allclose(y[0, 0, 1:-1, 1:-1], torch.ones(4, 4))
    assert math.isclose(y[0, 0, 0, 0].item(), 9 / 16, rel_tol=1e-6)
    assert torch.allclose(y[0, 1] - y[0, 0], torch.ones(6, 6))


def test_pixel_norm_gives_unit_mean_square():
    assert torch.allclose(pixel_norm(torch.randn(4, 9)).square().mean(dim=1), torch.ones(4), atol=1e-5)


def test_minibatch_stddev_groups_are_strided():
    x = torch.randn(8, 3, 4, 4)
    y = minibatch_stddev(x, group=4)[:, -1, 0, 0]
    for m in range(2):  # sample n belongs to group n mod M
        group = x[m::2]
        expected = (group.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        assert torch.allclose(y[m::2], expected.expand(4), atol=1e-5)


def test_levels_are_those_of_figure_1():
    assert levels(512) == {"coarse": slice(0, 4), "middle": slice(4, 8), "fine": slice(8, 16)}
    assert levels(64)["fine"] == slice(8, 10)
    assert levels(32)["fine"] == slice(8, 8)
    assert [num_layers(r) for r in (8, 64, 512, 1024)] == [4, 10, 16, 18]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("lod", [0.0, 0.4, 1.0, 1.5])
def test_shapes_and_determinism(channels, lod):
    g, d = generator(channels=channels), awake(Discriminator(16, channels, **SMALL))
    w_plus = g.broadcast(g.mapping(torch.randn(4, 24)))
    image = g.synthesis(w_plus, lod=lod)
    assert image.shape == (4, channels, 16, 16)
    assert torch.equal(image, g.synthesis(w_plus, lod=lod))
    assert not torch.equal(image, g.synthesis(w_plus, noise="random", lod=lod))
    assert d(image, lod=lod).shape == (4, 1)
    side = 16 >> int(lod)
    assert torch.allclose(upscale(g.synthesis_native(w_plus, lod=lod), 16 // side), image)


def test_fading_runs_continuously_between_whole_levels():
    g, d = generator(), awake(Discriminator(16, **SMALL))
    w_plus = g.broadcast(g.mapping(torch.randn(4, 24)))
    x = torch.randn(4, 1, 16, 16)
    for lod in (0.0, 1.0):
        for side in (-1e-6, 1e-6):
            if lod + side >= 0:
                assert torch.allclose(g.synthesis(w_plus, lod=lod), g.synthesis(w_plus, lod=lod + side), atol=1e-4)
    smooth = upscale(downscale(x))  # reals are faded too; of such images D sees the same on both sides of a whole lod
    assert torch.allclose(d(smooth, lod=1.0), d(smooth, lod=1 - 1e-6), atol=1e-3)


def test_a_layer_listens_to_its_own_style_only():
    g = generator(32)
    w_plus = g.broadcast(g.mapping(torch.randn(1, 24)))
    seen = []
    hooks = [s.register_forward_hook(lambda m, a, y: seen.append(y)) for b in g.blocks for s in b.styled]
    g.synthesis(w_plus)
    before, seen[:] = list(seen), []
    changed = w_plus.clone()
    changed[:, 5] += 1
    g.synthesis(changed)
    for hook in hooks:
        hook.remove()
    same = [torch.equal(a, b) for a, b in zip(before, seen, strict=True)]
    assert same == [True] * 5 + [False] * (g.num_layers - 5)


def test_truncation_pulls_the_first_eight_layers_towards_the_mean():
    g = generator(64)
    g.w_avg.fill_(2.0)
    w_plus = torch.randn(3, g.num_layers, 24)
    pulled = g.truncate(w_plus, 0.7)
    assert torch.allclose(pulled[:, :8], 2.0 + 0.7 * (w_plus[:, :8] - 2.0), atol=1e-6)
    assert torch.equal(pulled[:, 8:], w_plus[:, 8:])
    assert torch.allclose(g.truncate(w_plus[:, 0], 0.0), torch.full((3, 24), 2.0))


def test_equalised_learning_rate_at_the_start():
    """Stored weights are N(0, 1), those of the mapping network have a deviation of 100; signals keep their size."""
    g = Generator(16, latent_size=256, mapping_layers=8, fmap_base=1024, fmap_max=128)
    assert 0.98 < g.blocks[1].conv.weight.std() < 1.02
    assert 98 < g._mapping.layers[0].weight.std() < 102
    assert 0.2 < g.mapping(torch.randn(64, 256)).std() < 2


def test_r1_has_a_second_derivative_in_every_weight():
    d = awake(Discriminator(16, **SMALL))
    x = torch.randn(4, 1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    for name, p in d.named_parameters():
        if name.endswith("weight") and not name.startswith(("from_image.0", "from_image.1")):
            assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_wrong_arguments_say_what_is_wrong():
    with pytest.raises(ValueError, match="power of two"):
        Generator(48)
    with pytest.raises(ValueError, match="noise maps are needed"):
        generator().synthesis(torch.zeros(1, 6, 24), noise=[torch.zeros(1, 1, 4, 4)])
    with pytest.raises(ValueError, match="space"):
        Encoder(32, space="z")


@pytest.mark.parametrize("space", ["w", "w+"])
def test_encoder_answers_in_the_space_asked_for(space):
    encoder = Encoder(32, latent_size=24, num_layers=8, space=space, shortcut=4).eval()
    encoder.w_avg.fill_(3.0)
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(encoder(images), torch.full((2, 8, 24), 3.0))  # untrained, it answers with the average
    for head in (encoder.head, *encoder.offsets.values()):
        head.weight.data.normal_()
    w_plus = encoder(images)
    assert w_plus.shape == (2, 8, 24)
    assert torch.equal(w_plus[:, 0], w_plus[:, 1]) == (space == "w")
    alone = encoder(images, space="w")  # what every layer begins with
    assert torch.equal(alone[:, 0], alone[:, 1]) and torch.equal(alone, w_plus) == (space == "w")
    assert (w_plus.mean() - 3).abs() < 1


def test_encoder_begins_from_a_trained_resnet():
    from torchvision.models import resnet18

    donor = resnet18(weights=None)
    encoder = Encoder(32, num_layers=8, latent_size=16, trunk="resnet18")
    encoder.begin_from(donor)
    assert torch.equal(encoder.trunk.layer3[0].conv1.weight, donor.layer3[0].conv1.weight)
    grey = torch.randn(1, 1, 32, 32)  # answers as three equal colours do in the donor
    assert torch.allclose(encoder.trunk.conv1(grey), donor.conv1(grey.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("group", [1, 4])
def test_a_wider_network_computes_what_the_narrow_one_did_and_can_learn_more(group):
    narrow, wide = {"fmap_base": 128, "fmap_max": 16}, {"fmap_base": 256, "fmap_max": 40}
    latent = dict(latent_size=24, mapping_layers=2)
    small, large = awake(Generator(32, **latent, **narrow)), awake(Generator(32, **latent, **wide))
    large.load_state_dict(widened(large, small.state_dict()))
    z = torch.randn(4, 24)
    images = small(z)
    assert torch.allclose(large(z), images, atol=1e-5)
    judge, wider = (awake(Discriminator(32, stddev_group=group, **widths)) for widths in (narrow, wide))
    wider.load_state_dict(widened(wider, judge.state_dict()))
    off = (wider(images) - judge(images)).abs().max().item()
    if group == 1:  # the standard deviation is a mean over all maps, new ones too
        assert off < 1e-5
    wider(large(z)).sum().backward()
    silent = large.blocks[2].conv.weight  # what old maps take from new ones
    old = small.blocks[2].conv.weight.shape
    assert silent[: old[0], old[1] :].eq(0).all() and silent.grad[: old[0], old[1] :].abs().max() > 0
    with pytest.raises(ValueError, match="does not fit"):
        widened(small, large.state_dict())
