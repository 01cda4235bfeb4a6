"""What a training is made of, and how it grows: everything here is a pure function of the images shown so far (nimg)."""

from dataclasses import asdict, dataclass, field, fields, replace
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from stylemed.errors import BadInput

# Karras 2018/2019, one GPU: images in a batch, and learning rate of both networks, at each resolution.
PAPER_BATCH = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 16, 256: 8, 512: 4}
PAPER_RATE = {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}


@dataclass(frozen=True)
class Intervals:
    """How often a training tells and saves something, in thousands of images; all of it once more at the end of each call."""

    tick_kimg: float = 10.0  # a line of the log
    grid_kimg: float = 100.0  # a sample grid
    export_kimg: float = 100.0  # the weights, for others to use
    measure_kimg: float = 100.0  # a call of `on_snapshot`: distances, or a picture in a notebook
    checkpoint_kimg: float = 100.0  # what the same training goes on from

    def __post_init__(self):
        for each in fields(Intervals):
            if getattr(self, each.name) <= 0:
                raise BadInput(f"{each.name} must be more than 0, not {getattr(self, each.name):g}.")


def all_every(kimg: float) -> dict[str, float]:
    """Everything but the log at the same interval, as fields of `Intervals`."""
    return dict.fromkeys(("grid_kimg", "export_kimg", "measure_kimg", "checkpoint_kimg"), kimg)


def check_precision(precision: str) -> None:
    """BadInput for a precision that `loop.precision_of` does not know."""
    if precision not in ("float32", "bf16"):
        raise BadInput(f"precision must be float32 or bf16, not {precision}.")


@dataclass(frozen=True)
class GanConfig(Intervals):
    """One training of generator and discriminator. The defaults are the paper's; presets name what they change.

    `resolution` and `channels` come from the data. kimg (how long) and the seed are not part of it.
    """

    resolution: int = 512
    channels: int = 1
    # networks
    latent_size: int = 512
    mapping_layers: int = 8
    mapping_normalized: bool = False  # centre and scale w by what the untrained mapping network makes of 10,000 z
    fmap_base: int = 8192
    fmap_max: int = 512
    stddev_group: int = 4
    # progressive growing
    start_resolution: int = 8  # side at which training begins; the full resolution turns growing off
    stable_kimg: float = 600  # thousands of images at one resolution …
    stable_kimg_at: dict[int, float] = field(default_factory=dict)  # … but so many at these …
    fade_kimg: float = 600  # … and while the next one fades in
    schedule_steps: int = 4  # the schedule is looked up every so many minibatches
    batch: dict[int, int] = field(default_factory=lambda: dict(PAPER_BATCH))
    batch_default: int = 4  # at resolutions that `batch` does not name
    # optimisation
    learning_rate: dict[int, float] = field(default_factory=lambda: dict(PAPER_RATE))
    learning_rate_default: float = 0.001
    noise_rate: float = 1.0  # learning rate of the noise strengths, as a multiple
    beta1: float = 0.0
    beta2: float = 0.99
    loss: str = "non-saturating"  # or relativistic: every generated image against a real one (Huang 2024, R3GAN)
    r1_gamma: float = 10.0
    r2_gamma: float = 0.0  # the same penalty at generated images
    r1_interval: int = 1  # 1: at every step, as in the paper; more: lazily, with the penalties scaled up (StyleGAN2)
    tumor_share: float | None = None  # show slices with tumors so often; None: as often as there are
    style_mixing: float = 0.9  # probability that a batch mixes the styles of two latents
    w_avg_beta: float = 0.995
    ema_kimg: float = 10.0  # half-life of the averaged generator …
    ema_rampup: float | None = None  # … but at most this share of the images shown so far
    precision: str = "float32"  # or bf16: convolutions in bfloat16, weights and optimizer in float32
    compile: bool = False  # torch.compile for the passes that need no second derivative
    # discriminator augmentation
    augment: str = "none"  # none, fixed (probability augment_p) or ada (p follows the overfitting heuristic)
    augment_p: float = 0.0
    ada_target: float = 0.6
    ada_kimg: float = 500.0  # thousands of images in which p can go from 0 to 1 …
    ada_most: float = 0.8  # … but not beyond: above it changes leak into generated images (Karras 2020, section 2.2)

    def __post_init__(self):
        super().__post_init__()
        if self.augment not in ("none", "fixed", "ada"):
            raise BadInput(f"augment must be none, fixed or ada, not {self.augment}.")
        check_precision(self.precision)
        if self.loss not in ("non-saturating", "relativistic"):
            raise BadInput(f"loss must be non-saturating or relativistic, not {self.loss}.")
        if self.tumor_share is not None and not 0 < self.tumor_share < 1:
            raise BadInput(
                f"tumor_share must lie between 0 and 1, not be {self.tumor_share}; leave it out for all slices alike."
            )
        if self.r2_gamma > 0 and self.r1_gamma <= 0:
            raise BadInput(
                "r2_gamma without r1_gamma: the penalty at generated images goes with that at real ones; set both."
            )


PRESETS: dict[str, dict] = {
    # Karras 2019 as it stands: nothing is changed.
    "paper": {},
    # Seconds: for tests and for looking at the machinery.
    "smoke": {
        "latent_size": 64,
        "mapping_layers": 4,
        "fmap_base": 256,
        "fmap_max": 32,
        "start_resolution": 16,
        "stable_kimg": 0.16,
        "fade_kimg": 0.16,
        "batch": {},
        "batch_default": 8,
        "learning_rate": {},
        "learning_rate_default": 0.0015,
        "r1_gamma": 1.0,
        "r1_interval": 4,
        "ema_kimg": 0.5,
        "ema_rampup": 0.1,
        "augment": "fixed",
        "augment_p": 0.5,
        "tick_kimg": 0.08,
        **all_every(0.16),
    },
}
_SMALL = {
    # What two CPU cores can carry, and what keeps variety with few patients; chosen by benchmarks/objective.py. Pairing real and
    # generated images with R1 and R2 halves the distance at equal time; normalized w let images differ before eight layers at a
    # hundredth of the rate have moved; small batches make more steps of the same images. 32² costs little less than 64², but the
    # anatomy is found there in fewer images; starting lower gained nothing. Slow noise strengths keep the generator from drawing
    # texture with noise before it has shapes.
    "latent_size": 256,
    "mapping_normalized": True,
    "fmap_base": 1024,
    "fmap_max": 64,
    "start_resolution": 32,
    "stable_kimg": 10.0,
    "fade_kimg": 5.0,
    "batch": {},
    "batch_default": 8,
    "learning_rate": {},
    "learning_rate_default": 0.003,
    "noise_rate": 0.05,
    "loss": "relativistic",
    "r1_gamma": 0.3,
    "r2_gamma": 0.3,
    "r1_interval": 8,
    "ema_kimg": 5.0,
    "ema_rampup": 0.1,
    "augment": "ada",
    "augment_p": 0.5,
    "ada_kimg": 50.0,
    "tick_kimg": 0.5,
    **all_every(5.0),
}
# Thousands of slices need little augmentation, hundreds more. In pairs the real image wins nearly always, r_t stays above its
# target whatever p is, and at p = 0.8 the changes showed in generated images and variety fell (benchmarks/RESULTS.md).
PRESETS["phantom-64"] = {**_SMALL, "augment": "fixed", "augment_p": 0.3}
# For minutes at 32² (chapter 3): half the widths, so three times as many images in the same time, at twice the rate.
PRESETS["phantom-32"] = {**PRESETS["phantom-64"], "fmap_base": 512, "fmap_max": 32, "learning_rate_default": 0.006}
PRESETS["ct-64"] = {**_SMALL, "augment": "fixed", "augment_p": 0.5}
PRESETS["ct-128"] = {
    **_SMALL,
    "fmap_base": 2048,
    "fmap_max": 128,
    "batch_default": 16,
    "start_resolution": 16,
    "stable_kimg": 40.0,
    "fade_kimg": 40.0,
    "tick_kimg": 2.0,
    **all_every(20.0),
}


def gan_config(preset: str | GanConfig, resolution: int, channels: int = 1, **changes) -> GanConfig:
    """The named preset for data of this resolution and number of channels: `config_from_preset`."""
    config = config_from_preset(GanConfig, PRESETS, preset, changes, resolution=resolution, channels=channels)
    return replace(config, start_resolution=min(config.start_resolution, resolution))


def config_from_preset(kind: type, presets: dict[str, dict], preset, changes: dict, **given):
    """A configuration `kind` (dataclass) of the named preset with `changes`, and what is `given` by the data or networks.

    preset: a name, or a whole configuration, which is taken as it is. BadInput for an unknown preset, an unknown field, a value of
    another type than the field's, and for changes of a whole configuration.
    """
    if isinstance(preset, kind):
        if changes:
            raise BadInput(f"Give {', '.join(changes)} in the configuration itself.")
        for name, value in given.items():
            if getattr(preset, name) != value:
                raise BadInput(
                    f"The configuration has {name}={getattr(preset, name)}, the data have {value}; give it theirs."
                )
        return preset
    if preset not in presets:
        raise BadInput(f"There is no preset {preset}; choose one of {', '.join(presets)}.")
    types = get_type_hints(kind)
    unknown = set(changes) - set(types)
    if unknown:
        raise BadInput(
            f"Unknown training parameter {', '.join(sorted(unknown))}; see stylemed.training.{kind.__name__}."
        )
    usual = kind()
    for key, value in changes.items():
        if not _fits(value, types[key]):
            raise BadInput(f"{key} cannot be {value!r}; by default it is {getattr(usual, key)!r}.")
    return kind(**{**presets[preset], **changes, **given})


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of the type that a field is annotated with; an int is a float too, a bool is no number."""
    if get_origin(annotation) is dict:
        keys, values = get_args(annotation)
        return isinstance(value, dict) and all(_fits(k, keys) and _fits(v, values) for k, v in value.items())
    kinds = [NoneType if kind is None else kind for kind in get_args(annotation) or (annotation,)]
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds)) or (isinstance(value, int) and float in kinds)


@dataclass(frozen=True)
class Stage:
    """Where a training stands: level of detail (0 full resolution), side of the images, batch size, learning rate."""

    lod: float
    resolution: int
    batch: int
    learning_rate: float

    @property
    def alpha(self) -> float:
        """Share of the newest resolution in the image, 1 when it is fully faded in."""
        return 1.0 - (self.lod - int(self.lod))


def stage(nimg: int, config: GanConfig) -> Stage:
    """The stage after `nimg` images: stable at the first resolution, then fade and stable by turns (Karras 2018, appendix A)."""
    lod, begins = float(_doublings(config)), 0.0
    while lod > 0:
        stable, fade = 1000 * _stable_kimg(config, lod), 1000 * config.fade_kimg
        if nimg < begins + stable + fade:
            lod -= max(nimg - begins - stable, 0.0) / fade if fade > 0 else 0.0
            break
        begins += stable + fade
        lod -= 1
    side = config.resolution >> int(lod)
    return Stage(
        lod=lod,
        resolution=side,
        batch=config.batch.get(side, config.batch_default),
        learning_rate=config.learning_rate.get(side, config.learning_rate_default),
    )


def _doublings(config: GanConfig) -> int:
    return (config.resolution // config.start_resolution).bit_length() - 1


def _stable_kimg(config: GanConfig, lod: float) -> float:
    return config.stable_kimg_at.get(config.resolution >> int(lod), config.stable_kimg)


def ema_beta(nimg: int, batch: int, config: GanConfig) -> float:
    """Decay of the averaged generator for one batch: 0.5 ** (batch / half-life in images)."""
    half_life = 1000 * config.ema_kimg
    if config.ema_rampup is not None:
        half_life = min(half_life, config.ema_rampup * nimg)
    return 0.5 ** (batch / max(half_life, 1e-8))


def growth_table(config: GanConfig, kimg: float) -> list[dict]:
    """One row for each change of resolution, batch, rate or fading up to `kimg`: what the training goes through."""
    begins = [0.0]
    for lod in range(_doublings(config), 0, -1):
        begins.append(begins[-1] + _stable_kimg(config, lod))
        begins.append(begins[-1] + config.fade_kimg)
    rows = []
    for start, end in zip(begins, [*begins[1:], max(kimg, begins[-1] + 1)], strict=True):
        if end <= start or start >= kimg:
            continue
        middle = stage(int(500 * (start + end)), config)
        row = {
            "from_kimg": start,
            "resolution": middle.resolution,
            "fading": middle.lod % 1 > 0,
            "batch": middle.batch,
            "learning_rate": middle.learning_rate,
        }
        if not rows or any(rows[-1][k] != row[k] for k in row if k != "from_kimg"):
            rows.append(row)
    return rows


def as_plain(config) -> dict:
    """The configuration as plain values for YAML."""
    return asdict(config)
