"""Figures of CT slices: one fixed grey window, no automatic contrast, no smoothing, sides marked, room for every label.

Slices are [-1, 1] arrays as the store and the generator give them: row 0 is anterior, column 0 the patient's right.
-1 is always black and 1 always white. Each slice pixel is drawn as a whole number of figure pixels (interpolation
"nearest") as long as the slice is smaller than its place; a larger slice is reduced with "antialiased". Pictures of
slices stand on a dark panel of their own, charts on a white one, so both look the same on a light and on a dark page.
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

from stylemed.latent.mixing import describe_level

PANEL, TEXT, MUTED = "#15191e", "#eef1f4", "#a9b4bf"
COLOR_A, COLOR_B = "#56b4e9", "#e69f00"  # Okabe and Ito: told apart with any colour vision
LIVER, TUMOR = "#2fd6a3", "#f0e442"
EDGE = [withStroke(linewidth=1.5, foreground="#000000")]  # keeps letters readable on bright pixels
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES = ("-", "--", "-.", ":")
DPI = 200
TARGET = 1150  # figure width in pixels, about
LARGEST_CELL = 448  # pixels; a lone slice does not fill the page
# Blue below, black at zero, orange above: nothing where nothing changed, and safe for colour blindness.
DIFFERENCE = LinearSegmentedColormap.from_list("change", ["#b5e0ff", "#2d8fd5", "#000000", "#d5701e", "#ffd9a3"])


class SlideFigure(Figure):
    """A Figure that also shows itself where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        FigureCanvasAgg(self)
        self.savefig(buffer, format="png", facecolor=self.get_facecolor())
        return buffer.getvalue()


def show_slices(
    images,
    labels=None,
    titles=None,
    window=None,
    columns: int = 4,
    frames=None,
    sides: bool = True,
) -> Figure:
    """Slices in rows of `columns`.

    images: [n, 1, R, R] or [n, R, R] in [-1, 1]; labels: [n, R, R] (1 liver, 2 tumor) for contours; titles: n texts
    above the slices; window (lo, hi in HU): adds a HU bar; frames: one colour or n colours (None = no frame).
    """
    images = as_slices(images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    head = 1.5 if titles is not None else 0.0
    sheet = _Sheet(images.shape[-1], columns, [head] * rows, foot=_foot_lines(window, labels))
    frames = [frames] * len(images) if frames is None or isinstance(frames, str) else frames
    for i, image in enumerate(images):
        ax = sheet.slice(i // columns, i % columns, image, sides=sides, frame=frames[i])
        if labels is not None:
            contours(ax, labels[i])
        if titles is not None:
            sheet.title(i // columns, i % columns, titles[i])
    return sheet.finish(window, labels is not None)


def show_rows(rows: dict, titles=None, labels=None, window=None, sides: bool = True) -> Figure:
    """Named rows of slices below each other, such as {"slice": ..., "reconstruction": ...}.

    rows: name -> [n, 1, R, R] or [n, R, R] in [-1, 1], all of the same shape; titles: n texts above the columns;
    labels: [n, R, R], drawn as contours in the first row only.
    """
    stacks = {name: as_slices(images) for name, images in rows.items()}
    first = next(iter(stacks.values()))
    heads = [1.5 if titles is not None else 0.0] + [0.0] * (len(stacks) - 1)
    sheet = _Sheet(first.shape[-1], len(first), heads, left=1.5, foot=_foot_lines(window, labels))
    for i, (name, images) in enumerate(stacks.items()):
        sheet.row_label(i, name)
        for k, image in enumerate(images):
            ax = sheet.slice(i, k, image, sides=sides and i == 0)
            if labels is not None and i == 0:
                contours(ax, labels[k])
            if titles is not None and i == 0:
                sheet.title(0, k, titles[k])
    return sheet.finish(window, labels is not None)


def mixing_figure(a_images, b_images, grids: dict, window=None) -> Figure:
    """Figure 1 of the paper: sources A down the left, sources B along the top, and one block of mixtures per level.

    a_images [na, 1, R, R], b_images [nb, 1, R, R]: the unedited sources; grids: {level: [na, nb, 1, R, R]}, each image
    with that level's styles from B and all others from A. A stands in blue frames, B in orange ones.
    """
    a, b = as_slices(a_images), as_slices(b_images)
    side = a.shape[-1]
    layers = 2 * int(np.log2(side)) - 2
    heads = [1.5] + [1.6 if row == 0 else 0.0 for _ in grids for row in range(len(a))]
    sheet = _Sheet(side, len(b) + 1, heads, foot=_foot_lines(window, None))
    corner = sheet.cell(0, 0)
    size = sheet.points * min(1.0, sheet.cell_px / (5.6 * sheet.line))
    corner.text(0.5, 0.66, "sources B →", color=COLOR_B, ha="center", va="center", fontsize=size, weight="bold")
    corner.text(0.5, 0.34, "sources A ↓", color=COLOR_A, ha="center", va="center", fontsize=size, weight="bold")
    corner.set_axis_off()
    for k, image in enumerate(b):
        sheet.slice(0, k + 1, image, sides=True, frame=COLOR_B)
        sheet.title(0, k + 1, f"B{k + 1}", COLOR_B)
    row = 1
    for level, grid in grids.items():
        grid = as_slices(np.asarray(grid).reshape(-1, side, side)).reshape(len(a), len(b), side, side)
        known = level in ("coarse", "middle", "fine")
        sheet.heading(row, f"{describe_level(level, layers) if known else level} from B, all else from A")
        for i in range(len(a)):
            ax = sheet.slice(row, 0, a[i], frame=COLOR_A)
            ax.text(
                0.05,
                0.95,
                f"A{i + 1}",
                transform=ax.transAxes,
                color=COLOR_A,
                va="top",
                fontsize=size,
                path_effects=EDGE,
            )
            for k in range(len(b)):
                sheet.slice(row, k + 1, grid[i, k])
            row += 1
    return sheet.finish(window, False)


def traversal_figure(
    images,
    steps,
    window=None,
    originals=None,
    labels=None,
    names=None,
    toward: str = "tumor",
    limit: float | None = None,
) -> Figure:
    """Figure 2 of the paper: slices along a direction, and below each row its signed change against step 0.

    images [B, S, 1, R, R] in [-1, 1]; steps [S] with one 0, whose image (the unedited reconstruction) is framed;
    originals [B, 1, R, R]: the slices themselves, drawn first; labels [B, R, R]: contours on the originals; names: B
    row labels; limit: end of the difference scale in HU (without window: in image units); None: the largest change,
    rounded up.
    """
    steps = np.asarray(steps, dtype=float)
    images = np.asarray(images, dtype=float)
    images = images.reshape(len(images), len(steps), *images.shape[-2:])
    zero = int(np.flatnonzero(steps == 0)[0])
    hu = (window.hi - window.lo) / 2 if window is not None else 1.0
    seen = images.clip(-1, 1)  # as drawn
    change = (seen - seen[:, zero, None]) * hu
    limit = _round_up(np.abs(change).max()) if limit is None else limit
    extra = 0 if originals is None else 1
    names = [f"slice {i + 1}" for i in range(len(images))] if names is None else names
    heads = [2.9] + [0.0, 0.35] * len(images)
    foot = (2.4 if window is not None else 0.0) + 2.4 + 1.4
    sheet = _Sheet(images.shape[-1], len(steps) + extra, heads[: 2 * len(images)], left=1.5, foot=foot)
    sheet.span_title(extra, len(steps) + extra, f"walk towards {toward}, in steps →")
    for i in range(len(images)):
        sheet.row_label(2 * i, names[i])
        sheet.row_label(2 * i + 1, "change", MUTED)
        if extra:
            ax = sheet.slice(2 * i, 0, as_slices(originals)[i], sides=i == 0)
            if labels is not None:
                contours(ax, labels[i])
        for k, step in enumerate(steps):
            frame = TEXT if k == zero else None
            sheet.slice(2 * i, k + extra, images[i, k], sides=i == 0 and not extra and k == 0, frame=frame)
            ax = sheet.cell(2 * i + 1, k + extra)
            _draw(ax, change[i, k], DIFFERENCE, limit)
            if i == 0:
                sheet.title(0, k + extra, step_name(step))
    if extra:
        sheet.title(0, 0, "CT slice")
    sheet.bar(DIFFERENCE, -limit, limit, "change in HU" if window is not None else "change", foot - 3.8)
    return sheet.finish(window, labels is not None and bool(extra), "framed: step 0, the reconstruction")


USUAL = [["loss_d", "loss_g"], ["real_score", "fake_score"], ["r1"], ["loss"], ["w_error"], ["image_error"]]
NAMES = {"r_t": "r_t = mean sign D(real)", "p": "p, augmented"}  # others: the column's name
MEASURED = {
    "frechet": "Fréchet distance",
    "frechet_floor": "floor: real slices",
    "recall": "recall",
    "recall_train": "among patients",
    "liver_dice": "Dice of livers",
    "liver_dice_train": "among patients",
}


def curves(log, columns: list[list[str]] | None = None, x: str | None = None) -> Figure:
    """Training log: one panel per list of columns, each column once thin and once as its running median.

    log: DataFrame such as Run.log(); columns: None takes what the log has of the usual ones; x: None takes kimg.
    """
    return _panels(log, columns or _present(log, USUAL), x or ("kimg" if "kimg" in log else log.columns[0]))


def training_curves(log, distances=None, columns: int = 1) -> Figure:
    """`curves`, and how a training of a generator fares: r_t with p where p is in use, and measured distances.

    log: DataFrame such as Run.log(); distances: DataFrame with the columns kimg, frechet and perhaps others of
    `evaluation.fidelity.Distances` (recall and liver Dice have a panel of their own, beside what slices reach), or None;
    columns: panels beside each other.
    """
    adapted = [name for name in ("r_t", "p") if name in log and (name == "r_t" or log["p"].abs().max() > 0)]
    panels = _present(log, USUAL) + ([adapted] if adapted else [])
    return _panels(log, panels, "kimg" if "kimg" in log else log.columns[0], columns, distances)


def _present(log, panels: list[list[str]]) -> list[list[str]]:
    return [have for names in panels if (have := [name for name in names if name in log])]


def _panels(log, panels: list[list[str]], x: str, columns: int = 1, distances=None) -> Figure:
    """The charts in reading order; the last one is as wide as the figure where it stands alone in its row."""
    drawn = [] if distances is None else _measured(distances)
    count = len(panels) + len(drawn)
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (6.4 if columns == 1 else 5.0 * columns, (1.9 if columns == 1 else 2.2) * rows + 0.5)
    figure = SlideFigure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    order = [*range(count), *[count - 1] * (rows * columns - count)]
    places = figure.subplot_mosaic(np.reshape(order, (rows, columns)).tolist(), sharex=True)
    for k, names in enumerate(panels):
        for i, name in enumerate(names):
            y = log[name].astype(float)
            smooth = y.rolling(max(1, len(y) // 20), center=True, min_periods=1).median()
            label = NAMES.get(name, name.replace("_", " "))
            places[k].plot(log[x], y, color=LINES[i], alpha=0.3, linewidth=0.8)
            places[k].plot(log[x], smooth, color=LINES[i], linestyle=DASHES[i % 4], linewidth=1.8, label=label)
    for k, names in enumerate(drawn, len(panels)):
        for i, (name, yardstick) in enumerate(names):
            style = {"color": LINES[i], "marker": "os"[i], "markersize": 4, "linewidth": 1.8}
            places[k].plot(distances["kimg"], distances[name], label=MEASURED[name], **style)
            if yardstick in distances:
                places[k].plot(distances["kimg"], distances[yardstick], "--", color=LINES[i], label=MEASURED[yardstick])
        places[k].set_yscale("log" if names[0][0] == "frechet" else "linear")  # it falls by orders of magnitude
    for k, ax in places.items():
        _chart(ax)
        # Above the lines: a small chart has no free corner.
        place = {"loc": "lower left", "bbox_to_anchor": (0, 0.96), "ncols": 2, "borderpad": 0, "columnspacing": 1.0}
        ax.legend(fontsize=11, frameon=False, handlelength=1.6, **place)
        if k >= order[-columns]:
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("images seen, in thousands" if x == "kimg" else x, fontsize=12)
    return figure


def _measured(distances) -> list[list[tuple[str, str]]]:
    """Panels of measured columns, each with its yardstick; those that hold no number are left out."""
    panels = [[("frechet", "frechet_floor")], [("recall", "recall_train"), ("liver_dice", "liver_dice_train")]]
    return [have for names in panels if (have := [pair for pair in names if _told(distances, pair[0])])]


def _told(distances, name: str) -> bool:
    return name in distances and bool(distances[name].notna().any())


def lines(x, series: dict, xlabel: str, ylabel: str, bands: dict | None = None, zero: bool = True) -> Figure:
    """Lines over x: series name -> y [len(x)]; bands: name -> (low, high), drawn as a shade below its line."""
    figure = SlideFigure(figsize=(6.4, 3.4), dpi=DPI, facecolor="white", layout="constrained")
    ax = figure.subplots()
    if zero:
        ax.axhline(0, color="#888888", linewidth=0.8)
    for i, (name, y) in enumerate(series.items()):
        if bands and name in bands:
            ax.fill_between(x, *bands[name], color=LINES[i], alpha=0.18, linewidth=0)
        ax.plot(x, y, color=LINES[i], linestyle=DASHES[i % 4], marker="osD^"[i % 4], markersize=4, label=name)
    _chart(ax)
    ax.set_xlabel(xlabel, fontsize=12)
    ax.set_ylabel(ylabel, fontsize=12)
    return figure


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


def step_name(step: float) -> str:
    """+1.5, 0, −2: with a true minus sign."""
    return "0" if step == 0 else f"{step:+g}".replace("-", "−")


class _Sheet:
    """Cells on a dark panel, laid out in whole pixels. heads: lines of text above each row; left: lines beside it."""

    def __init__(self, side: int, columns: int, heads: list[float], left: float = 0.0, foot: float = 0.0):
        whole = round(min(TARGET / columns, LARGEST_CELL) / side)
        self.cell_px = side * whole if whole else int(TARGET / columns)
        self.gap = max(4, self.cell_px // 32)
        inner = columns * (self.cell_px + self.gap) - self.gap
        self.line = max(0.036 * inner, 17.0)  # height of a line of text, in pixels
        self.points = self.line / 1.5 * 72 / DPI
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
        size = (self.width / DPI, self.height / DPI)
        self.figure = SlideFigure(figsize=size, dpi=DPI, facecolor=PANEL)
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float):
        """Axes at pixels from the top left corner."""
        bottom = 1 - (y + height) / self.height
        return self.figure.add_axes((x / self.width, bottom, width / self.width, height / self.height))

    def x(self, column: int) -> int:
        return self.left + column * (self.cell_px + self.gap)

    def cell(self, row: int, column: int):
        ax = self.axes(self.x(column), self.tops[row], self.cell_px, self.cell_px)
        ax.set_facecolor(PANEL)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        return ax

    def slice(self, row: int, column: int, image, sides: bool = False, frame: str | None = None):
        ax = self.cell(row, column)
        _draw(ax, image, "gray", 1.0)
        if sides:
            size = min(self.points, self.cell_px * 0.13 * 72 / DPI)
            for x, text, side in (
                (0.03, "R", "left"),
                (0.97, "L", "right"),
            ):  # the patient's sides; air lies there
                style = {"color": MUTED, "fontsize": size, "ha": side, "va": "bottom", "path_effects": EDGE}
                ax.text(x, 0.03, text, transform=ax.transAxes, **style)
        if frame is not None:
            box = Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, edgecolor=frame, clip_on=False)
            box.set_linewidth(self.gap * 0.8 * 72 / DPI)
            ax.add_patch(box)
        return ax

    def text(self, x: float, y: float, text: str, room: float, color: str = TEXT, **style):
        """Text at pixels from the top left, made smaller where it would not fit into `room` pixels."""
        style = {"fontsize": self.points, "va": "center", "ha": "center"} | style
        artist = self.figure.text(x / self.width, 1 - y / self.height, text, color=color, **style)
        box = artist.get_window_extent(self.canvas.get_renderer())
        length = box.height if style.get("rotation") else box.width
        if length > room:
            artist.set_fontsize(style["fontsize"] * room / length)
        return artist

    def title(self, row: int, column: int, text: str, color: str = TEXT) -> None:
        y = self.tops[row] - 0.75 * self.line
        self.text(self.x(column) + self.cell_px / 2, y, text, self.cell_px + self.gap / 2, color)

    def heading(self, row: int, text: str) -> None:
        y = self.tops[row] - 0.75 * self.line
        self.text(self.left, y, text, self.width - self.left - self.margin, ha="left")

    def span_title(self, first: int, end: int, text: str) -> None:
        middle, room = (self.x(first) + self.x(end)) / 2, self.x(end) - self.x(first)
        self.text(middle, self.tops[0] - 2.1 * self.line, text, room, MUTED)

    def row_label(self, row: int, text: str, color: str = TEXT) -> None:
        y = self.tops[row] + self.cell_px / 2
        self.text(self.left - 0.85 * self.line, y, text, self.cell_px, color, rotation=90)

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
        ax.tick_params(colors=TEXT, labelsize=0.9 * self.points, length=2, width=0.6, pad=2)
        ax.spines[:].set_color(MUTED)
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
            self.text(x, self.height - 0.9 * self.line, note, room, MUTED, ha="right" if outlines else "left")
        return self.figure


def _foot_lines(window, labels) -> float:
    return (2.4 if window is not None else 0.0) + (1.4 if labels is not None else 0.0)


def _draw(ax, image, colors, limit: float) -> None:
    image = np.asarray(image, dtype=float)
    shown_px = ax.get_position().width * ax.figure.get_figwidth() * DPI
    how = "nearest" if shown_px >= image.shape[-1] else "antialiased"
    ax.imshow(image, cmap=colors, vmin=-limit, vmax=limit, interpolation=how)


def _round_up(value: float) -> float:
    """The next round number that is not smaller."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9)))


def _chart(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=11)
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(fontsize=11, frameon=False, loc="best")
