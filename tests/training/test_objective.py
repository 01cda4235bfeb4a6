"""What goes beyond StyleGAN's own training, each off in preset `paper`: loss, penalties, mapping, order, pace, start."""

import math

import numpy as np
import pytest
import torch
from made_up import TIMES, TINY, Blobs

from stylemed.errors import BadInput
from stylemed.networks import Generator
from stylemed.training import Run, gan_config, growth_table, load_generator, stage, train_gan
from stylemed.training.gan import GanTrainer, gradient_penalty, relativistic_loss, shown_order

BEYOND = {"loss": "relativistic", "r2_gamma": 1.0, "mapping_normalized": True, "tumor_share": 0.5}


class Sick(Blobs):
    """Every fifth disc is a tumor."""

    tumors = np.arange(20) % 5 == 0


def test_relativistic_loss_compares_within_pairs():
    better, worse = torch.tensor([3.0, -1.0]), torch.tensor([1.0, -1.0])
    told = relativistic_loss(worse, better)
    assert math.isclose(told.item(), (math.log(1 + math.exp(-2)) + math.log(2)) / 2, rel_tol=1e-6)
    assert math.isclose(relativistic_loss(worse + 100, better + 100).item(), told.item(), rel_tol=1e-5)


def test_penalty_of_a_linear_score_is_its_squared_slope():
    images = torch.randn(4, 1, 3, 3, requires_grad=True)
    assert math.isclose(gradient_penalty((2 * images).sum(dim=(1, 2, 3)), images).item(), 4 * 9, rel_tol=1e-6)


def test_normalized_w_is_centred_scaled_and_parted():
    z = torch.randn(4000, 64)

    def cosine(generator):
        w = torch.nn.functional.normalize(generator.mapping(z).detach(), dim=1)
        return (w[:2000] * w[2000:]).sum(dim=1).mean().item()

    torch.manual_seed(0)
    plain = Generator(16, latent_size=64, fmap_base=64)
    generator = Generator(16, latent_size=64, fmap_base=64, mapping_normalized=True)
    w = generator.mapping(z).detach()
    assert w.mean(dim=0).abs().max() < 0.1 and (w.std(dim=0) - 1).abs().max() < 0.1
    assert cosine(plain) > 0.5 and abs(cosine(generator)) < 0.05


def test_tumors_are_shown_as_often_as_asked_and_nothing_is_left_out():
    order = shown_order(Sick(), 0.5, seed=0)
    assert set(order) == set(range(20)) and Sick.tumors[order].mean() == 0.5
    times = np.bincount(order)[Sick.tumors]
    assert times.max() - times.min() <= 1  # no tumor is favoured
    assert list(shown_order(Blobs(), None, seed=0)) == list(range(20))
    with pytest.raises(BadInput, match="less than the 0.20"):
        shown_order(Sick(), 0.1, seed=0)
    with pytest.raises(BadInput, match="known to hold a tumor"):
        shown_order(Blobs(), 0.5, seed=0)


def test_resolutions_may_last_differently_long():
    config = gan_config("smoke", 64, stable_kimg=5.0, fade_kimg=3.0, stable_kimg_at={32: 1.0})
    rows = [(row["from_kimg"], row["resolution"], row["fading"]) for row in growth_table(config, 100)]
    assert rows == [(0, 16, False), (5, 32, True), (8, 32, False), (9, 64, True), (12, 64, False)]
    assert stage(8_500, config).lod == 1 and math.isclose(stage(10_500, config).lod, 0.5)


def test_what_contradicts_itself_is_refused():
    for change, says in (
        ({"loss": "hinge"}, "loss must be"),
        ({"tumor_share": 1.0}, "between 0 and 1"),
        ({"r1_gamma": 0.0, "r2_gamma": 1.0}, "r2_gamma without r1_gamma"),
    ):
        with pytest.raises(BadInput, match=says):
            gan_config("smoke", 16, **change)
    with pytest.raises(BadInput, match="that of the data"):
        train_gan(Blobs(), "nowhere", "smoke", kimg=1, resolution=64)


@pytest.mark.slow
def test_training_beyond_the_paper_moves_both_networks_and_resumes_bit_identically(tmp_path):
    run = train_gan(Sick(), tmp_path / "whole", "smoke", kimg=0.4, progress=False, **TINY, **BEYOND)
    for kimg in (0.1, 0.4):
        train_gan(Sick(), tmp_path / "parts", "smoke", kimg=kimg, progress=False, **TINY, **BEYOND)
    a, b = (load_generator(tmp_path / name)[0].state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    log = run.log()
    assert log.drop(columns=TIMES).equals(Run(tmp_path / "parts").log().drop(columns=TIMES))
    assert (log.r2 > 0).all() and log.skipped.max() == 0


def test_warm_start_takes_weights_and_no_moments(tmp_path):
    first = train_gan(Blobs(), tmp_path / "first", "smoke", kimg=0.1, progress=False, **TINY)
    trainer = GanTrainer(Blobs(), gan_config("smoke", 16, **TINY), seed=1)
    trainer.begin_from(first.path)
    given = load_generator(first.path)[0].state_dict()
    assert all(torch.equal(given[k], v) for k, v in trainer.generator.state_dict().items())
    assert trainer.nimg == 0 and not trainer.optimizer_g.state
    larger = GanTrainer(Blobs(), gan_config("smoke", 32, start_resolution=16, **TINY), seed=1)
    larger.begin_from(first.path)
    z = torch.randn(2, 16)
    small = load_generator(first.path)[0]
    assert torch.equal(larger.averaged(z, lod=1.0)[..., ::2, ::2], small(z, lod=0.0))
    with pytest.raises(BadInput, match="neither fewer maps"):
        GanTrainer(Blobs(), gan_config("smoke", 16, **{**TINY, "fmap_max": 4}), seed=1).begin_from(first.path)


def test_warm_start_from_another_window_is_refused(tmp_path):
    first, other = Blobs(), Blobs()
    first.metadata = {"provenance": {"windows": {"CT": [-100, 250]}, "frame": "body"}}
    other.metadata = {"provenance": {"windows": {"CT": [0, 255]}, "frame": "body"}}
    run = train_gan(first, tmp_path / "first", "smoke", kimg=0.04, progress=False, **TINY)
    with pytest.raises(BadInput, match="window of CT"):
        train_gan(other, tmp_path / "second", "smoke", kimg=0.04, warm_start=run.path, progress=False, **TINY)


@pytest.mark.slow
def test_a_run_that_began_warm_goes_on_without_the_other_and_knows_its_patients(tmp_path):
    slices, others = Blobs(), Blobs()
    slices.metadata = {"provenance": {"patients": {"a": ["1"]}}}
    others.metadata = {"provenance": {"patients": {"b": ["2"]}}}
    first = train_gan(others, tmp_path / "first", "smoke", kimg=0.1, progress=False, **TINY)
    started = dict(warm_start=first.path, progress=False, **TINY)
    for kimg in (0.04, 0.1):
        run = train_gan(slices, tmp_path / "second", "smoke", kimg=kimg, **started)
        assert load_generator(run.path)[0].provenance.patients == {"a": ["1"], "b": ["2"]}
        if first.path.exists():
            first.path.rename(tmp_path / "gone")
    assert len(run.log()) == 2
    with pytest.raises(BadInput, match="no such file"):
        train_gan(Blobs(), tmp_path / "third", "smoke", kimg=0.04, **started)
