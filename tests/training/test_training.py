"""Schedules, runs that survive, and small trainings from end to end."""

import math
import multiprocessing
import os
import resource
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from made_up import TIMES, TINY, Blobs

from stylemed.errors import BadInput
from stylemed.files import digest_of_weights
from stylemed.networks import Generator
from stylemed.provenance import Provenance
from stylemed.training import (
    GanConfig,
    Run,
    encoder_config,
    gan_config,
    growth_table,
    load_encoder,
    load_generator,
    stage,
    train_encoder,
    train_gan,
)
from stylemed.training.encoder import EncoderTrainer, trained_trunk
from stylemed.training.gan import GanTrainer
from stylemed.training.loop import MOST_SKIPPED, GradientGuard, next_positions
from stylemed.training.reader import reader_config
from stylemed.training.run import Checkpoint, export
from stylemed.training.schedule import all_every, ema_beta


def state(run: Path) -> dict:
    return load_generator(run)[0].state_dict()


def gan(preset: str, **changes):
    return gan_config(preset, 64, **changes)


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- schedules


@pytest.mark.parametrize("resolution", [512, 1024])
def test_paper_schedule(resolution):
    """600 kimg at 8², then 600 fading and 600 stable for each doubling; batches and rates of one GPU."""
    config = gan_config("paper", resolution)
    sides = [8 * 2**k for k in range((resolution // 8).bit_length())]
    assert stage(0, config).resolution == 8 and stage(0, config).lod == len(sides) - 1
    assert stage(599_999, config).alpha == 1.0
    fading = stage(900_000, config)
    assert fading.resolution == 16 and math.isclose(fading.alpha, 0.5) and fading.batch == 128
    assert stage(1_200_000, config).lod == len(sides) - 2
    batches = {8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4, 1024: 4}
    rates = {8: 0.001, 16: 0.001, 32: 0.001, 64: 0.001, 128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}
    expected = [(0, 8, False, 128, 0.001)]
    for k, side in enumerate(sides[1:]):
        at = 600 + 1200 * k
        expected += [(at, side, True, batches[side], rates[side]), (at + 600, side, False, batches[side], rates[side])]
    assert [tuple(row.values()) for row in growth_table(config, 25_000)] == expected


def test_average_decays_by_half_life_and_ramps_up():
    assert math.isclose(ema_beta(10**6, 32, GanConfig()), 0.5 ** (32 / 10_000))
    ramped = gan_config("ct-64", 64)
    assert math.isclose(ema_beta(1000, 8, ramped), 0.5 ** (8 / 100))
    assert ema_beta(0, 16, ramped) < 1e-6


def test_every_image_once_an_epoch():
    positions = next_positions(0, 7, 7, seed=3)
    assert sorted(positions) == list(range(7))
    assert next_positions(0, 20, 7, seed=3) == [p for n in range(20) for p in next_positions(n, 1, 7, seed=3)]


# -- runs


@pytest.mark.slow
def test_training_learns_logs_and_exports(tmp_path):
    run = train_gan(Blobs(), tmp_path / "run", "smoke", kimg=1.6, progress=False, **TINY)
    log = run.log()
    assert list(log.kimg.round(2)) == [round(0.08 * k, 2) for k in range(1, 21)]
    assert {"loss_d", "loss_g", "r1", "r_t", "images_per_second", "resolution"} <= set(log.columns)
    assert log.reading_share.between(0, 0.5).all()
    assert log.skipped.max() == 0 and (log.isna().sum() == 0).all()
    assert len(run.samples()) == 10
    generator, metadata = load_generator(run.path)
    assert metadata["window"] == {"lo": -100, "hi": 250} and metadata["nimg"] == 1600
    assert generator.w_avg.abs().sum() > 0
    images = generator(torch.randn(64, 16, generator=torch.Generator().manual_seed(1)))
    assert images[..., 4:12, 4:12].mean() > images[..., :2].mean()  # bright in the middle, dark at the rim


@pytest.mark.slow
def test_training_that_ends_before_its_first_tick_has_a_log(tmp_path):
    log = train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.008, progress=False, **TINY).log()
    assert list(log.kimg) == [0.008] and (log.isna().sum() == 0).all()


@pytest.mark.slow
def test_resumed_run_is_bit_identical(tmp_path):
    train_gan(Blobs(), tmp_path / "whole", "smoke", kimg=0.5, progress=False, **TINY)
    for kimg in (0.1, 0.132, 0.3, 0.5):
        train_gan(Blobs(), tmp_path / "parts", "smoke", kimg=kimg, progress=False, **TINY)
    assert equal(state(tmp_path / "whole"), state(tmp_path / "parts"))
    a, b = (Run(tmp_path / name).log().drop(columns=TIMES) for name in ("whole", "parts"))
    assert a.equals(b)


def _train_until_killed(folder):
    torch.set_num_threads(1)
    train_gan(Blobs(), folder, "smoke", kimg=0.64, progress=False, **TINY)


@pytest.mark.slow
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


@pytest.mark.slow
def test_last_checkpoint_of_each_resolution_stays(tmp_path):
    grow = {**TINY, "start_resolution": 8, "stable_kimg": 0.16, "fade_kimg": 0.16, **all_every(0.08)}
    run = train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.8, progress=False, **grow)
    names = [file.stem.split("-")[1:] for file in run.checkpoints()]
    assert names == [["0000000160", "8"], ["0000000640", "16"], ["0000000720", "16"], ["0000000800", "16"]]


@pytest.mark.slow
def test_grid_export_measure_and_checkpoint_have_intervals_of_their_own(tmp_path):
    seen = []

    def measure(run, trainer):
        seen.append((trainer.nimg, load_generator(run.path)[1]["nimg"]))

    often = dict(grid_kimg=0.08, export_kimg=0.16, measure_kimg=0.2, checkpoint_kimg=0.12, **TINY)
    for _ in range(2):  # the second call finds everything done
        run = train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.4, progress=False, on_snapshot=measure, **often)
    assert [int(file.stem) for file in run.samples()] == [80, 160, 240, 320, 400]
    assert seen == [(200, 160), (400, 400)]
    assert [int(file.stem.split("-")[1]) for file in run.checkpoints()] == [240, 360, 400]
    with pytest.raises(BadInput, match="export_kimg must be more than 0"):
        train_gan(Blobs(), tmp_path / "none", "smoke", kimg=0.4, export_kimg=0.0, **TINY)


def test_a_checkpoint_of_other_parts_is_refused():
    trainer = GanTrainer(Blobs(), gan_config("smoke", 16, **TINY), seed=0)
    state = Checkpoint(trainer=trainer).state()
    Checkpoint(trainer=trainer).load(state)
    for other in ({"counters": [1, 2]}, {"trainer": {**state["trainer"], "counters": []}}, {**state, "rows": []}):
        with pytest.raises(BadInput, match="another version of this program"):
            Checkpoint(trainer=trainer).load(other)


def _train_on_a_small_disk(folder):
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        train_gan(Blobs(), folder, "smoke", kimg=0.3, progress=False, **TINY)
    except BadInput as error:
        (folder / "said.txt").write_text(str(error))


@pytest.mark.slow
def test_full_disk_stops_with_a_sentence_and_the_last_checkpoint_stands(tmp_path):
    folder = tmp_path / "run"
    train_gan(Blobs(), folder, "smoke", kimg=0.16, progress=False, **TINY)
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in (".pt", ".safetensors")}
    process = multiprocessing.get_context("spawn").Process(target=_train_on_a_small_disk, args=(folder,))
    process.start()
    process.join()
    assert "could not be written" in (folder / "said.txt").read_text()
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.name in before} == before
    assert not list(folder.glob("*.part"))
    train_gan(Blobs(), folder, "smoke", kimg=0.3, progress=False, **TINY)
    train_gan(Blobs(), tmp_path / "whole", "smoke", kimg=0.3, progress=False, **TINY)
    assert equal(state(folder), state(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("options, most", [({"precision": "bf16"}, 0.2), ({"compile": True}, 1e-4)])
def test_faster_ways_compute_the_same_gradients(monkeypatch, options, most):
    # The cheap backend traces forward and backward as the real one does, and has no second derivative either.
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled(self, backend="aot_eager", **how))
    seen = []
    step = GradientGuard.step

    def spy(self, optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        step(self, optimizer)

    monkeypatch.setattr(GradientGuard, "step", spy)
    common = {**TINY, "r1_interval": 2, "start_resolution": 16, "learning_rate_default": 0.0}
    for changes in ({}, options):
        trainer = GanTrainer(Blobs(), gan_config("smoke", 16, **common, **changes), seed=0)
        for _ in range(3):  # with R1, without, with
            trainer.step()
    assert len(seen) == 12
    for plain, fast in zip(seen[:6], seen[6:], strict=True):
        assert (plain - fast).norm() < most * plain.norm()


@pytest.mark.slow
def test_colour_images_train_too(tmp_path):
    run = train_gan(Blobs(channels=3), tmp_path / "run", "smoke", kimg=0.8, progress=False, **TINY)
    images = load_generator(run.path)[0](torch.randn(32, 16, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (32, 3, 16, 16)
    middle = images[..., 4:12, 4:12].mean(dim=(0, 2, 3))
    assert middle[0] > middle[1:].max()  # the discs are red


@pytest.mark.slow
@pytest.mark.parametrize("start", [8, 1024])
def test_largest_size_takes_a_step(start):
    class Large(Blobs):
        resolution, channels = 1024, 3

        def images(self, positions):
            return torch.zeros(len(positions), 3, 1024, 1024)

    few = {"latent_size": 16, "mapping_layers": 2, "fmap_base": 1024, "fmap_max": 4, "batch_default": 2, "batch": {}}
    trainer = GanTrainer(Large(), gan_config("paper", 1024, 3, **few, start_resolution=start), seed=0)
    numbers = trainer.step()
    assert all(math.isfinite(value) for value in numbers.values()) and trainer.resolution == start
    assert trainer.averaged(torch.randn(1, 16), lod=trainer.now.lod).shape == (1, 3, 1024, 1024)


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
    lock.release()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("…")
    with pytest.raises(BadInput, match="holds other files"):
        train_gan(Blobs(), tmp_path / "thesis", "smoke", kimg=0.1, progress=False, **TINY)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
    with pytest.raises(
        BadInput, match=r"chapter.tex.run cannot be written to \(Not a directory\); name a folder elsewhere"
    ):
        train_gan(Blobs(), tmp_path / "thesis" / "chapter.tex" / "run", "smoke", kimg=0.1, progress=False, **TINY)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_training_leaves_its_folder_free(tmp_path, stop):
    def interrupt(run, trainer):
        raise stop

    # As in a notebook, the exceptions and their frames stay referred to.
    with pytest.raises(stop) as kept:
        train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.1, progress=False, on_snapshot=interrupt, **TINY)
    with pytest.raises(BadInput, match="another configuration") as refused:
        train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.1, progress=False, seed=1, **TINY)
    train_gan(Blobs(), tmp_path / "run", "smoke", kimg=0.1, progress=False, **TINY)
    assert kept.value and refused.value


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
    with pytest.raises(BadInput, match="r1_gamma cannot be 'ten'"):
        gan_config("smoke", 64, r1_gamma="ten")
    with pytest.raises(BadInput, match="precision must be"):
        gan_config("smoke", 64, precision="fp8")
    with pytest.raises(BadInput, match="augment must be"):
        gan_config("smoke", 64, augment="mirror")
    with pytest.raises(BadInput, match="no preset nope"):
        encoder_config("nope")
    with pytest.raises(BadInput, match="learning_speed.*EncoderConfig"):
        encoder_config("smoke", learning_speed=1)
    with pytest.raises(BadInput, match="space must be"):
        encoder_config("smoke", space="z")
    with pytest.raises(BadInput, match="batch in the configuration itself"):
        train_encoder("nowhere", "nowhere", encoder_config("smoke"), kimg=1, batch=2)


@pytest.mark.parametrize(
    "config, changes",
    [(gan, {"mapping_layers": 2.5}), (gan, {"compile": 1}), (gan, {"batch": {64: "four"}}), (gan, {"fade_kimg": None})]
    + [(encoder_config, {"batch": 4.5}), (encoder_config, {"space": 1}), (encoder_config, {"image_weight": True})]
    + [(encoder_config, {"radius": "far"}), (encoder_config, {"learning_rate": "1e-3"})]
    + [(reader_config, {"width": 2.5}), (reader_config, {"kimg": "long"})],
)
def test_values_of_another_type_are_refused(config, changes):
    with pytest.raises(BadInput, match=f"{list(changes)[0]} cannot be .* by default it is"):
        config("smoke", **changes)
    assert config("smoke", ema_rampup=None, tick_kimg=1).tick_kimg == 1  # a whole number is a number


@pytest.mark.slow
def test_a_measured_radius_clips_a_hundredth_of_the_generators_own_latents():
    torch.manual_seed(0)
    generator = Generator(16, **{k: v for k, v in TINY.items() if k != "batch_default"}).eval()

    def encoder(preset):
        return EncoderTrainer(generator, None, None, encoder_config(preset, feature_weight=0), 0, "cpu", {}).encoder

    smoke = encoder("smoke")
    with torch.no_grad():
        w = generator.mapping(torch.randn(20000, 16))
    distance = ((w - smoke.w_avg) / smoke.w_std).square().mean(dim=1).sqrt()
    assert 0.005 < (distance > smoke.radius).float().mean() < 0.015 < 0.3 < (distance > 1).float().mean()
    assert encoder("smoke").radius == smoke.radius and encoder("paper").radius == 0


EVERYTHING = dict(space="w+", trunk="resnet18", real_share=0.25, changes=0.5, least_psi=0.7)
EVERYTHING |= dict(image_weight=1.0, structure_weight=1.0, feature_weight=1.0, offset_weight=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"space": "w"}, EVERYTHING, EVERYTHING | {"real_share": 1.0}])
def test_encoder_trains_resumes_to_the_bit_and_exports(tmp_path, changes):
    gan = train_gan(Blobs(), tmp_path / "gan", "smoke", kimg=0.1, progress=False, **TINY).path
    for name, ends in {"at once": [0.064], "in two": [0.032, 0.064]}.items():
        for kimg in ends:
            run = train_encoder(gan, tmp_path / name, "smoke", dataset=Blobs(), kimg=kimg, progress=False, **changes)
    encoder, metadata = load_encoder(run.path)
    assert metadata["generator_nimg"] == load_generator(gan)[1]["nimg"]
    assert encoder(Blobs().all[:2]).shape == (2, 6, 16)
    unbroken = load_encoder(tmp_path / "at once")[0].state_dict()
    assert all(torch.equal(value, unbroken[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(BadInput, match=r"another configuration \(data: .* there, None now"):
        train_encoder(gan, tmp_path / "in two", "smoke", kimg=0.1, progress=False, **changes | {"real_share": 0.0})
    said = {"w_error", "image_error", "real_error"} | ({"real_image_error"} if "real_share" in changes else set())
    assert said <= set(run.log().columns) and len(run.samples()) >= 1


@pytest.mark.slow
def test_an_encoder_in_bf16_learns_as_one_in_float32(tmp_path):
    gan = train_gan(Blobs(), tmp_path / "gan", "smoke", kimg=0.05, progress=False, **TINY).path
    told = {}
    for precision in ("float32", "bf16"):
        changes = EVERYTHING | {"precision": precision}
        run = train_encoder(gan, tmp_path / precision, "smoke", dataset=Blobs(), kimg=0.032, progress=False, **changes)
        told[precision] = run.log()["loss"].iloc[0]
    assert told["bf16"] == pytest.approx(told["float32"], rel=0.02) and told["bf16"] != told["float32"]


def test_trunk_weights_come_from_a_file_a_server_or_chance(tmp_path, monkeypatch, capsys):
    from torchvision.models import resnet18

    donor = resnet18(weights=None)
    torch.save(donor.state_dict(), tmp_path / "resnet18.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for weights, url in ((tmp_path / "resnet18.pth", None), ("imagenet", (tmp_path / "resnet18.pth").as_uri())):
        trunk, began = trained_trunk("resnet18", weights, url)
        assert torch.equal(trunk.fc.weight, donor.fc.weight) and began == Path(weights).name
    assert trained_trunk("resnet18", "imagenet", (tmp_path / "nothing.pth").as_uri()) == (None, "random")
    assert "begins at random" in capsys.readouterr().out
    assert trained_trunk("resnet18", None) == (None, "random")
    (tmp_path / "broken.pth").write_bytes(b"not a state dict")
    with pytest.raises(BadInput, match=r"broken\.pth"):
        trained_trunk("resnet18", tmp_path / "broken.pth")
    with pytest.raises(BadInput, match="no such file"):
        trained_trunk("resnet18", tmp_path / "nothing.pth")


def test_real_slices_need_an_image_loss_and_a_store(tmp_path):
    with pytest.raises(BadInput, match="no latent is known"):
        encoder_config("paper", real_share=0.5)
    gan = train_gan(Blobs(), tmp_path / "gan", "smoke", kimg=0.04, progress=False, **TINY).path
    with pytest.raises(BadInput, match="--store"):
        train_encoder(gan, tmp_path / "enc", "smoke", kimg=0.1, real_share=0.5)
    (gan / "discriminator.safetensors").unlink()
    with pytest.raises(BadInput, match=r"discriminator\.safetensors"):
        train_encoder(gan, tmp_path / "enc", "smoke", kimg=0.1, feature_weight=1.0)
    assert not (tmp_path / "enc").exists()


def test_changed_images_are_near_and_pairs_without_changes_are_exact():
    torch.manual_seed(0)
    generator = Generator(16, **{k: v for k, v in TINY.items() if k != "batch_default"}).eval()
    trainer = EncoderTrainer(
        generator, None, None, encoder_config("smoke", changes=0.5, least_psi=0.0, feature_weight=0), 0, "cpu", {}
    )
    images = trainer.pairs(64, "pairs")[0].clamp(-1, 1)
    changed = trainer._changed(images)
    same = (changed == images).flatten(1).all(dim=1)
    assert 20 < same.sum() < 44
    assert (changed - images)[~same].abs().mean() < 0.3
    trainer.config = encoder_config("smoke", changes=0, feature_weight=0)
    assert torch.equal(trainer._changed(images), images)


def test_encoder_refuses_slices_that_look_otherwise(tmp_path):
    class Made(Blobs):
        metadata = {"provenance": Provenance(windows={"CT": [-100.0, 250.0]}, frame="image").to_dict()}

    class Large(Blobs):
        resolution = 32

    class Elsewhere(Blobs):
        metadata = {"provenance": Provenance(windows={"CT": [0.0, 250.0]}, frame="image").to_dict()}

    gan = train_gan(Made(), tmp_path / "gan", "smoke", kimg=0.04, progress=False, **TINY).path
    for dataset, says in ((Large(), "--resolution 16"), (Elsewhere(), "window of CT")):
        with pytest.raises(BadInput, match=says):
            train_encoder(gan, tmp_path / "enc", "smoke", dataset=dataset, kimg=0.1, progress=False)
    assert not (tmp_path / "enc").exists()


@pytest.mark.slow
def test_encoder_goes_on_with_the_weights_it_began_with(tmp_path):
    gan = train_gan(Blobs(), tmp_path / "gan", "smoke", kimg=0.04, progress=False, **TINY).path
    quick = dict(kimg=0.008, progress=False, shortcut=0, image_weight=0.0)
    train_encoder(gan, tmp_path / "enc", "smoke", **quick)
    generator, metadata = load_generator(gan)
    digest = digest_of_weights(generator.state_dict())
    generator.w_avg += 1.0
    export(gan / "generator.safetensors", generator, metadata)  # the same settings and nimg
    with pytest.raises(BadInput, match=f"generator.digest: {digest} there"):
        train_encoder(gan, tmp_path / "enc", "smoke", **quick)
