"""Pictures of how the networks work, for chapters 2 to 4 and 7; CT slices are drawn in `figures`, and measuring is done elsewhere.

Each function that draws returns a matplotlib Figure. Grey pictures have fixed limits, named in the picture.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from stylemed.display.figures import LEVEL_COLORS
from stylemed.display.sheet import SlideFigure
from stylemed.latent.geometry import principal_plane
from stylemed.networks import feature_maps, levels

PALE = {"coarse": "#d3e7f4", "middle": "#d0ece3", "fine": "#fadfcc"}
INK = "#222222"


# ---- diagrams


def box(ax, x, y, width, height, text, face="white", edge=INK, size=9.5, weight="normal"):
    """A rounded box of a diagram with text in its middle; x, y: its lower left corner, in data units."""
    ax.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", fc=face, ec=edge, lw=1.1)
    )
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK, weight=weight)


def arrow(ax, start, end, color=INK, width=1.2):
    """An arrow of a diagram, from (x, y) to (x, y)."""
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
    box(ax, 0.15, top - 0.75, 1.5, 0.55, f"z  ({generator.latent_size})")
    arrow(ax, (0.9, top - 0.77), (0.9, top - 1.28))
    box(ax, 0.15, top - 2.9, 1.5, 1.6, f"mapping\nnetwork\n{depth} layers", face="#eeeeee")
    arrow(ax, (0.9, top - 2.92), (0.9, top - 3.43))
    box(ax, 0.15, top - 4.0, 1.5, 0.55, f"w  ({generator.latent_size})", weight="bold")
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
        box(ax, 2.9, y, 2.45, 0.8, text, face=PALE[level], edge=LEVEL_COLORS[level], size=9.3)
        for shift in (0.2, 0.6):
            arrow(ax, (2.1, y + shift), (2.88, y + shift), LEVEL_COLORS[level])
            arrow(ax, (6.15, y + shift), (5.37, y + shift), "#888888", 0.9)
        ax.text(6.2, y + 0.4, level, fontsize=10.5, va="center", color=LEVEL_COLORS[level], weight="bold")
        arrow(ax, (4.12, y - 0.02), (4.12, y - 0.33 if i < blocks - 1 else y - 0.28))
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
    box(ax, 0.2, 3.55, 1.3, 0.75, f"z drawn\n({size})")
    box(ax, 2.0, 3.55, 1.5, 0.75, f"w+ known\n{layers} × {size}", face=PALE["middle"])
    box(ax, 4.1, 3.55, 1.15, 0.75, "generator\n(fixed)", face="#eeeeee")
    box(ax, 5.75, 3.55, 1.05, 0.75, f"image\n{generator.resolution}²", face=PALE["coarse"])
    box(ax, 5.35, 2.0, 1.45, 0.75, "ResNet-50\n(learns)", face=PALE["fine"], edge=LEVEL_COLORS["fine"])
    box(ax, 2.0, 2.0, 1.5, 0.75, f"w+ found\n{layers} × {size}", face=PALE["middle"])
    box(ax, 4.1, 0.4, 1.15, 0.75, "generator\n(fixed)", face="#eeeeee")
    box(ax, 5.75, 0.4, 1.05, 0.75, "image\nagain", face=PALE["coarse"])
    for start, end in [
        ((1.52, 3.92), (1.98, 3.92)),
        ((3.52, 3.92), (4.08, 3.92)),
        ((5.27, 3.92), (5.73, 3.92)),
        ((6.27, 3.53), (6.27, 2.77)),
        ((5.33, 2.38), (3.52, 2.38)),
        ((2.75, 1.98), (4.08, 0.82)),
        ((5.27, 0.78), (5.73, 0.78)),
    ]:
        arrow(ax, start, end)
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
        ax.plot(
            *principal_plane(points).T.numpy(), ".", ms=2.5, color=LEVEL_COLORS["coarse" if name == "z" else "fine"]
        )
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("first principal axis", fontsize=11)
        ax.set_ylabel("second", fontsize=11)
        ax.set_xlim(-1.6, 1.6)
        ax.set_ylim(-1.6, 1.6)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=10)
    return figure


def objective_figure() -> Figure:
    """The generator's loss and its pull over the score of an image: the original game and the non-saturating."""
    score = np.linspace(-6, 6, 200)
    chance = 1 / (1 + np.exp(-score))
    figure = SlideFigure(figsize=(6.4, 2.9), dpi=150, layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, title, curves in zip(
        axes,
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
    axes[0].legend(fontsize=10, frameon=False, loc="center left")
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
