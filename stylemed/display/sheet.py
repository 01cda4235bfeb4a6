"""A sheet of slices: cells of whole pixels on a dark panel, with room for every title, label and colour bar.

-1 is always black and 1 always white: no automatic contrast. Each slice pixel is drawn as a whole number of figure pixels
(interpolation "nearest") as long as the slice is smaller than its place; a larger slice is reduced with "antialiased".
Text is a fixed part of the width, so that it can be read when the figure is as wide as a phone.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

PANEL, TEXT, MUTED = "#15191e", "#eef1f4", "#a9b4bf"
COLOR_A, COLOR_B = "#56b4e9", "#e69f00"  # Okabe and Ito: told apart with any colour vision
LIVER, TUMOR = "#2fd6a3", "#f0e442"
EDGE = [withStroke(linewidth=1.5, foreground="#000000")]  # keeps letters readable on bright pixels
DPI = 200
TARGET = 1150  # figure width in pixels, about
PRINT_MM, PRINT_DPI = 170, 300  # width of a text on paper, and the fewest dots an inch there
LARGEST_CELL = 448  # pixels; a lone slice does not fill the page
# Blue below, black at zero, orange above: nothing where nothing changed, and safe for colour blindness.
DIFFERENCE = LinearSegmentedColormap.from_list("change", ["#b5e0ff", "#2d8fd5", "#000000", "#d5701e", "#ffd9a3"])


class SlideFigure(Figure):
    """A Figure that also shows itself where pyplot was never imported."""

    def png(self) -> bytes:
        """The file of the picture, as a notebook shows it."""
        buffer = io.BytesIO()
        FigureCanvasAgg(self)
        self.savefig(buffer, format="png", facecolor=self.get_facecolor())
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


class Sheet:
    """Cells on a dark panel, laid out in whole pixels. heads: lines of text above each row; left: lines beside it.

    paper: black on white, PRINT_MM wide, with PRINT_DPI or more.
    """

    def __init__(
        self, side: int, columns: int, heads: list[float], left: float = 0.0, foot: float = 0.0, paper: bool = False
    ):
        if paper:
            self.cell_px = side * int(np.ceil(PRINT_MM / 25.4 * PRINT_DPI / columns / side))
        else:
            whole = round(min(TARGET / columns, LARGEST_CELL) / side)
            self.cell_px = side * whole if whole else int(TARGET / columns)
        self.panel, self.ink, self.muted = ("white", "black", "#555555") if paper else (PANEL, TEXT, MUTED)
        self.gap = max(4, self.cell_px // 32)
        inner = columns * (self.cell_px + self.gap) - self.gap
        self.line = max(0.036 * inner, 17.0)  # height of a line of text, in pixels
        self.margin = round(0.5 * self.line)
        self.left = self.margin + round(left * self.line)
        self.width = self.left + inner + self.margin
        self.tops, y = [], self.margin
        for head in heads:
            y += round(head * self.line)
            self.tops.append(y)
            y += self.cell_px + self.gap
        self.foot_top = y
        self.height = y + round(foot * self.line) + self.margin // 2
        self.dpi = self.width / PRINT_MM * 25.4 if paper else DPI
        self.points = self.line / 1.5 * 72 / self.dpi
        size = (self.width / self.dpi, self.height / self.dpi)
        self.figure = SlideFigure(figsize=size, dpi=self.dpi, facecolor=self.panel)
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float):
        """Axes at pixels from the top left corner."""
        bottom = 1 - (y + height) / self.height
        return self.figure.add_axes((x / self.width, bottom, width / self.width, height / self.height))

    def x(self, column: int) -> int:
        return self.left + column * (self.cell_px + self.gap)

    def cell(self, row: int, column: int):
        ax = self.axes(self.x(column), self.tops[row], self.cell_px, self.cell_px)
        ax.set_facecolor(self.panel)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        return ax

    def slice(self, row: int, column: int, image, sides: bool = False, frame: str | None = None):
        ax = self.cell(row, column)
        draw(ax, image, "gray", 1.0)
        if sides:
            size = min(self.points, self.cell_px * 0.13 * 72 / self.dpi)
            for x, text, side in (
                (0.03, "R", "left"),
                (0.97, "L", "right"),
            ):  # the patient's sides; air lies there
                style = {"color": MUTED, "fontsize": size, "ha": side, "va": "bottom", "path_effects": EDGE}
                ax.text(x, 0.03, text, transform=ax.transAxes, **style)
        if frame is not None:
            box = Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, edgecolor=frame, clip_on=False)
            box.set_linewidth(self.gap * 0.8 * 72 / self.dpi)
            ax.add_patch(box)
        return ax

    def text(self, x: float, y: float, text: str, room: float, color: str | None = None, **style):
        """Text at pixels from the top left, made smaller where it would not fit into `room` pixels."""
        color = color or self.ink
        style = {"fontsize": self.points, "va": "center", "ha": "center"} | style
        artist = self.figure.text(x / self.width, 1 - y / self.height, text, color=color, **style)
        box = artist.get_window_extent(self.canvas.get_renderer())
        length = box.height if style.get("rotation") else box.width
        if length > room:
            artist.set_fontsize(style["fontsize"] * room / length)
        return artist

    def title(self, row: int, column: int, text: str, color: str | None = None) -> None:
        y = self.tops[row] - 0.75 * self.line
        self.text(self.x(column) + self.cell_px / 2, y, text, self.cell_px + self.gap / 2, color)

    def heading(self, row: int, text: str) -> None:
        y = self.tops[row] - 0.75 * self.line
        self.text(self.left, y, text, self.width - self.left - self.margin, ha="left")

    def span_title(self, first: int, end: int, text: str) -> None:
        middle, room = (self.x(first) + self.x(end)) / 2, self.x(end) - self.x(first)
        self.text(middle, self.tops[0] - 2.1 * self.line, text, room, self.muted)

    def row_label(self, row: int, text: str, color: str | None = None, rows: int = 1) -> None:
        """Upright text to the left of a row, or of so many rows that follow each other without heads."""
        height = self.tops[row + rows - 1] + self.cell_px - self.tops[row]
        self.text(self.left - 0.85 * self.line, self.tops[row] + height / 2, text, height, color, rotation=90)

    def bar(self, colors, low: float, high: float, name: str, lines_down: float = 0.0) -> None:
        """A colour bar of fixed ends in the foot, its name to the right."""
        width, y = (
            0.42 * (self.width - self.left - self.margin),
            self.foot_top + (lines_down + 0.5) * self.line,
        )
        ax = self.axes(self.left + self.line, y, width, 0.5 * self.line)
        ax.imshow(np.linspace(low, high, 256)[None], cmap=colors, aspect="auto", extent=(low, high, 0, 1))
        ax.set_yticks([])
        ax.set_xticks([low, (low + high) / 2, high])
        ax.set_xticklabels([f"{tick:g}".replace("-", "−") for tick in (low, (low + high) / 2, high)])
        ax.tick_params(colors=self.ink, labelsize=0.9 * self.points, length=2, width=0.6, pad=2)
        ax.spines[:].set_color(self.muted)
        ax.spines[:].set_linewidth(0.5)
        x = self.left + 1.8 * self.line + width
        self.text(x, y + 0.25 * self.line, name, self.width - x - self.margin, ha="left")

    def finish(self, window, outlines: bool, note: str = "") -> Figure:
        """Draw what the foot has room for: the HU bar, and a note on contours and pixels."""
        if window is not None:
            self.bar("gray", window.lo, window.hi, "HU, black to white")
        if outlines:
            y, x = self.height - 0.9 * self.line, self.left + self.line
            for text, color in (("— liver", LIVER), ("— tumor", TUMOR)):
                self.text(x, y, text, self.width / 4, color, ha="left")
                x += 5.0 * self.line
        if note:
            room = self.width / 2 if outlines else self.width - self.left - self.margin
            x = self.width - self.margin if outlines else self.left + self.line
            self.text(x, self.height - 0.9 * self.line, note, room, self.muted, ha="right" if outlines else "left")
        return self.figure


def foot_lines(window, labels) -> float:
    """Lines of text that `Sheet.finish` needs below the slices for a window's bar and for the names of outlines."""
    return (2.4 if window is not None else 0.0) + (1.4 if labels is not None else 0.0)


def draw(ax, image, colors, limit: float) -> None:
    """An image [R, R] between -limit and limit, in whole pixels where there is room for them."""
    image = np.asarray(image, dtype=float)
    shown_px = round(ax.get_position().width * ax.figure.get_figwidth() * ax.figure.dpi)
    how = "nearest" if shown_px >= image.shape[-1] else "antialiased"
    ax.imshow(image, cmap=colors, vmin=-limit, vmax=limit, interpolation=how)


def contours(ax, labels, width: float = 1.3) -> None:
    """Outlines of liver (with its tumors) and tumor along the pixel edges; labels [R, R] with 1 liver, 2 tumor."""
    labels = np.asarray(labels)
    for mask, color, scale in ((labels >= 1, LIVER, 1.0), (labels == 2, TUMOR, 1.2)):
        padded = np.pad(mask, 1).astype(int)
        down = np.argwhere(np.diff(padded, axis=0)[:, 1:-1])  # edge above row i, at column j
        across = np.argwhere(np.diff(padded, axis=1)[1:-1])  # edge left of column j, at row i
        edges = [((j - 0.5, i - 0.5), (j + 0.5, i - 0.5)) for i, j in down]
        edges += [((j - 0.5, i - 0.5), (j - 0.5, i + 0.5)) for i, j in across]
        ax.add_collection(LineCollection(edges, colors=color, linewidths=width * scale, capstyle="round"))


def as_slices(images) -> np.ndarray:
    """[n, 1, R, R] or [n, R, R], torch or numpy -> float [n, R, R]."""
    images = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images, dtype=float)
    return images[:, 0] if images.ndim == 4 else images
