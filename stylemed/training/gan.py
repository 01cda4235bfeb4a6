"""Training a StyleGAN: non-saturating loss, R1, style mixing, averaged generator, growing (Karras 2018, 2019).

The step is written out in full in `GanTrainer.step`; everything that depends on time comes from `schedule`.
"""

from collections.abc import Callable
from math import ceil, floor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.errors import BadInput
from stylemed.networks import Discriminator, Generator
from stylemed.networks.layers import downscale, lerp_clip, upscale
from stylemed.training import augment
from stylemed.training.loop import GradientGuard, drive, next_positions, random_stream
from stylemed.training.run import Run, export
from stylemed.training.schedule import GanConfig, as_plain, ema_beta, gan_config, stage

GRID = 32  # images in a sample grid


def generator_loss(fake_scores: Tensor) -> Tensor:
    """Non-saturating loss: mean of -log(sigmoid(D(G(z)))) (Goodfellow 2014)."""
    return F.softplus(-fake_scores).mean()


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Mean of -log(sigmoid(D(x))) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def r1_penalty(real_scores: Tensor, real_images: Tensor) -> Tensor:
    """Mean over the batch of the squared norm of the score's gradient at the real images (Mescheder 2018)."""
    (gradient,) = torch.autograd.grad(real_scores.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


class GanTrainer:
    """Generator, discriminator, their optimizers, and one step of training."""

    def __init__(self, dataset, config: GanConfig, seed: int, device: str = "cpu", metadata: dict | None = None):
        self.dataset, self.config, self.seed, self.device = dataset, config, seed, torch.device(device)
        self.metadata = metadata or {}
        shared = {k: getattr(config, k) for k in ("resolution", "channels", "fmap_base", "fmap_max")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_stream(seed, 0, "weights").initial_seed())
            self.generator = Generator(**shared, latent_size=config.latent_size, mapping_layers=config.mapping_layers)
            self.discriminator = Discriminator(**shared, stddev_group=config.stddev_group)
            self.averaged = Generator(**self.generator.config)
        self.averaged.load_state_dict(self.generator.state_dict())
        self.averaged.eval().requires_grad_(False)
        for network in (self.generator, self.discriminator, self.averaged):
            network.to(self.device)
        self.nimg = self.steps = 0
        self.looked_up = 0  # nimg when the schedule was last looked up
        self.p = config.augment_p
        self.signs: list[float] = []  # means of sign(D(real)) since p was last adjusted
        self.r_t = self.last_r1 = 0.0
        self.guard_g, self.guard_d = GradientGuard(), GradientGuard()
        self.now = stage(0, config)
        self._new_optimizers()
        self.grid_z = torch.randn(GRID, config.latent_size, generator=random_stream(seed, 0, "grid"))

    def _new_optimizers(self) -> None:
        def adam(network):
            noise = [p for name, p in network.named_parameters() if name.endswith("noise_strength")]
            others = [p for name, p in network.named_parameters() if not name.endswith("noise_strength")]
            groups = [{"params": others, "rate": 1.0}, {"params": noise, "rate": self.config.noise_rate}]
            groups = [group for group in groups if group["params"]]
            return torch.optim.Adam(groups, lr=0.0, betas=(self.config.beta1, self.config.beta2), fused=True)

        self.optimizer_g, self.optimizer_d = adam(self.generator), adam(self.discriminator)

    # -- one step

    def step(self) -> dict[str, float]:
        """One minibatch for D, then one for G; returns what happened."""
        if self.steps % self.config.schedule_steps == 0:
            self._follow_schedule()
        n, lod = self.now.batch, self.now.lod
        numbers = self._train_discriminator(self._reals(n), n, lod)
        self._average(n)
        numbers |= self._train_generator(n, lod)
        self.nimg += n
        self.steps += 1
        return numbers

    def _follow_schedule(self) -> None:
        before, self.now = self.now, stage(self.nimg, self.config)
        self.looked_up = self.nimg
        if (floor(before.lod), ceil(before.lod)) != (floor(self.now.lod), ceil(self.now.lod)):
            self._new_optimizers()  # a layer came or went: the moments are those of another network
        for optimizer in (self.optimizer_g, self.optimizer_d):
            for group in optimizer.param_groups:
                group["lr"] = self.now.learning_rate * group["rate"]

    def _reals(self, n: int) -> Tensor:
        """The next n real images, brought to the current size and faded as the generated ones are."""
        images = self.dataset.images(next_positions(self.nimg, n, len(self.dataset), self.seed)).to(self.device)
        images = downscale(images, 2 ** int(self.now.lod))
        fade = self.now.lod - int(self.now.lod)
        return lerp_clip(images, upscale(downscale(images)), fade) if fade > 0 else images

    def _fakes(self, n: int, lod: float, name: str) -> Tensor:
        """n generated images, with style mixing and fresh noise; moves w_avg."""
        config, generator = self.config, self.generator
        stream = random_stream(self.seed, self.nimg, name)
        z = torch.randn(2, n, config.latent_size, generator=stream)
        active = generator.num_layers - 2 * int(lod)
        mixed = torch.rand((), generator=stream).item() < config.style_mixing
        cutoff = int(torch.randint(1, active, (), generator=stream)) if mixed else generator.num_layers
        w = generator.mapping(z[0].to(self.device))
        generator.w_avg.lerp_(w.detach().mean(dim=0), 1 - config.w_avg_beta)
        w_plus = generator.broadcast(w)
        if mixed:
            other = generator.broadcast(generator.mapping(z[1].to(self.device)))
            w_plus = torch.cat([w_plus[:, :cutoff], other[:, cutoff:]], dim=1)
        noise = [
            torch.randn(n, 1, *m.shape[2:], generator=stream).to(self.device) if layer < active else m
            for layer, m in enumerate(generator.noise_maps())
        ]
        return generator.synthesis_native(w_plus, noise, lod)

    def _augmented(self, images: Tensor, name: str) -> Tensor:
        if self.config.augment == "none":
            return images
        return augment.apply(images, augment.draw(len(images), self.p, random_stream(self.seed, self.nimg, name)))

    def _train_discriminator(self, reals: Tensor, n: int, lod: float) -> dict[str, float]:
        config = self.config
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fakes = self._augmented(self._fakes(n, lod, "d"), "augment d fake")
        reals = self._augmented(reals, "augment d real")
        lazily = self.steps % config.r1_interval == 0
        reals.requires_grad_(lazily and config.r1_gamma > 0)
        real_scores = self.discriminator.forward_native(reals, lod)
        fake_scores = self.discriminator.forward_native(fakes, lod)
        loss = discriminator_loss(real_scores, fake_scores)
        numbers = {
            "loss_d": loss.item(),
            "real_score": real_scores.mean().item(),
            "fake_score": fake_scores.mean().item(),
        }
        if reals.requires_grad:
            penalty = r1_penalty(real_scores, reals)
            loss = loss + penalty * (config.r1_gamma / 2 * config.r1_interval)
            self.last_r1 = penalty.item()
        self.optimizer_d.zero_grad()
        loss.backward()
        self.guard_d.step(self.optimizer_d)
        self._adapt(real_scores.sign().mean().item(), n)
        return numbers

    def _adapt(self, sign: float, n: int, every: int = 4) -> None:
        """The overfitting heuristic r_t = mean sign(D(real)) (Karras 2020, section 3.1); in mode ada p follows it."""
        self.signs.append(sign)
        if len(self.signs) < every:
            return
        self.r_t, self.signs = sum(self.signs) / every, []
        if self.config.augment == "ada":
            step = every * n / (1000 * self.config.ada_kimg)
            self.p = min(max(self.p + (step if self.r_t > self.config.ada_target else -step), 0.0), 1.0)

    def _train_generator(self, n: int, lod: float) -> dict[str, float]:
        self.discriminator.requires_grad_(False)
        fakes = self._augmented(self._fakes(n, lod, "g"), "augment g")
        loss = generator_loss(self.discriminator.forward_native(fakes, lod))
        self.optimizer_g.zero_grad()
        loss.backward()
        self.guard_g.step(self.optimizer_g)
        return {"loss_g": loss.item()}

    @torch.no_grad()
    def _average(self, n: int) -> None:
        beta = ema_beta(self.nimg, n, self.config)
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.generator.parameters()), 1 - beta)
        self.averaged.w_avg.copy_(self.generator.w_avg)

    # -- what the loop asks for

    def row(self) -> dict:
        now = self.now
        return {
            "resolution": now.resolution,
            "alpha": now.alpha,
            "batch": now.batch,
            "learning_rate": now.learning_rate,
            "r1": self.last_r1,
            "r_t": self.r_t,
            "p": self.p,
            "skipped": self.guard_g.skipped + self.guard_d.skipped,
        }

    def state_dict(self) -> dict:
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "counters": [self.nimg, self.steps, self.looked_up, self.p, self.r_t, self.last_r1],
            "skipped": [self.guard_g.skipped, self.guard_d.skipped],
            "signs": self.signs,
        }

    def load_state_dict(self, state: dict) -> None:
        self.nimg, self.steps, self.looked_up, self.p, self.r_t, self.last_r1 = state["counters"]
        self.guard_g.skipped, self.guard_d.skipped = state["skipped"]
        self.signs = state["signs"]
        self.now = stage(self.looked_up, self.config)
        for name in ("generator", "discriminator", "averaged", "optimizer_g", "optimizer_d"):
            getattr(self, name).load_state_dict(state[name])

    def snapshot(self, run: Run) -> None:
        w_plus = self.averaged.broadcast(self.averaged.mapping(self.grid_z.to(self.device)))
        with torch.no_grad():
            images = torch.cat([self.averaged.synthesis(part, lod=self.now.lod) for part in w_plus.split(8)])
        run.save_grid(images, self.nimg)
        metadata = {**self.metadata, "seed": self.seed, "nimg": self.nimg, "lod": self.now.lod}
        export(run.path / "generator.safetensors", self.averaged, metadata)


def train_gan(
    dataset,
    run: str | Path,
    preset: str | GanConfig = "smoke",
    *,
    kimg: float,
    max_minutes: float | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
    on_snapshot: Callable[[Run, GanTrainer], None] | None = None,
    **changes,
) -> Run:
    """Train a StyleGAN on `dataset` in the folder `run`; the same call resumes where it stopped.

    Args:
        dataset: has len(), `resolution`, `channels`, and `images(positions) -> float32 [n, C, R, R]` in [-1, 1]; a `metadata`
            dict, if it has one, travels with the weights (window, digest of the store).
        run: run folder, made if needed.
        preset: name in `schedule.PRESETS` or a whole GanConfig; `changes` replace single fields of a preset.
        kimg: thousands of images to show in all.
        max_minutes: stop after so many minutes of this call.
        device: "cpu", "cuda"; default: a GPU if there is one.

    Raises BadInput for an unknown preset or field, an empty data set, a run folder of another configuration or in use.
    """
    if len(dataset) == 0:
        raise BadInput("There is no slice to train on: no patient of the store has the split train.")
    if isinstance(preset, GanConfig):
        config = preset
        if changes:
            raise BadInput(f"Give {', '.join(changes)} in the configuration itself.")
    else:
        config = gan_config(preset, dataset.resolution, dataset.channels, **changes)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    metadata = dict(getattr(dataset, "metadata", {}))
    trainer = GanTrainer(dataset, config, seed, device, metadata)
    asked = {"kind": "gan", "seed": seed, "images": len(dataset), "data": metadata, **as_plain(config)}
    return drive(
        trainer,
        Run(run),
        asked,
        kimg=kimg,
        tick_kimg=config.tick_kimg,
        snapshot_ticks=config.snapshot_ticks,
        max_minutes=max_minutes,
        progress=progress,
        on_snapshot=on_snapshot,
    )
