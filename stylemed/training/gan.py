"""Training a StyleGAN: non-saturating loss, R1, style mixing, averaged generator, growing (Karras 2018, 2019).

Beyond them, and off in preset `paper`: the relativistic loss with R1 and R2 (Huang 2024, R3GAN, arXiv 2501.05441), discriminator
augmentation, slices with tumors shown more often, weights of another run to begin from.

The step reads from `GanTrainer.step` downwards; everything that depends on time comes from `schedule`.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from math import ceil, floor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.errors import BadInput
from stylemed.networks import Discriminator, Generator
from stylemed.networks.layers import downscale, lerp_clip, upscale
from stylemed.networks.widening import widened
from stylemed.provenance import Provenance, belong_together
from stylemed.training import augment
from stylemed.training.distributed import Team, join_team, own_device
from stylemed.training.loop import GradientGuard, drive, move_average, next_positions, precision_of, random_stream
from stylemed.training.run import Run, export, load_network, settings_of
from stylemed.training.schedule import GanConfig, Stage, as_plain, ema_beta, gan_config, growth_table, stage

GRID = 32  # images in a sample grid


def generator_loss(fake_scores: Tensor) -> Tensor:
    """Non-saturating loss: mean of -log(sigmoid(D(G(z)))) (Goodfellow 2014)."""
    return F.softplus(-fake_scores).mean()


def discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Mean of -log(sigmoid(D(x))) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def relativistic_loss(worse: Tensor, better: Tensor) -> Tensor:
    """Mean of -log(sigmoid(better - worse)) over pairs (Jolicoeur-Martineau 2018; Huang 2024, equation 2).

    The discriminator wants the real image of each pair scored better, the generator the generated one.
    """
    return F.softplus(worse - better).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Mean over the batch of the squared norm of the score's gradient at the images: R1 at real ones (Mescheder 2018), R2 at
    generated ones."""
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


class GanTrainer:
    """Generator, discriminator, their optimizers, and one step of training."""

    saved = ("nimg", "steps", "looked_up", "p", "signs", "r_t", "last_r1", "last_r2", "guard_g", "guard_d")
    saved += ("generator", "discriminator", "averaged", "optimizer_g", "optimizer_d")

    def __init__(
        self,
        dataset,
        config: GanConfig,
        seed: int,
        device: str = "cpu",
        metadata: dict | None = None,
        team: Team | None = None,
    ):
        self.dataset, self.config, self.seed, self.device = dataset, config, seed, torch.device(device)
        self.metadata = metadata or {}
        self.team = team or Team()
        shared = {k: getattr(config, k) for k in ("resolution", "channels", "fmap_base", "fmap_max")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_stream(seed, 0, "weights").initial_seed())
            own = {k: getattr(config, k) for k in ("latent_size", "mapping_layers", "mapping_normalized")}
            self.generator = Generator(**shared, **own)
            self.discriminator = Discriminator(**shared, stddev_group=config.stddev_group)
            self.averaged = Generator(**self.generator.config)
        self.averaged.load_state_dict(self.generator.state_dict())
        self.averaged.eval().requires_grad_(False)
        for network in (self.generator, self.discriminator, self.averaged):
            network.to(self.device)
        if config.compile:
            _compile([*self.generator.blocks, *self.discriminator.blocks])
        self.order = shown_order(dataset, config.tumor_share, seed)
        self.seconds_reading = 0.0  # spent in the data set
        self.nimg = self.steps = 0
        self.looked_up = 0  # nimg when the schedule was last looked up
        self.p = config.augment_p
        self.signs: list[float] = []  # means of sign(D(real)) since p was last adjusted
        self.r_t = self.last_r1 = self.last_r2 = 0.0
        self.guard_g, self.guard_d = GradientGuard(), GradientGuard()
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

    # -- one step, from top to bottom

    def step(self) -> dict[str, float]:
        """One minibatch for D, the average, one minibatch for G; returns what happened. Its parts follow in this order."""
        if self.steps % self.config.schedule_steps == 0:
            self._follow_schedule()
        n, lod = self.now.batch, self.now.lod
        reals = self._reals(n)
        numbers = self._train_discriminator(reals, n, lod)
        self._move_average(n)
        numbers |= self._train_generator(reals, n, lod)
        self.nimg += n
        self.steps += 1
        return numbers

    def _follow_schedule(self) -> None:
        """Level of detail and learning rate of this moment (Karras 2018, appendix A)."""
        before, self.looked_up = self.now, self.nimg
        if (floor(before.lod), ceil(before.lod)) != (floor(self.now.lod), ceil(self.now.lod)):
            self._new_optimizers()  # a layer came or went: the moments are those of another network
        for optimizer in (self.optimizer_g, self.optimizer_d):
            for group in optimizer.param_groups:
                group["lr"] = self.now.learning_rate * group["rate"]

    def _reals(self, n: int) -> Tensor:
        """The next n real images, brought to the current size and faded as the generated ones are."""
        started = time.perf_counter()
        positions = self.order[next_positions(self.nimg, n, len(self.order), self.seed)].tolist()
        images = self.dataset.images(self.team.share(positions)).to(self.device)
        self.seconds_reading += time.perf_counter() - started
        images = downscale(images, 2 ** int(self.now.lod))
        fade = self.now.lod - int(self.now.lod)
        return lerp_clip(images, upscale(downscale(images)), fade) if fade > 0 else images

    def _train_discriminator(self, reals: Tensor, n: int, lod: float) -> dict[str, float]:
        """One step of D: real against generated images, with R1 (and R2) at every `r1_interval`th step."""
        config = self.config
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fakes = self._augmented(self._fakes(n, lod, "d"), n, "augment d fake")
        reals = self._augmented(reals, n, "augment d real")
        penalised = config.r1_gamma > 0 and self.steps % config.r1_interval == 0
        reals.requires_grad_(penalised)
        fakes.requires_grad_(penalised and config.r2_gamma > 0)
        # Compiled code has no second derivative, so the steps that need one run without.
        with torch.compiler.set_stance("force_eager") if penalised and config.compile else nullcontext():
            real_scores = self._scores(reals, lod)
            fake_scores = self._scores(fakes, lod)
            if config.loss == "relativistic":
                loss = relativistic_loss(worse=fake_scores, better=real_scores)
            else:
                loss = discriminator_loss(real_scores, fake_scores)
            told = [loss.detach(), real_scores.mean().detach(), fake_scores.mean().detach()]
            told.append(
                (real_scores - fake_scores if config.loss == "relativistic" else real_scores).detach().sign().mean()
            )
            for images, scores, gamma in ((reals, real_scores, config.r1_gamma), (fakes, fake_scores, config.r2_gamma)):
                if images.requires_grad:
                    penalty = gradient_penalty(scores, images)
                    loss = loss + penalty * (gamma / 2 * config.r1_interval)
                    told.append(penalty.detach())
            self._descend(loss, self.discriminator, self.optimizer_d, self.guard_d)
        loss_d, real_score, fake_score, sign, *penalties = self._told(told)
        if penalties:
            self.last_r1, self.last_r2 = (*penalties, 0.0)[:2]
        self._adapt(sign, n)
        return {"loss_d": loss_d, "real_score": real_score, "fake_score": fake_score}

    def _fakes(self, n: int, lod: float, name: str) -> Tensor:
        """This process's share of n generated images, with style mixing and fresh noise; moves w_avg."""
        config, generator, team = self.config, self.generator, self.team
        stream = random_stream(self.seed, self.nimg, name)
        z = team.share(torch.randn(2, n, config.latent_size, generator=stream), dim=1).to(self.device)
        active = generator.num_layers - 2 * int(lod)  # layers of the resolutions that are there already
        mixed = torch.rand((), generator=stream).item() < config.style_mixing
        cutoff = int(torch.randint(1, active, (), generator=stream)) if mixed else generator.num_layers
        w = generator.mapping(z[0])  # [n, latent]
        mean = w.detach().mean(dim=0)  # towards the center of W, which truncation pulls to
        team.average([mean])
        generator.w_avg.lerp_(mean, 1 - config.w_avg_beta)
        w_plus = generator.broadcast(w)  # [n, L, latent]
        # Style mixing (Karras 2019, section 3.1): from a random layer on, the styles are those of another latent.
        if mixed:
            other = generator.broadcast(generator.mapping(z[1]))
            w_plus = torch.cat([w_plus[:, :cutoff], other[:, cutoff:]], dim=1)
        noise = [
            team.share(torch.randn(n, 1, *m.shape[2:], generator=stream)).to(self.device) if layer < active else m
            for layer, m in enumerate(generator.noise_maps())
        ]
        with precision_of(self.config, self.device):
            return _whole(generator.synthesis_native(w_plus, noise, lod))

    def _augmented(self, images: Tensor, n: int, name: str) -> Tensor:
        """What D sees: images, each changed with probability p (Karras 2020); the stream `name` keeps real and generated apart."""
        if self.config.augment == "none":
            return images
        stream = random_stream(self.seed, self.nimg, name)
        drawn = augment.draw((n, *images.shape[1:]), self.p, stream)
        return augment.apply(images, {key: self.team.share(value) for key, value in drawn.items()})

    def _scores(self, images: Tensor, lod: float) -> Tensor:
        """D's scores [B, 1] of images at the size that lod leaves."""
        with precision_of(self.config, self.device):
            return _whole(self.discriminator.forward_native(images, lod))

    def _descend(self, loss: Tensor, network, optimizer, guard: GradientGuard) -> None:
        """One step of `optimizer` down the gradient of the whole batch's loss."""
        optimizer.zero_grad()
        loss.backward()
        self.team.average([p.grad for p in network.parameters() if p.grad is not None])
        guard.step(optimizer)

    def _told(self, numbers: list[Tensor]) -> list[float]:
        """Means over the whole batch as plain numbers, in one transfer from the device."""
        together = torch.stack(numbers)
        self.team.average([together])
        return together.tolist()

    def _adapt(self, sign: float, n: int, every: int = 4) -> None:
        """The overfitting heuristic r_t = mean sign(D(real)) (Karras 2020, section 3.1); in mode ada p follows it.

        Relativistic scores have no zero of their own: there it is mean sign(D(real) - D(fake)) over the pairs.
        """
        self.signs.append(sign)
        if len(self.signs) < every:
            return
        self.r_t, self.signs = sum(self.signs) / every, []
        if self.config.augment == "ada":
            step = every * n / (1000 * self.config.ada_kimg)
            self.p = min(
                max(self.p + (step if self.r_t > self.config.ada_target else -step), 0.0), self.config.ada_most
            )

    @torch.no_grad()
    def _move_average(self, n: int) -> None:
        """The averaged generator, which is what is shown and exported (Karras 2018, appendix A.1)."""
        move_average(self.averaged, self.generator, ema_beta(self.nimg, n, self.config))
        self.averaged.w_avg.copy_(self.generator.w_avg)

    def _train_generator(self, reals: Tensor, n: int, lod: float) -> dict[str, float]:
        """One step of G, on new latents and noise."""
        # Compiled code does not notice that its parameters stopped asking for gradients; these are thrown away instead.
        self.discriminator.requires_grad_(self.config.compile)
        fakes = self._augmented(self._fakes(n, lod, "g"), n, "augment g")
        scores = self._scores(fakes, lod)
        if self.config.loss == "relativistic":
            with torch.no_grad():
                real_scores = self._scores(self._augmented(reals, n, "augment g real"), lod)
            loss = relativistic_loss(worse=real_scores, better=scores)
        else:
            loss = generator_loss(scores)
        self._descend(loss, self.generator, self.optimizer_g, self.guard_g)
        return {"loss_g": self._told([loss.detach()])[0]}

    # -- what the loop asks for

    @property
    def now(self) -> Stage:
        """The stage that the schedule had when it was last looked up."""
        return stage(self.looked_up, self.config)

    @property
    def resolution(self) -> int:
        return self.now.resolution

    def row(self) -> dict:
        now = self.now
        return {
            "resolution": now.resolution,
            "alpha": now.alpha,
            "batch": now.batch,
            "learning_rate": now.learning_rate,
            "r1": self.last_r1,
            "r2": self.last_r2,
            "r_t": self.r_t,
            "p": self.p,
            "skipped": self.guard_g.skipped + self.guard_d.skipped,
        }

    def grid(self, run: Run) -> None:
        """Write a sample grid of the averaged generator, of the same latents each time."""
        w_plus = self.averaged.broadcast(self.averaged.mapping(self.grid_z.to(self.device)))
        with torch.no_grad():
            images = torch.cat([self.averaged.synthesis(part, lod=self.now.lod) for part in w_plus.split(8)])
        run.save_grid(images, self.nimg)

    def export(self, run: Run) -> None:
        """Write the averaged generator, and the discriminator for `begin_from`."""
        metadata = {**self.metadata, "seed": self.seed, "nimg": self.nimg, "lod": self.now.lod}
        export(run.path / "generator.safetensors", self.averaged, metadata)
        export(run.path / "discriminator.safetensors", self.discriminator, metadata)

    def begin_from(self, path: str | Path) -> dict[str, list[str]]:
        """Take the averaged generator and the discriminator of another run, and no moments: optimizers and nimg begin anew.

        `path`: a run folder, or any folder with its generator.safetensors and discriminator.safetensors. The networks may be
        of a smaller resolution, or have fewer feature maps: what they lack begins at random (see `networks.widening`). BadInput for
        anything else. Returns the patients that they have learned from.
        """
        patients = {}
        for noun, networks in (
            ("generator", (self.generator, self.averaged)),
            ("discriminator", (self.discriminator,)),
        ):
            file = Path(path) / f"{noun}.safetensors"
            found, _ = load_network(file, noun, type(networks[0]))
            belong_together(
                replace(found.provenance, resolution=None),  # a smaller one may grow on
                Provenance.from_dict(self.metadata.get("provenance")),
                names=(str(file), "the store"),
                same_store=False,
                cure="begin from a run on slices of the same window and frame, or anew",
            )
            for network in networks:
                try:
                    if found.resolution > network.resolution:
                        raise ValueError("its images are larger")
                    network.load_state_dict(widened(network, found.state_dict()))
                except ValueError as error:
                    raise BadInput(
                        f"{file} is a {noun} of {found.config} and cannot be the start of one of {network.config} ({error}); "
                        "give both the same latent size and mapping layers, and neither fewer maps nor a smaller resolution."
                    ) from None
            patients |= found.provenance.patients
        return patients

    def knows(self, patients: dict[str, list[str]]) -> None:
        """That these patients are behind its weights, too."""
        its = Provenance.from_dict(self.metadata.get("provenance"))
        self.metadata["provenance"] = its.with_patients(patients).to_dict()


def shown_order(dataset, tumor_share: float | None, seed: int) -> np.ndarray:
    """Positions of one epoch: every slice once, and, where a share is asked for, slices with tumors again until they make it up.

    `dataset.tumors`: bool [N], known to hold a tumor. Nothing is left out: a share below what there is is refused.
    """
    everything = np.arange(len(dataset))
    if tumor_share is None:
        return everything
    tumors = getattr(dataset, "tumors", None)
    if tumors is None or not 0 < np.sum(tumors) < len(tumors):
        raise BadInput("tumor_share needs slices known to hold a tumor and others; leave it out for these data.")
    ill, others = np.flatnonzero(tumors), np.flatnonzero(~np.asarray(tumors))
    wanted = round(len(others) * tumor_share / (1 - tumor_share))
    if wanted < len(ill):
        raise BadInput(
            f"tumor_share {tumor_share:g} is less than the {len(ill) / len(tumors):.2f} that these slices have; "
            "ask for more or leave it out."
        )
    rng = np.random.default_rng([seed, 0x74])
    extra = [rng.permutation(ill) for _ in range(-(-(wanted - len(ill)) // len(ill)))]
    return np.concatenate([everything, np.concatenate([ill[:0], *extra])[: wanted - len(ill)]])


def _whole(x: Tensor) -> Tensor:
    """bfloat16 back to float32; anything else as it is."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _compile(blocks) -> None:
    """Compile every block in place; the modules, their parameters and their names stay what they were."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)  # all blocks share one code
    for block in blocks:
        block.compile(dynamic=False)


def config_for(dataset, preset: str | GanConfig, changes: dict) -> GanConfig:
    """The configuration that `train_gan` trains with; BadInput as there, before anything is read."""
    if len(dataset) == 0:
        raise BadInput("There is no slice to train on: no patient of the store has the split train.")
    if given := sorted({"resolution", "channels"} & set(changes)):
        raise BadInput(f"{given[0]} is that of the data and cannot be set; prepare a store of another size for it.")
    return gan_config(preset, dataset.resolution, dataset.channels, **changes)


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
    warm_start: str | Path | None = None,
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
        on_snapshot: called with the run and the trainer every `measure_kimg`, after grid and export and before the checkpoint: a
            kill in between repeats it.
        warm_start: folder of another run whose weights this one begins from (see `GanTrainer.begin_from`); read once, when the
            run folder is new.

    Started by torchrun, its processes train as one: batches are those of the whole, and only the first one writes.

    Raises BadInput for an unknown preset or field, an empty data set, a run folder of another configuration or in use.
    """
    config = config_for(dataset, preset, changes)
    device = own_device(device)
    team = join_team(torch.device(device))
    for row in growth_table(config, kimg):
        team.check_batch(row["batch"], config.stddev_group, row["resolution"])
    metadata = dict(getattr(dataset, "metadata", {}))
    trainer = GanTrainer(dataset, config, seed, device, metadata, team)
    asked = {"kind": "gan", "seed": seed, "images": len(dataset), "data": settings_of(metadata), **as_plain(config)}
    if config.tumor_share is not None and hasattr(dataset, "store"):
        rows = dataset.rows
        learned = dataset.store.learned_from(rows, metadata["split"], rows[trainer.order])
        trainer.metadata["provenance"] = replace(learned, resolution=dataset.resolution).to_dict()
    if warm_start is not None:
        # The folder may lie elsewhere, or be gone, when the run goes on; whom its weights know is kept.
        if Run(run).checkpoints():
            before = Run(run).config.get("warm_start")
            patients = before["patients"] if isinstance(before, dict) else {}
        else:
            patients = trainer.begin_from(warm_start)
        asked["warm_start"] = {"run": Path(warm_start).name, "patients": patients}
        trainer.knows(patients)
    return drive(
        trainer,
        Run(run),
        asked,
        kimg=kimg,
        max_minutes=max_minutes,
        progress=progress,
        on_snapshot=on_snapshot,
        team=team,
    )
