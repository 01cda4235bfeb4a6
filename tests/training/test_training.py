"""Schedules, runs that survive, and small trainings from end to end."""

import math
import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from stylemed.errors import BadInput
from stylemed.training import (
    GanConfig,
    Run,
    augment,
    gan_config,
    growth_table,
    load_encoder,
    load_generator,
    stage,
    train_encoder,
    train_gan,
)
from stylemed.training.loop import MOST_SKIPPED, next_positions
from stylemed.training.schedule import ema_beta

TINY = {"latent_size": 16, "mapping_layers": 2, "fmap_base": 64, "fmap_max": 8, "batch_default": 4}


class Blobs:
    """A data set of bright discs, 16²."""

    resolution, channels = 16, 1
    metadata = {"window": {"lo": -100, "hi": 250}}

    def __init__(self, n: int = 20):
        stream = torch.Generator().manual_seed(0)
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        centre = torch.rand(n, 2, generator=stream) * 6 + 5
        away = (y[None] - centre[:, :1, None]) ** 2 + (x[None] - centre[:, 1:, None]) ** 2
        self.all = (1 - away / 8).clamp(-1, 1)[:, None].float()

    def __len__(self):
        return len(self.all)

    def images(self, positions):
        return self.all[positions]


def state(run: Path) -> dict:
    return load_generator(run)[0].state_dict()


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- schedules


def test_paper_schedule():
    """600 kimg at 8², then 600 fading and 600 stable for each doubling; batches and rates of one GPU."""
    config = gan_config("paper", 512)
    assert stage(0, config).resolution == 8 and stage(0, config).lod == 6
    assert stage(599_999, config).alpha == 1.0
    fading = stage(900_000, config)
    assert fading.resolution == 16 and math.isclose(fading.alpha, 0.5) and fading.batch == 128
    assert stage(1_200_000, config).lod == 5
    table = {row["resolution"]: row for row in growth_table(config, 25_000)}
    assert {r: row["batch"] for r, row in table.items()} == {8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4}
    rates = {8: 0.001, 16: 0.001, 32: 0.001, 64: 0.001, 128: 0.0015, 256: 0.002, 512: 0.003}
    assert {r: row["learning_rate"] for r, row in table.items()} == rates
    changes = [(row["from_kimg"], row["resolution"], row["fading"]) for row in growth_table(config, 25_000)]
    assert changes[:4] == [(0, 8, False), (600, 16, True), (1200, 16, False), (1800, 32, True)]
    assert changes[-1] == (7200, 512, False)


def test_average_decays_by_half_life_and_ramps_up():
    assert math.isclose(ema_beta(10**6, 32, GanConfig()), 0.5 ** (32 / 10_000))
    ramped = gan_config("ct-64", 64)
    assert math.isclose(ema_beta(1000, 8, ramped), 0.5 ** (8 / 100))
    assert ema_beta(0, 16, ramped) < 1e-6


def test_every_image_once_an_epoch():
    positions = next_positions(0, 7, 7, seed=3)
    assert sorted(positions) == list(range(7))
    assert next_positions(0, 20, 7, seed=3) == [p for n in range(20) for p in next_positions(n, 1, 7, seed=3)]


# -- augmentation


def test_augmentation_off_changes_nothing_and_air_stays_air():
    x = Blobs().all[:6]
    off = augment.draw(6, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(augment.apply(x, off), x)
    moved = {**off, "x": torch.full((6,), 0.5), "y": torch.zeros(6)}  # a quarter of the image to the right
    shifted = augment.apply(x, moved)
    assert torch.allclose(shifted[..., 4:], x[..., :-4], atol=1e-5)
    assert torch.allclose(shifted[..., :4], torch.full_like(shifted[..., :4], -1.0), atol=1e-5)


def test_augmentation_never_mirrors_and_is_differentiable():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    ramp = x.expand(64, 1, 16, 16).clone().requires_grad_()  # dark on the left, bright on the right
    out = augment.apply(ramp, augment.draw(64, 1.0, torch.Generator().manual_seed(0)))
    middle = out[:, 0, 6:10]
    assert (middle[..., 8:12].mean(dim=(1, 2)) > middle[..., 4:8].mean(dim=(1, 2))).all()
    out.sum().backward()
    assert torch.isfinite(ramp.grad).all() and ramp.grad.abs().sum() > 0


# -- runs


def test_training_learns_logs_and_exports(tmp_path):
    run = train_gan(Blobs(), tmp_path / "run", "smoke", kimg=1.6, progress=False, **TINY)
    log = run.log()
    assert list(log.kimg.round(2)) == [round(0.08 * k, 2) for k in range(1, 21)]
    assert {"loss_d", "loss_g", "r1", "r_t", "images_per_second", "resolution"} <= set(log.columns)
    assert log.skipped.max() == 0 and (log.isna().sum() == 0).all()
    assert len(run.samples()) == 10
    generator, metadata = load_generator(run.path)
    assert metadata["window"] == {"lo": -100, "hi": 250} and metadata["nimg"] == 1600
    assert generator.w_avg.abs().sum() > 0
    images = generator(torch.randn(64, 16, generator=torch.Generator().manual_seed(1)))
    assert images[..., 4:12, 4:12].mean() > images[..., :2].mean()  # bright in the middle, dark at the rim


def test_resumed_run_is_bit_identical(tmp_path):
    train_gan(Blobs(), tmp_path / "whole", "smoke", kimg=0.5, progress=False, **TINY)
    for kimg in (0.1, 0.132, 0.3, 0.5):
        train_gan(Blobs(), tmp_path / "parts", "smoke", kimg=kimg, progress=False, **TINY)
    assert equal(state(tmp_path / "whole"), state(tmp_path / "parts"))
    a, b = (Run(tmp_path / name).log().drop(columns=["minutes", "images_per_second"]) for name in ("whole", "parts"))
    assert a.equals(b)


def _train_until_killed(folder):
    torch.set_num_threads(1)
    train_gan(Blobs(), folder, "smoke", kimg=0.64, progress=False, **TINY)


def test_killed_run_resumes_bit_identically_even_with_a_damaged_checkpoint(tmp_path):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_train_until_killed, args=(tmp_path / "killed",))
    process.start()
    while len(list((tmp_path / "killed").glob("checkpoint-*.pt"))) < 2 and process.is_alive():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    newest = sorted((tmp_path / "killed").glob("checkpoint-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=newest.name):
        train_gan(Blobs(), tmp_path / "killed", "smoke", kimg=0.64, progress=False, **TINY)
    train_gan(Blobs(), tmp_path / "whole", "smoke", kimg=0.64, progress=False, **TINY)
    assert equal(state(tmp_path / "whole"), state(tmp_path / "killed"))


def test_generator_of_a_training_stopped_early_draws_as_far_as_it_has_grown(tmp_path):
    run = train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.08, progress=False, **TINY, start_resolution=8)
    generator, metadata = load_generator(run.path)
    assert generator.lod == metadata["lod"] == 1.0
    images = generator(torch.randn(4, 16))
    assert images.shape == (4, 1, 16, 16) and torch.equal(images[..., ::2, ::2], images[..., 1::2, 1::2])


def test_other_configuration_is_refused_with_its_keys(tmp_path):
    train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.1, progress=False, **TINY)
    with pytest.raises(BadInput, match="r1_gamma: 1.0 there, 5.0 now"):
        train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.2, progress=False, **TINY, r1_gamma=5.0)
    with pytest.raises(BadInput, match="seed: 0 there, 1 now"):
        train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.2, progress=False, seed=1, **TINY)


def test_run_folder_in_use_or_of_something_else_is_refused(tmp_path):
    lock = Run(tmp_path / "run").begin({"kind": "gan"})
    with pytest.raises(BadInput, match="in use"):
        Run(tmp_path / "run").begin({"kind": "gan"})
    lock.close()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("…")
    with pytest.raises(BadInput, match="holds other files"):
        train_gan(Blobs(), tmp_path / "thesis", "smoke", kimg=0.1, progress=False, **TINY)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_unreadable_checkpoints_and_weights_are_named(tmp_path):
    run = train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.1, progress=False, **TINY)
    for file in run.checkpoints():
        file.write_bytes(b"nonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(BadInput, match="no checkpoint can be read"):
            train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.2, progress=False, **TINY)
    weights = run.path / "generator.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2], whole[:2000] + b"\xff" * 50):
        weights.write_bytes(damaged)
        with pytest.raises(BadInput, match="generator.safetensors"):
            load_generator(run.path)
    weights.write_bytes(whole)
    with pytest.raises(BadInput, match="no stylemed encoder"):
        load_encoder(weights)
    with pytest.raises(BadInput, match="no such file"):
        load_generator(tmp_path / "nowhere")


def test_diverged_training_stops_with_a_sentence(tmp_path):
    class Broken(Blobs):
        def images(self, positions):
            return self.all[positions] * float("nan")

    with pytest.raises(BadInput, match=f"{MOST_SKIPPED} steps in a row"):
        train_gan(Broken(), tmp_path / "run", "smoke", kimg=1, progress=False, augment="none", **TINY)


def test_unknown_names_are_told():
    with pytest.raises(BadInput, match="no preset nope"):
        gan_config("nope", 64)
    with pytest.raises(BadInput, match="learning_speed"):
        gan_config("smoke", 64, learning_speed=1)
    with pytest.raises(BadInput, match="augment must be"):
        gan_config("smoke", 64, augment="mirror")


@pytest.mark.parametrize("space", ["w", "w+"])
def test_encoder_trains_resumes_and_exports(tmp_path, space):
    gan = train_gan(Blobs(), tmp_path / "gan", "smoke", kimg=0.1, progress=False, **TINY).path
    for kimg in (0.032, 0.064):
        run = train_encoder(gan, tmp_path / "enc", "smoke", dataset=Blobs(), kimg=kimg, progress=False, space=space)
    encoder, metadata = load_encoder(run.path)
    assert metadata["generator_nimg"] == load_generator(gan)[1]["nimg"]
    assert encoder(Blobs().all[:2]).shape == (2, 6, 16)
    assert {"w_error", "image_error", "real_error"} <= set(run.log().columns) and len(run.samples()) >= 1


def test_encoder_refuses_a_store_of_another_size(tmp_path):
    gan = train_gan(Blobs(), tmp_path / "gan", "smoke", kimg=0.04, progress=False, **TINY).path

    class Large(Blobs):
        resolution = 32

    with pytest.raises(BadInput, match="--resolution 16"):
        train_encoder(gan, tmp_path / "enc", "smoke", dataset=Large(), kimg=0.1, progress=False)
