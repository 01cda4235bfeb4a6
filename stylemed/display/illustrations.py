"""Pictures of how the networks work, for chapters 2 to 4 and 7; those of CT slices proper are in `figures`.

Each function that draws returns a matplotlib Figure. Grey pictures have fixed limits, named in the picture.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from stylemed.display.figures import DIFFERENCE, SlideFigure, _draw, _foot_lines, _Sheet, as_slices
from stylemed.networks import feature_maps, levels

LEVEL_COLORS = {
    "coarse": "#0072B2",
    "middle": "#009E73",
    "fine": "#D55E00",
}  # Okabe and Ito: safe for colour blindness
PALE = {"coarse": "#d3e7f4", "middle": "#d0ece3", "fine": "#fadfcc"}
INK = "#222222"


# ---- measuring


@torch.no_grad()
def noise_footprints(generator, w_plus, size: float = 3.0) -> dict[int, np.ndarray]:
    """Where the image changes when one value of one noise map changes: {resolution: change [R, R]}.

    The value in the middle of the first map at each resolution is raised by `size`; w_plus [1, L, latent].
    """
    before = generator.synthesis(w_plus)
    changes = {}
    for i, side in enumerate(generator.resolutions):
        maps = [m.clone() for m in generator.noise_maps()]
        maps[2 * i][..., side // 2, side // 2] += size
        changes[side] = (generator.synthesis(w_plus, maps) - before).abs().mean(dim=(0, 1)).numpy()
    return changes


def footprint_width(change: np.ndarray, share: float = 0.9) -> float:
    """Side of a square of as many pixels as hold `share` of the squared change [R, R], largest first."""
    energy = np.sort(np.square(change, dtype=np.float64), axis=None)[::-1].cumsum()
    if energy[-1] == 0:
        return 0.0
    return float(np.sqrt(np.searchsorted(energy, share * energy[-1]) + 1))


@torch.no_grad()
def change_of_level(generator, a, b, level) -> tuple[np.ndarray, float]:
    """Root mean square change of each pixel, and of the mean grey, when a level's styles of A become B's.

    a, b [n, L, latent] -> ([R, R], number), both in image units ([-1, 1] is black to white).
    """
    mixed = a.clone()
    layers = levels(generator.resolution)[level]
    mixed[:, layers] = b[:, layers]
    change = generator.synthesis(mixed) - generator.synthesis(a)
    grey = change.mean(dim=(1, 2, 3)).square().mean().sqrt()
    return change.square().mean(dim=(0, 1)).sqrt().numpy(), float(grey)


@torch.no_grad()
def spread(images) -> float:
    """How different images [n, C, R, R] are: standard deviation of each pixel, averaged over the pixels."""
    return float(torch.as_tensor(images).std(dim=0).mean())


def random_generator(seed: int = 0, resolution: int = 64, latent_size: int = 256):
    """A small untrained generator for demonstrations: random weights and constant, noise switched on.

    Training starts from a constant of ones and from noise of strength 0, with which there is little to see.
    """
    from stylemed.networks import Generator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(resolution, latent_size=latent_size, fmap_base=1024, fmap_max=64).eval()
        with torch.no_grad():
            generator.blocks[0].const.normal_()
            for block in generator.blocks:
                for styled in block.styled:
                    styled.noise_strength.fill_(0.1)
            z = torch.randn(4096, latent_size)
            generator.w_avg.copy_(generator.mapping(z).mean(dim=0))
    return generator.requires_grad_(False)


# ---- diagrams


def _box(ax, x, y, width, height, text, face="white", edge=INK, size=9.5, weight="normal"):
    ax.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", fc=face, ec=edge, lw=1.1)
    )
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK, weight=weight)


def _arrow(ax, start, end, color=INK, width=1.2):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, lw=width, color=color))


def _canvas(width: float, height: float, figsize: tuple[float, float]):
    figure = SlideFigure(figsize=figsize, dpi=150)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.axis("off")
    return figure, ax


def generator_diagram(generator) -> Figure:
    """The generator as boxes with its own numbers: mapping, constant, blocks, styles, noise, levels."""
    blocks = len(generator.resolutions)
    top = 1.15 * blocks + 1.2
    figure, ax = _canvas(7.0, top + 0.2, (6.4, 0.64 * (top + 0.2)))
    depth = generator.config["mapping_layers"]
    _box(ax, 0.15, top - 0.75, 1.5, 0.55, f"z  ({generator.latent_size})")
    _arrow(ax, (0.9, top - 0.77), (0.9, top - 1.28))
    _box(ax, 0.15, top - 2.9, 1.5, 1.6, f"mapping\nnetwork\n{depth} layers", face="#eeeeee")
    _arrow(ax, (0.9, top - 2.92), (0.9, top - 3.43))
    _box(ax, 0.15, top - 4.0, 1.5, 0.55, f"w  ({generator.latent_size})", weight="bold")
    ax.plot([1.67, 2.1], [top - 3.72] * 2, color=INK, lw=1.2)
    ax.plot([2.1, 2.1], [0.98, top - 0.95], color=INK, lw=1.2)
    ax.text(5.95, top - 0.28, "noise", ha="center", va="center", fontsize=10, color=INK)
    ax.text(2.75, top - 0.28, "styles", ha="center", va="center", fontsize=10, color=INK)
    named = {layer: name for name, part in levels(generator.resolution).items() for layer in range(*part.indices(99))}
    base, largest = generator.config["fmap_base"], generator.config["fmap_max"]
    for i, side in enumerate(generator.resolutions):
        y, level = top - 0.7 - 1.15 * (i + 0.75), named.get(2 * i, "fine")
        what = "learned constant" if i == 0 else "upscale, convolve, blur"
        text = f"{what}\n{side}² × {feature_maps(side, base, largest)}: two styled layers"
        _box(ax, 2.9, y, 2.45, 0.8, text, face=PALE[level], edge=LEVEL_COLORS[level], size=9.3)
        for shift in (0.2, 0.6):
            _arrow(ax, (2.1, y + shift), (2.88, y + shift), LEVEL_COLORS[level])
            _arrow(ax, (6.15, y + shift), (5.37, y + shift), "#888888", 0.9)
        ax.text(6.2, y + 0.4, level, fontsize=10.5, va="center", color=LEVEL_COLORS[level], weight="bold")
        _arrow(ax, (4.12, y - 0.02), (4.12, y - 0.33 if i < blocks - 1 else y - 0.28))
    last = top - 0.7 - 1.15 * (blocks - 0.25)
    ax.text(
        4.12,
        last - 0.45,
        f"1×1 convolution to the image: {generator.resolution}²",
        ha="center",
        va="center",
        fontsize=10,
    )
    return figure


def encoder_diagram(generator) -> Figure:
    """How the encoder learns: it sees an image whose latent is known, and its answer meets both."""
    layers, size = generator.num_layers, generator.latent_size
    figure, ax = _canvas(7.0, 4.6, (6.4, 4.2))
    _box(ax, 0.2, 3.55, 1.3, 0.75, f"z drawn\n({size})")
    _box(ax, 2.0, 3.55, 1.5, 0.75, f"w+ known\n{layers} × {size}", face=PALE["middle"])
    _box(ax, 4.1, 3.55, 1.15, 0.75, "generator\n(fixed)", face="#eeeeee")
    _box(ax, 5.75, 3.55, 1.05, 0.75, f"image\n{generator.resolution}²", face=PALE["coarse"])
    _box(ax, 5.35, 2.0, 1.45, 0.75, "ResNet-50\n(learns)", face=PALE["fine"], edge=LEVEL_COLORS["fine"])
    _box(ax, 2.0, 2.0, 1.5, 0.75, f"w+ found\n{layers} × {size}", face=PALE["middle"])
    _box(ax, 4.1, 0.4, 1.15, 0.75, "generator\n(fixed)", face="#eeeeee")
    _box(ax, 5.75, 0.4, 1.05, 0.75, "image\nagain", face=PALE["coarse"])
    for start, end in [
        ((1.52, 3.92), (1.98, 3.92)),
        ((3.52, 3.92), (4.08, 3.92)),
        ((5.27, 3.92), (5.73, 3.92)),
        ((6.27, 3.53), (6.27, 2.77)),
        ((5.33, 2.38), (3.52, 2.38)),
        ((2.75, 1.98), (4.08, 0.82)),
        ((5.27, 0.78), (5.73, 0.78)),
    ]:
        _arrow(ax, start, end)
    for x, low, high, text, side in [
        (2.75, 2.77, 3.53, "latent error", "right"),
        (6.6, 1.17, 1.98, "", "left"),
    ]:
        if text:
            ax.plot([x, x], [low, high], color="#b00020", lw=1.4, ls="--")
            ax.text(x - 0.1, (low + high) / 2, text, color="#b00020", ha=side, va="center", fontsize=11)
    ax.plot([6.92, 6.95, 6.95, 6.92], [0.78, 0.78, 3.92, 3.92], color="#b00020", lw=1.4, ls="--")
    ax.text(6.85, 1.45, "image error", color="#b00020", ha="right", va="center", fontsize=11)
    return figure


# ---- pictures


def statistics_figure(stages: dict[str, torch.Tensor], channels: int = 3) -> Figure:
    """Feature maps [C, H, W]: a row for each stage, a picture for each of the first channels."""
    figure = SlideFigure(figsize=(1.75 * channels + 1.3, 1.95 * len(stages)), dpi=130, layout="constrained")
    axes = figure.subplots(len(stages), channels, squeeze=False)
    for row, (name, maps) in zip(axes, stages.items(), strict=True):
        for ax, one in zip(row, maps, strict=False):
            drawn = ax.imshow(one.detach().numpy(), cmap="gray", vmin=-5, vmax=5, interpolation="nearest")
            ax.set_xlabel(f"mean {float(one.mean()):.2f}, std {float(one.std(correction=0)):.2f}", fontsize=10.5)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(name, fontsize=11)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6)
    bar.set_label("feature value", fontsize=10.5)
    bar.ax.tick_params(labelsize=10)
    return figure


def change_maps(
    maps: dict[str, np.ndarray], limit: float | None = None, columns: int = 3, label: str = "change"
) -> Figure:
    """Maps [R, R] of how much pixels change, on one colour scale from 0 to `limit` (None: the largest)."""
    limit = limit or max(float(m.max()) for m in maps.values()) or 1.0
    rows = -(-len(maps) // columns)
    figure = SlideFigure(figsize=(6.4, 2.15 * rows), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (name, one) in zip(axes.flat, maps.items(), strict=False):
        drawn = ax.imshow(one, cmap="magma", vmin=0, vmax=limit, interpolation="nearest")
        ax.set_title(name, fontsize=11)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label(label, fontsize=10.5)
    bar.ax.tick_params(labelsize=10)
    return figure


def relative_maps(maps: dict) -> dict[str, np.ndarray]:
    """Each map divided by its largest value, under the name "N²": for comparing where, not how much."""
    return {f"{side}²": one / (one.max() or 1.0) for side, one in maps.items()}


def grey_grid(
    images,
    titles=None,
    columns: int = 6,
    limits: tuple[float, float] = (-1, 1),
    row_labels=None,
    label: str = "image value",
) -> Figure:
    """Images [n, 1, R, R] of untrained networks (no CT) between fixed grey limits, shown at the bar."""
    images = torch.as_tensor(images).detach()
    rows = -(-len(images) // columns)
    figure = SlideFigure(figsize=(6.4, 6.4 / columns * rows + 0.3), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_frame_on(False)
    for i, (ax, image) in enumerate(zip(axes.flat, images, strict=False)):
        drawn = ax.imshow(image[0].numpy(), cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        if titles is not None and i < len(titles):
            ax.set_title(titles[i], fontsize=11)
    for ax, name in zip(axes[:, 0], row_labels or [], strict=False):
        ax.set_ylabel(name, fontsize=11)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[limits[0], sum(limits) / 2, limits[1]])
    bar.set_label(label, fontsize=10.5)
    bar.ax.tick_params(labelsize=10)
    return figure


def blur_figure(size: int = 12) -> Figure:
    """A disc enlarged by nearest neighbours, the same after the filter [1, 2, 1], and its response."""
    from stylemed.networks.layers import blur, upscale

    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = torch.tensor(np.hypot(x, y) < size / 3, dtype=torch.float32)[None, None]
    enlarged = upscale(disc)
    figure = SlideFigure(figsize=(6.4, 2.3), dpi=130, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.25])
    for ax, image, title in [(left, enlarged, "upscaled"), (middle, blur(enlarged), "then blurred")]:
        ax.imshow(image[0, 0].numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=11)
        ax.axis("off")
    frequency = np.linspace(0, 0.5, 100)
    right.plot(frequency, np.cos(np.pi * frequency) ** 2, color=LEVEL_COLORS["coarse"])
    right.set_xlabel("cycles per pixel", fontsize=11)
    right.set_ylabel("share let through", fontsize=11)
    right.tick_params(labelsize=10)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def latent_clouds(z, w) -> Figure:
    """z [n, D] and w [n, D] along their first two principal axes, in units of their total deviation."""
    figure = SlideFigure(figsize=(6.4, 3.1), dpi=130, layout="constrained")
    for ax, points, name in zip(figure.subplots(1, 2), (z, w), ("z", "w"), strict=True):
        centred = (points - points.mean(dim=0)).detach()
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        flat = centred @ axes[:2].T / centred.square().sum(dim=1).mean().sqrt()
        ax.plot(*flat.T.numpy(), ".", ms=2.5, color=LEVEL_COLORS["coarse" if name == "z" else "fine"])
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("first principal axis", fontsize=11)
        ax.set_ylabel("second", fontsize=11)
        ax.set_xlim(-1.6, 1.6)
        ax.set_ylim(-1.6, 1.6)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=10)
    return figure


def components_for(points, share: float = 0.9) -> int:
    """How many principal axes hold `share` of the variance of points [n, D]."""
    power = torch.linalg.svdvals((points - points.mean(dim=0)).double()).square()
    return int((power.cumsum(0) / power.sum() < share).sum()) + 1


def reconstruction_figure(real, again, window, limit: float = 100.0, names=("slice", "again"), titles=None) -> Figure:
    """Images, what became of them, and the signed difference in HU: three rows, a column for each image.

    real, again [n, 1, R, R] in [-1, 1]; window: the Window they were made with; limit: end of the scale, HU.
    """
    real, again = as_slices(real), as_slices(again)
    head = 1.5 if titles is not None else 0.0
    sheet = _Sheet(real.shape[-1], len(real), [head, 0.0, 0.0], left=1.5, foot=_foot_lines(window, None) + 2.4)
    for row, name in enumerate((*names, "difference")):
        sheet.row_label(row, name)
    for k in range(len(real)):
        sheet.slice(0, k, real[k], sides=k == 0)
        sheet.slice(1, k, again[k])
        _draw(sheet.cell(2, k), (again[k] - real[k]) * (window.hi - window.lo) / 2, DIFFERENCE, limit)
        if titles is not None:
            sheet.title(0, k, titles[k])
    sheet.bar(DIFFERENCE, -limit, limit, "difference in HU", 2.4)
    return sheet.finish(window, False)


def sample_history(run, rows: int = 4, columns: int = 6) -> dict[str, np.ndarray]:
    """The same latents while the generator learned: {"2.0 kimg": images [columns, 1, R, R] in [-1, 1]}.

    Read from the run's sample grids (8 bit), evenly spread over the training, with the first and the last.
    """
    from PIL import Image

    files = run.samples()
    side = run.config["resolution"]
    chosen = sorted({round(i) for i in np.linspace(0, len(files) - 1, min(rows, len(files)))})
    history = {}
    for file in (files[i] for i in chosen):
        grid = np.asarray(Image.open(file).convert("L"), dtype=np.float32) / 127.5 - 1
        across = grid.shape[1] // side
        cells = grid.reshape(-1, side, across, side).swapaxes(1, 2).reshape(-1, 1, side, side)
        history[f"{int(file.stem) / 1000:.1f} kimg"] = cells[:columns]
    return history


def objective_figure() -> Figure:
    """The generator's loss and its pull over the score of an image: the original game and the non-saturating."""
    score = np.linspace(-6, 6, 200)
    chance = 1 / (1 + np.exp(-score))
    figure = SlideFigure(figsize=(6.4, 2.9), dpi=150, layout="constrained")
    for ax, title, curves in zip(
        figure.subplots(1, 2),
        ("loss", "pull on the generator"),
        ((-np.logaddexp(0, score), np.logaddexp(0, -score)), (chance, 1 - chance)),
        strict=True,
    ):
        ax.plot(score, curves[0], "--", color=LEVEL_COLORS["fine"], label="original")
        ax.plot(score, curves[1], color=LEVEL_COLORS["coarse"], label="non-saturating")
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("score of a generated image", fontsize=11)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=10)
    ax.legend(fontsize=10, frameon=False, loc="center right")
    return figure


# ---- paper scale


def schedule_figure(config, kimg: float) -> Figure:
    """Resolution over images shown for a GanConfig: full colour while stable, pale while the next one fades in."""
    from stylemed.training.schedule import stage

    at = np.linspace(0, 1000 * kimg, 1500)
    stages = [stage(int(nimg), config) for nimg in at]
    side = np.array([s.resolution for s in stages])
    alpha = np.array([s.alpha for s in stages])
    figure = SlideFigure(figsize=(6.4, 3.0), dpi=150, layout="constrained")
    ax = figure.subplots()
    ax.step(at / 1000, side, where="post", color=INK, lw=1.5)
    ax.fill_between(
        at / 1000,
        config.start_resolution / 2,
        side,
        where=alpha < 1,
        step="post",
        color=PALE["fine"],
        label="fading in",
    )
    ax.set_yscale("log", base=2)
    ax.set_yticks(sorted(set(side)), [f"{s}²" for s in sorted(set(side))])
    ax.set_ylim(config.start_resolution / 2, 1.3 * max(side))
    ax.set_xlabel("images shown, in thousands", fontsize=11)
    ax.tick_params(labelsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=10, frameon=False, loc="lower right")
    return figure


def network_sizes(config) -> dict[str, int]:
    """Trainable numbers of generator, discriminator and encoder of a GanConfig; nothing is allocated."""
    from stylemed.networks import Encoder

    generator, discriminator = _on_paper(config)
    with torch.device("meta"):
        encoder = Encoder(config.resolution, config.channels, config.latent_size, generator.num_layers)
    networks = {"generator": generator, "discriminator": discriminator, "encoder": encoder}
    return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def training_memory(config, batch: int) -> dict[str, float]:
    """Estimate in GiB of what one GAN step holds at full resolution in float32; a lower bound, nothing is allocated.

    "weights": both networks with gradients, two Adam moments each, and the averaged generator. "D step", "G step": what
    the backward pass has to remember, counted with shapes only; the D step with R1. Work space is not included.
    """
    from stylemed.training.gan import discriminator_loss, generator_loss, gradient_penalty

    generator, discriminator = _on_paper(config)
    numbers = [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]
    shape = (batch, config.channels, config.resolution, config.resolution)
    reals = torch.empty(shape, device="meta", requires_grad=True)
    fakes = torch.empty(shape, device="meta")
    z = torch.empty(batch, config.latent_size, device="meta")

    def d_step():
        scores = discriminator(reals)
        return discriminator_loss(scores, discriminator(fakes)) + gradient_penalty(scores, reals)

    def g_step():
        return generator_loss(discriminator(generator(z)))

    return {
        "weights": (4 * sum(numbers) + numbers[0]) * 4 / 2**30,
        "D step": _remembered(d_step) / 2**30,
        "G step": _remembered(g_step) / 2**30,
    }


def _on_paper(config):
    """Generator and discriminator of a GanConfig with shapes but without memory."""
    from stylemed.networks import Discriminator, Generator

    shared = {k: getattr(config, k) for k in ("resolution", "channels", "fmap_base", "fmap_max")}
    with torch.device("meta"):
        generator = Generator(**shared, latent_size=config.latent_size, mapping_layers=config.mapping_layers)
        return generator, Discriminator(**shared, stddev_group=config.stddev_group)


def _remembered(compute) -> int:
    """Bytes that autograd keeps for the backward pass of what `compute` does, each storage once."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage.nbytes(), storage)  # held, so that no address comes twice
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return sum(size for size, _ in kept.values())
