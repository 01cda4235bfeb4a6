"""What the discriminator's augmentation may do, and what it must not."""

import torch
from made_up import Blobs

from stylemed.training import augment


def off(shape):
    return augment.draw(shape, 0.0, torch.Generator().manual_seed(0))


def test_off_changes_nothing_and_air_stays_air():
    x = Blobs().all[:6]
    assert torch.equal(augment.apply(x, off(x.shape)), x)
    moved = {**off(x.shape), "x": torch.full((6,), 0.5)}  # a quarter of the image to the right
    shifted = augment.apply(x, moved)
    assert torch.allclose(shifted[..., 4:], x[..., :-4], atol=1e-5)
    assert torch.allclose(shifted[..., :4], torch.full_like(shifted[..., :4], -1.0), atol=1e-5)
    dark, mid = torch.full_like(x, -1.0), torch.zeros_like(x)
    lit = {**off(x.shape), "brightness": torch.full((6,), 0.1), "contrast": torch.full((6,), 1.1)}
    assert torch.equal(augment.apply(dark, lit), dark)  # a generator would learn to draw grey air
    assert torch.allclose(augment.apply(mid, lit), mid + 0.2)


def test_never_mirrors():
    ramp = torch.linspace(-1, 1, 16).expand(64, 1, 16, 16)  # dark on the left, bright on the right
    drawn = augment.draw(ramp.shape, 1.0, torch.Generator().manual_seed(0))
    out = augment.apply(ramp, {**drawn, "cut": torch.zeros(64), "noise": torch.zeros(ramp.shape)})
    middle = out[:, 0, 6:10]
    assert (middle[..., 8:12].mean(dim=(1, 2)) > middle[..., 4:8].mean(dim=(1, 2))).all()


def test_gradients_reach_every_pixel_that_is_still_seen():
    x = torch.zeros(32, 1, 16, 16, requires_grad=True)
    augment.apply(x, augment.draw(x.shape, 1.0, torch.Generator().manual_seed(0))).sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_each_kind_comes_with_probability_p():
    drawn = augment.draw((4000, 1, 1, 1), 0.3, torch.Generator().manual_seed(0))
    changed = {
        "x": drawn["x"] != 0,
        "angle": drawn["angle"] != 0,
        "scale": drawn["scale"] != 1,
        "brightness": drawn["brightness"] != 0,
        "contrast": drawn["contrast"] != 1,
        "cut": drawn["cut"] != 0,
        "noise": drawn["noise"][:, 0, 0, 0] != 0,
    }
    shares = {name: on.float().mean().item() for name, on in changed.items()}
    assert all(abs(share - 0.3) < 0.03 for share in shares.values()), shares
    both = (changed["x"] & changed["cut"]).float().mean().item()
    assert abs(both - 0.09) < 0.02  # kinds are drawn independently


def test_noise_and_cutout_have_their_size():
    ranges = augment.Ranges()
    x = torch.zeros(500, 1, 32, 32)
    drawn = augment.draw(x.shape, 1.0, torch.Generator().manual_seed(0))
    grainy = augment.apply(x, {**off(x.shape), "noise": drawn["noise"]})
    sigma = grainy.std(dim=(1, 2, 3))
    assert sigma.max() < 1.1 * ranges.noise and abs(sigma.mean() - ranges.noise / 2) < 0.1 * ranges.noise
    centred = {"cut": drawn["cut"], "cut_x": torch.zeros(500), "cut_y": torch.zeros(500)}
    holes = augment.apply(x, {**off(x.shape), **centred}) == augment.AIR
    side = holes.sum(dim=(1, 2, 3)).float().sqrt()
    assert ((side / 32 - ranges.cutout).abs() <= 1 / 32).all()
