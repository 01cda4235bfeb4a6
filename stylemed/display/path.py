"""The picture of the intro: the way of a slice, one small picture for each chapter. `stylemed book picture` draws it."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stylemed.display.figures import LEVEL_COLORS
from stylemed.display.illustrations import INK, PALE, arrow, box
from stylemed.display.sheet import COLOR_A, COLOR_B, SlideFigure
from stylemed.latent.generation import random_styles
from stylemed.latent.mixing import mix, synthesize
from stylemed.provenance import belong_together

TITLES = ("volumes become slices", "style enters by level", "the generator learns", "a slice finds its latent")
TITLES += ("two slices mix", "a tumor is a direction")


@torch.no_grad()
def path_figure(store, generator, encoder, seed: int = 0) -> Figure:
    """Six pictures with slices [1, R, R] of a store, a generator and an encoder; BadInput where they do not belong together."""
    for name, other in (("generator", generator), ("store", store)):
        names = ("the encoder", f"the {name}")
        belong_together(encoder.provenance, other.provenance, names=names, same_store=name != "store")
    figure = SlideFigure(figsize=(5.0, 4.3), dpi=240, facecolor="white")
    cells = []
    for i, title in enumerate(TITLES):
        ax = figure.add_axes((0.015 + (i % 3) * 0.335, 0.515 - (i // 3) * 0.5, 0.3, 0.38))
        ax.set_xlim(0, 10)
        ax.set_ylim(0, 10.9)
        ax.axis("off")
        ax.text(0, 12.1, f"{i + 1}", fontsize=10, weight="bold", color=INK, va="center")
        ax.text(1.1, 12.1, title, fontsize=8.6, color=INK, va="center")
        cells.append(ax)
    train, test = store.select(split="train"), store.select(split="test")
    middle = train[len(train) // 25 :: len(train) // 25]
    for k, row in enumerate(middle[[2, 1, 0]]):  # the nearest one last, on top
        _slice(cells[0], store.images([row])[0], (3 - 1.5 * k, 3 - 1.5 * k, 7), layer=10 * k)
    for k, (name, colour) in enumerate(LEVEL_COLORS.items()):
        y = 7.4 - 3.4 * k
        box(cells[1], 4.2, y, 5.4, 2.4, name, face=PALE[name], edge=colour, size=9)
        arrow(cells[1], (1.6, y + 1.2), (4.1, y + 1.2), colour)
        if k < 2:
            arrow(cells[1], (6.9, y), (6.9, y - 0.95))
    cells[1].plot([1.6, 1.6], [1.8, 8.6], color=INK, lw=1.2)
    cells[1].text(0.5, 5.2, "w", fontsize=11, weight="bold", ha="center", va="center", color=INK)
    for k, image in enumerate(generator.synthesis(random_styles(generator, 4, 0.7, seed))):
        _slice(cells[2], image, (5 * (k % 2), 5 - 5 * (k // 2), 4.8))
    chosen = test[[len(test) // 5, len(test) // 2]]
    real = torch.as_tensor(store.images(chosen))
    codes = encoder(real)
    again = synthesize(generator, torch.cat([codes, mix(codes[:1], codes[1:], "fine")]))
    _slice(cells[3], real[0], (0, 5.6, 4.6))
    _slice(cells[3], again[0], (5.4, 0, 4.6))
    arrow(cells[3], (4.9, 7.9), (7.2, 7.9))
    cells[3].text(8.0, 7.9, "w+", fontsize=10, weight="bold", ha="center", va="center", color=INK)
    arrow(cells[3], (8.0, 6.9), (8.0, 4.8))
    _slice(cells[4], again[0], (0, 5.6, 4.6), COLOR_A)
    _slice(cells[4], again[1], (5.4, 5.6, 4.6), COLOR_B)
    _slice(cells[4], again[2], (2.7, 0, 4.6))
    _cloud(cells[5], np.random.default_rng(seed))
    return figure


def _slice(ax, image, place: tuple[float, float, float], frame: str = "white", layer: int = 0) -> None:
    """A slice in [-1, 1], black to white, at (x, y) with a side, in the units of a cell."""
    x, y, side = place
    pixels = np.asarray(image, dtype=float).squeeze()
    ax.imshow(
        pixels,
        cmap="gray",
        vmin=-1,
        vmax=1,
        interpolation="nearest",
        extent=(x, x + side, y, y + side),
        zorder=layer + 1,
    )
    ax.add_patch(Rectangle((x, y), side, side, fill=False, ec=frame, lw=1.6, zorder=layer + 2))
    ax.set_xlim(0, 10)
    ax.set_ylim(0, 10.9)


def _cloud(ax, rng) -> None:
    """A sketch, not data: two clouds of points, the border between them, and the direction across it."""
    for centre, colour, name in (((3.2, 4.0), COLOR_A, "no tumor"), ((6.8, 7.0), COLOR_B, "tumor")):
        points = rng.normal(centre, (1.3, 1.2), (45, 2))
        ax.plot(*points.T, "o", ms=2.6, color=colour)
        ax.text(centre[0], 0.3 if name == "no tumor" else 10.5, name, fontsize=8.6, ha="center", va="center", color=INK)
    ax.plot([2.2, 8.0], [8.9, 1.9], "--", color="#777777", lw=1)
    arrow(ax, (3.2, 4.0), (6.9, 7.1), INK, 2.2)
