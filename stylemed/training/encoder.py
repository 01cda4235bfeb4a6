"""Training the encoder on the generator's own images, whose latents are known (the paper's autoencoder).

The supply of pairs is unlimited: every step draws new latents, makes their images with fresh noise, and asks for the latents back.
Beyond the paper it can also be asked for the image (by its pixels, its structure, and what the discriminator sees in it), of
generated images and of a share of real slices, whose latents nobody knows.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stylemed.errors import BadInput
from stylemed.files import digest_of_weights, load_state
from stylemed.networks import Discriminator, Encoder
from stylemed.networks.encoder import TRUNKS
from stylemed.provenance import Provenance, belong_together
from stylemed.training.distributed import own_device, refuse_team
from stylemed.training.image_loss import ReconstructionLoss
from stylemed.training.loop import GradientGuard, drive, move_average, next_positions, precision_of, random_stream
from stylemed.training.run import Run, export, load_generator, load_network, settings_of
from stylemed.training.schedule import Intervals, all_every, check_precision, config_from_preset, ema_beta

GRID = 16  # pairs in a sample grid
# Of changed images, at most; in a window of 350 HU: 10 HU, a tenth, 20 HU.
BRIGHTNESS, CONTRAST, GRAIN = 0.06, 0.1, 0.12
WITHIN = 0.99  # of the generator's own latents that a measured radius leaves as they are


@dataclass(frozen=True)
class EncoderConfig(Intervals):
    """One training of the encoder. The defaults follow the paper (latents only), but for `radius`, which preset `paper` turns off.

    radius: farthest an answer may lie from the mean w: root mean square over all components, in standard deviations; 0 for no
    limit. None measures it before training: the 99th percentile of that distance of 4096 mapped latents, drawn from the seed. So
    about 1 % of the generator's own latents are clipped (four generators: 1.2 to 1.5 % of new ones, 0.4 % of mixed ones); a
    radius of 1 clips 42 to 47 % of them.
    """

    space: str = "w+"
    trunk: str = "resnet50"  # or resnet34, resnet18
    shortcut: int = 0  # side of the image that a linear shortcut beside the ResNet reads; 0: none, as in the paper
    radius: float | None = None
    shortcut_images: int = 3000  # generated images that the shortcut is fitted to before the training
    batch: int = 32
    learning_rate: float = 1e-3
    warmup_kimg: float = 1.0  # the learning rate rises linearly over the first images
    precision: str = "float32"  # or bf16, but for the losses; on a CPU it does not repeat to the bit
    beta1: float = 0.9
    beta2: float = 0.999
    # what it sees
    style_mixing: float = 0.5  # w+ only: share of images made from two latents, so that layers can differ
    least_psi: float = 1.0  # every latent is truncated by a psi drawn from here to 1; slices lie nearer to the mean
    changes: float = 0.0  # share of images with a brightness, contrast, sharpness or noise that is not the generator's
    real_share: float = 0.0  # of a batch: slices of the data set, whose latents are not known; image losses only
    # what it is asked for
    latent_weight: float = 1.0  # mean squared latent error, in units of each component's variance
    image_weight: float = 0.0  # mean absolute error between an image and its reconstruction …
    structure_weight: float = 0.0  # … 1 - SSIM of the two …
    feature_weight: float = 0.0  # … and their distance in features of the generator's own discriminator
    offset_weight: float = 0.0  # w+ only: mean square of what the layers add to w (e4e), where one w made the image
    ema_kimg: float = 2.0  # half-life of the averaged encoder …
    ema_rampup: float | None = 0.1  # … but at most this share of the images shown so far

    def __post_init__(self):
        super().__post_init__()
        if self.space not in ("w", "w+"):
            raise BadInput(f"space must be w or w+, not {self.space}.")
        if self.trunk not in TRUNKS:
            raise BadInput(f"trunk must be one of {', '.join(TRUNKS)}, not {self.trunk}.")
        check_precision(self.precision)
        if not 0 <= self.real_share <= 1:
            raise BadInput(f"real_share must lie between 0 and 1, not be {self.real_share}.")
        if self.real_share > 0 and not self.compares_images:
            raise BadInput("real_share without an image loss: of real slices no latent is known; set image_weight too.")
        if self.radius is not None and self.radius < 0:
            raise BadInput(f"radius cannot be {self.radius}; 0 is no limit, and left out it is measured.")

    @property
    def compares_images(self) -> bool:
        return self.image_weight + self.structure_weight + self.feature_weight > 0


_SMALL = {
    # A ResNet-50 that begins at random needs more than a few minutes of CPU to read anything from an image. A linear fit does not:
    # it gives a start, and the ResNet learns what is left.
    "shortcut": 32,
    "batch": 16,
    "least_psi": 0.7,
    "changes": 0.3,
    "latent_weight": 0.25,
    "image_weight": 5.0,
    "structure_weight": 1.0,
    "feature_weight": 1.0,
    "offset_weight": 0.005,
    "ema_kimg": 1.0,
    "tick_kimg": 0.32,
    **all_every(3.2),
}
ENCODER_PRESETS: dict[str, dict] = {
    "paper": {"radius": 0.0, **all_every(50.0)},
    "smoke": {
        "shortcut": 8,
        "shortcut_images": 200,
        "batch": 8,
        "changes": 0.3,
        "image_weight": 1.0,
        "structure_weight": 0.5,
        "feature_weight": 0.5,
        "offset_weight": 0.05,
        "ema_kimg": 0.1,
        "tick_kimg": 0.032,
        **all_every(3.2),
    },
    "phantom-64": dict(_SMALL),
    "ct-64": dict(_SMALL),
    "ct-128": {"image_weight": 5.0, "tick_kimg": 2.56, **all_every(12.8)},
}


def encoder_config(preset: str | EncoderConfig, **changes) -> EncoderConfig:
    """The named preset with single fields replaced: `config_from_preset`."""
    return config_from_preset(EncoderConfig, ENCODER_PRESETS, preset, changes)


class EncoderTrainer:
    """Encoder, its optimizer, the frozen generator, and one step of training."""

    saved = ("nimg", "guard", "encoder", "averaged", "optimizer")

    def __init__(
        self,
        generator,
        discriminator,
        dataset,
        config: EncoderConfig,
        seed: int,
        device: str,
        metadata: dict,
        trunk=None,
    ):
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.dataset, self.metadata = dataset, metadata
        self.generator = generator.to(self.device).eval().requires_grad_(False)
        z = torch.randn(4096, generator.latent_size, generator=random_stream(seed, 0, "spread")).to(self.device)
        with torch.no_grad():
            w = generator.mapping(z)
        w_avg, w_std = w.mean(dim=0), w.std(dim=0).clamp_min(1e-6)
        radius = config.radius
        if radius is None:
            distance = ((w - w_avg) / w_std).square().mean(dim=1).sqrt()
            radius = distance.quantile(WITHIN).item()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_stream(seed, 0, "weights").initial_seed())
            self.encoder = Encoder(
                generator.resolution,
                generator.channels,
                generator.latent_size,
                generator.num_layers,
                config.space,
                config.trunk,
                config.shortcut,
                radius,
            )
        if trunk is not None:
            self.encoder.begin_from(trunk)
        self.encoder.to(self.device)
        self.encoder.w_avg.copy_(w_avg)
        self.encoder.w_std.copy_(w_std)
        self.averaged = Encoder(**self.encoder.config).to(self.device)
        self.averaged.load_state_dict(self.encoder.state_dict())
        self.averaged.eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            self.encoder.parameters(), lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
        )
        if discriminator is not None:
            discriminator = discriminator.to(self.device).eval().requires_grad_(False)
        self.image_loss = ReconstructionLoss(
            config.image_weight, config.structure_weight, config.feature_weight, discriminator
        )
        self.nimg = 0
        self.seconds_reading = 0.0  # it makes its own images
        self.resolution = generator.resolution
        self.guard = GradientGuard()

    def pairs(self, n: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """n generated images [n, C, R, R], the styles they were made from [n, L, latent], and which are of two latents [n]."""
        generator, stream = self.generator, random_stream(self.seed, self.nimg, name)
        if n == 0:
            side, kept = generator.resolution, dict(device=self.device)
            none = torch.zeros(0, generator.num_layers, generator.latent_size, **kept)
            return (
                torch.zeros(0, generator.channels, side, side, **kept),
                none,
                torch.zeros(0, dtype=torch.bool, **kept),
            )
        z = torch.randn(2, n, generator.latent_size, generator=stream).to(self.device)
        psi = 1 - (1 - self.config.least_psi) * torch.rand(2, n, 1, generator=stream).to(self.device)
        mixed = torch.rand(n, generator=stream) < (self.config.style_mixing if self.config.space == "w+" else 0.0)
        cutoff = torch.randint(1, generator.num_layers, (n,), generator=stream)
        cutoff = torch.where(mixed, cutoff, generator.num_layers).to(self.device)
        first = torch.arange(generator.num_layers, device=self.device)[None, :] < cutoff[:, None]  # (n, L)
        with torch.no_grad():
            w = [generator.broadcast(generator.w_avg.lerp(generator.mapping(z[i]), psi[i])) for i in (0, 1)]
            w_plus = torch.where(first[:, :, None], *w)
            noise = [torch.randn(n, 1, *m.shape[2:], generator=stream).to(self.device) for m in generator.noise_maps()]
            return generator.synthesis(w_plus, noise), w_plus, mixed.to(self.device)

    def _reals(self, n: int) -> Tensor:
        """The next n slices of the data set [n, C, R, R]; every epoch in an order of its own."""
        count = self.nimg // self.config.batch * n  # slices shown so far
        return self.dataset.images(next_positions(count, n, len(self.dataset), self.seed)).to(self.device)

    def _changed(self, images: Tensor) -> Tensor:
        """A share of images [n, C, R, R] as other scanners might give them; the encoder has to answer as if they were not."""
        n, stream = len(images), random_stream(self.seed, self.nimg, "changes")
        drawn = torch.rand(4, n, 1, 1, 1, generator=stream).to(self.device)
        grain = torch.randn(images.shape, generator=stream).to(self.device)
        chosen = (torch.rand(n, 1, 1, 1, generator=stream) < self.config.changes).to(self.device)
        softer = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        changed = torch.lerp(softer, images, 0.6 + 0.8 * drawn[0])  # blurred or sharpened
        changed = (
            changed * (1 + CONTRAST * (2 * drawn[1] - 1)) + BRIGHTNESS * (2 * drawn[2] - 1) + GRAIN * drawn[3] * grain
        )
        return torch.where(chosen, changed.clamp(-1, 1), images)

    def step(self) -> dict[str, float]:
        """One minibatch of fresh pairs; returns the errors, latent in standard deviations of w, image in units of [-1, 1]."""
        config, encoder = self.config, self.encoder
        if self.nimg == 0 and config.shortcut:
            self._fit_shortcut()
        n_real = round(config.real_share * config.batch)
        wanted, w_plus, mixed = self.pairs(config.batch - n_real, "pairs")
        seen = self._changed(wanted)
        if n_real:
            real = self._reals(n_real)
            wanted, seen = torch.cat([wanted, real]), torch.cat([seen, real])
        encoder.train()
        with precision_of(config, self.device):
            w, offsets = encoder.answers(seen)
        w, offsets = w.float(), None if offsets is None else offsets.float()
        alone, found = encoder.styles(w, None), encoder.styles(w, offsets)

        # Latents: w+ of every generated image, w where one w made it.
        made = len(w_plus)
        squared = ((found[:made] - w_plus) / encoder.w_std).square()
        latent = squared.mean() if made else squared.sum()
        numbers = {"w_error": latent.sqrt().item()}
        loss = config.latent_weight * latent
        if offsets is not None:
            pure = ~mixed
            from_w = ((alone[:made] - w_plus) / encoder.w_std).square().mean(dim=(1, 2))[pure].sum() / max(made, 1)
            loss = loss + config.latent_weight * from_w
            one_w = torch.cat([pure, pure.new_ones(n_real)])  # nothing says that a slice needs more than one
            loss = loss + config.offset_weight * offsets.square().mean(dim=(1, 2))[one_w].sum() / len(seen)

        # Images: every other one by its w alone, so that both answers learn what becomes visible.
        if config.compares_images:
            odd = torch.arange(len(seen), device=self.device) % 2 == 1
            with precision_of(config, self.device):
                again = self.generator.synthesis(torch.where(odd[:, None, None], alone, found)).float()
                loss = loss + self.image_loss(again, wanted).mean()
            with torch.no_grad():
                error = (again - wanted).abs().mean(dim=(1, 2, 3))
                numbers["image_error"] = error[:made].mean().item() if made else 0.0
                if n_real:
                    numbers["real_image_error"] = error[made:].mean().item()
        self.optimizer.param_groups[0]["lr"] = config.learning_rate * min(
            1.0, (self.nimg + config.batch) / (1000 * config.warmup_kimg)
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.guard.step(self.optimizer)
        self.nimg += config.batch
        self._average(config.batch)
        return {"loss": loss.item(), **numbers}

    @torch.no_grad()
    def _fit_shortcut(self) -> None:
        """Ridge regression from small images to styles; its strength is chosen on a fifth of the pairs."""
        encoder, rows, targets = self.encoder, [], []
        for part in range(0, self.config.shortcut_images, 100):
            images, w_plus, mixed = self.pairs(100, f"shortcut {part}")
            rows.append(encoder.small(images[~mixed]))
            w_plus = w_plus[~mixed, :1]
            targets.append(((w_plus - encoder.w_avg) / encoder.w_std).flatten(1))
        x, y = torch.cat(rows), torch.cat(targets)
        mean = x.mean(dim=0)
        x = x - mean
        kept = len(x) * 4 // 5
        values, vectors = torch.linalg.eigh(x[:kept].T @ x[:kept])
        projected = vectors.T @ (x[:kept].T @ y[:kept])
        best = None
        for strength in (0.1, 1.0, 10.0, 100.0):
            weight = vectors @ (projected / (values.clamp_min(0) + strength)[:, None])  # (inputs, outputs)
            error = (x[kept:] @ weight - y[kept:]).square().mean().item()
            if best is None or error < best[0]:
                best = error, weight
        encoder.linear.weight.copy_(best[1].T)
        encoder.linear.bias.copy_(-(mean @ best[1]))
        self.averaged.load_state_dict(encoder.state_dict())

    @torch.no_grad()
    def _average(self, n: int) -> None:
        move_average(self.averaged, self.encoder, ema_beta(self.nimg, n, self.config))
        for ours, theirs in zip(self.averaged.buffers(), self.encoder.buffers(), strict=True):
            ours.copy_(theirs)

    def row(self) -> dict:
        row = {"resolution": self.resolution, "batch": self.config.batch, "skipped": self.guard.skipped}
        if self.dataset is not None:
            real, again = self.reconstructions(64)
            row["real_error"] = F.l1_loss(again, real).item()
        return row

    @torch.no_grad()
    def reconstructions(self, n: int) -> tuple[Tensor, Tensor]:
        """Real images and what encoder and generator make of them, [n, C, R, R] each."""
        positions = next_positions(0, min(n, len(self.dataset)), len(self.dataset), self.seed)
        real = self.dataset.images(positions).to(self.device)
        return real, torch.cat([self.generator.synthesis(self.averaged(part)) for part in real.split(16)])

    def grid(self, run: Run) -> None:
        """Write images and, below each row, what encoder and generator make of them."""
        if self.dataset is not None:
            real, again = self.reconstructions(GRID)
        else:
            real = self.pairs(GRID, "grid")[0]
            with torch.no_grad():
                again = self.generator.synthesis(self.averaged(real))
        rows = [part for pair in zip(real.split(8), again.split(8), strict=True) for part in pair]
        run.save_grid(torch.cat(rows), self.nimg)

    def export(self, run: Run) -> None:
        """Write the averaged encoder."""
        export(run.path / "encoder.safetensors", self.averaged, {**self.metadata, "seed": self.seed, "nimg": self.nimg})


def train_encoder(
    generator: str | Path,
    run: str | Path,
    preset: str | EncoderConfig = "smoke",
    *,
    dataset=None,
    kimg: float,
    max_minutes: float | None = None,
    seed: int = 0,
    device: str | None = None,
    weights: str | Path | None = None,
    progress: bool = True,
    on_snapshot: Callable[[Run, EncoderTrainer], None] | None = None,
    **changes,
) -> Run:
    """Train an encoder for a generator in the folder `run`; the same call resumes where it stopped.

    Args:
        generator: run folder or .safetensors file of the generator; it is not changed.
        preset: name in `ENCODER_PRESETS` or a whole EncoderConfig; `changes` replace single fields of a preset.
        dataset: real slices to watch reconstructions on (see `train_gan`), and to learn from only where `real_share` says so. None:
            generated images are shown.
        kimg: thousands of generated images to show in all.
        max_minutes: stop after so many minutes of this call.
        weights: of the trunk to start from, read when the run folder is new: a file with torchvision's state dict, or "imagenet",
            which downloads it and begins at random, saying so, where that fails. None starts at random. What it was stands in
            the encoder's metadata.

    Raises BadInput for an unknown preset or field, an unreadable generator, a data set of another size, window or frame, a run
    folder of another configuration (also: of other weights of the generator) or in use.
    """
    refuse_team("The encoder")
    config = encoder_config(preset, **changes)
    network, made = load_generator(generator)
    if dataset is not None and (dataset.resolution, dataset.channels) != (network.resolution, network.channels):
        raise BadInput(
            f"The generator makes {network.resolution}² images of {network.channels} channel(s), the store holds "
            f"{dataset.resolution}² of {dataset.channels}; prepare a store with --resolution {network.resolution}."
        )
    of_slices = Provenance.from_dict(getattr(dataset, "metadata", {}).get("provenance"))
    if dataset is not None:
        belong_together(
            network.provenance,
            of_slices,
            names=("the generator", "the store"),
            same_store=False,
            cure="prepare the store as that of the generator was",
        )
    device = own_device(device)
    # It learns from what the generator makes, so from the generator's patients.
    if config.real_share > 0 and dataset is None:
        raise BadInput("real_share needs slices to learn from; name their store (--store).")
    made_from = {"generator": digest_of_weights(network.state_dict())}
    discriminator = None
    if config.feature_weight > 0:
        folder = Path(generator) if Path(generator).is_dir() else Path(generator).parent
        discriminator, _ = load_network(folder, "discriminator", Discriminator)
        made_from["discriminator"] = digest_of_weights(discriminator.state_dict())
    provenance = replace(network.provenance, kind="encoder", made_from=made_from)
    if config.real_share > 0:  # usually those of the generator
        provenance = provenance.with_patients(of_slices.patients)
    provenance = provenance.to_dict()
    goes_on = bool(Run(run).checkpoints())
    trunk, began = (None, Run(run).config.get("began", "random")) if goes_on else trained_trunk(config.trunk, weights)
    metadata = {**made, "generator_nimg": made.get("nimg"), "began": began, "provenance": provenance}
    trainer = EncoderTrainer(network, discriminator, dataset, config, seed, device, metadata, trunk)
    # Its weights are told by their digest: two trainings can agree in all settings and yet not in what came out.
    of_generator = {**settings_of(made), "digest": made_from["generator"]}
    if discriminator is not None:
        of_generator["discriminator"] = made_from["discriminator"]
    asked = {"kind": "encoder", "seed": seed, "generator": of_generator, "began": began, **asdict(config)}
    asked["data"] = None if dataset is None else settings_of(getattr(dataset, "metadata", {}))
    return drive(
        trainer,
        Run(run),
        asked,
        kimg=kimg,
        max_minutes=max_minutes,
        progress=progress,
        on_snapshot=on_snapshot,
    )


def trained_trunk(name: str, weights: str | Path | None, url: str | None = None) -> tuple[torch.nn.Module | None, str]:
    """torchvision's network `name` with these weights, and what to call them; (None, "random") for None.

    weights: a file, or "imagenet": downloaded (from `url`, if given) into torch's cache; where that fails, random, said aloud.
    """
    from torchvision import models

    if weights is None:
        return None, "random"
    network = models.get_model(name, weights=None)
    if str(weights) != "imagenet":
        load_state(network, weights, name)
        return network, Path(weights).name
    try:
        url = url or models.get_model_weights(name).DEFAULT.url
        network.load_state_dict(torch.hub.load_state_dict_from_url(url, map_location="cpu", progress=False))
    except (OSError, RuntimeError) as error:  # no network, no room, or something else at that address
        print(f"The ImageNet weights of {name} cannot be had ({type(error).__name__}); its trunk begins at random.")
        return None, "random"
    return network, "imagenet"
