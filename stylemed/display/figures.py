"""Figures of CT slices: one fixed grey window, no automatic contrast, no smoothing, sides marked, room for every label.

Slices are [-1, 1] arrays as the store and the generator give them: row 0 is anterior, column 0 the patient's right.
-1 is always black and 1 always white. Each slice pixel is drawn as a whole number of figure pixels (interpolation
"nearest") as long as the slice is smaller than its place; a larger slice is reduced with "antialiased". Pictures of
slices stand on a dark panel of their own, charts on a white one, so both look the same on a light and on a dark page.
Text is a fixed part of the width, so that it can be read when the figure is as wide as a phone.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from stylemed.display.sheet import (
    COLOR_A,
    COLOR_B,
    DIFFERENCE,
    DPI,
    EDGE,
    MUTED,
    TEXT,
    Sheet,
    SlideFigure,
    as_slices,
    contours,
    draw,
    foot_lines,
)
from stylemed.latent.mixing import describe_level

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: safe for colour blindness
DASHES = ("-", "--", "-.", ":")
LEVEL_COLORS = {"coarse": LINES[0], "middle": LINES[2], "fine": LINES[1]}  # of styles, in every figure


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
    sheet = Sheet(images.shape[-1], columns, [head] * rows, foot=foot_lines(window, labels))
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
    sheet = Sheet(first.shape[-1], len(first), heads, left=1.5, foot=foot_lines(window, labels))
    for i, (name, images) in enumerate(stacks.items()):
        sheet.row_label(i, name)
        for k, image in enumerate(images):
            ax = sheet.slice(i, k, image, sides=sides and i == 0)
            if labels is not None and i == 0:
                contours(ax, labels[k])
            if titles is not None and i == 0:
                sheet.title(0, k, titles[k])
    return sheet.finish(window, labels is not None)


def mixing_figure(a_images, b_images, grids: dict, window=None, paper: bool = False, weight: float = 1.0) -> Figure:
    """Figure 1 of the paper: two sets of sources, and one block of mixtures per level.

    a_images [na, 1, R, R], b_images [nb, 1, R, R]: the unedited sources; grids: {level: [na, nb, 1, R, R]}, each image
    with that level's styles from B (weight: so far on the way there) and all others from A. A stands in blue frames, B in orange
    ones. For the page sources A stand down the side; paper=True: along the top, as in the paper, on white, 170 mm wide at 300 dpi.
    """
    a, b = as_slices(a_images), as_slices(b_images)
    side = a.shape[-1]
    layers = 2 * int(np.log2(side)) - 2
    sources = {"A": (a, "#0072b2" if paper else COLOR_A), "B": (b, "#d55e00" if paper else COLOR_B)}
    across, down = ("A", "B") if paper else ("B", "A")
    (top, top_color), (beside, beside_color) = sources[across], sources[down]
    between = 0.5 if paper else 1.6  # lines of text above a block
    heads = [1.5] + [between if row == 0 else 0.0 for _ in grids for row in range(len(beside))]
    sheet = Sheet(side, len(top) + 1, heads, 1.6 if paper else 0.0, foot_lines(window, None), paper)
    corner = sheet.cell(0, 0)
    size = sheet.points * min(1.0, sheet.cell_px / (5.6 * sheet.line))
    style = {"ha": "center", "va": "center", "fontsize": size, "weight": "bold"}
    corner.text(0.5, 0.66, f"sources {across} →", color=top_color, **style)
    corner.text(0.5, 0.34, f"sources {down} ↓", color=beside_color, **style)
    corner.set_axis_off()
    for k, image in enumerate(top):
        sheet.slice(0, k + 1, image, sides=True, frame=top_color)
        sheet.title(0, k + 1, f"{across}{k + 1}", top_color)
    row = 1
    share = "" if weight == 1 else f", weight {weight:g}"
    for level, grid in grids.items():
        grid = as_slices(np.asarray(grid).reshape(-1, side, side)).reshape(len(a), len(b), side, side)
        told = f"{describe_level(level, layers) if isinstance(level, str) else level} from B{share}"
        if paper:
            grid = grid.swapaxes(0, 1)
            sheet.row_label(row, told, rows=len(beside))
        else:
            sheet.heading(row, f"{told}, all else from A")
        for i in range(len(beside)):
            ax = sheet.slice(row, 0, beside[i], frame=beside_color)
            style = {"color": COLOR_B if paper else COLOR_A, "va": "top", "fontsize": size, "path_effects": EDGE}
            ax.text(0.05, 0.95, f"{down}{i + 1}", transform=ax.transAxes, **style)
            for k in range(len(top)):
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
    hu = window.per_unit if window is not None else 1.0
    seen = images.clip(-1, 1)  # as drawn
    change = (seen - seen[:, zero, None]) * hu
    limit = _round_up(np.abs(change).max()) if limit is None else limit
    extra = 0 if originals is None else 1
    names = [f"slice {i + 1}" for i in range(len(images))] if names is None else names
    heads = [2.9] + [0.0, 0.35] * len(images)
    foot = (2.4 if window is not None else 0.0) + 2.4 + 1.4
    sheet = Sheet(images.shape[-1], len(steps) + extra, heads[: 2 * len(images)], left=1.5, foot=foot)
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
            draw(ax, change[i, k], DIFFERENCE, limit)
            if i == 0:
                sheet.title(0, k + extra, step_name(step))
    if extra:
        sheet.title(0, 0, "CT slice")
    sheet.bar(DIFFERENCE, -limit, limit, "change in HU" if window is not None else "change", foot - 3.8)
    return sheet.finish(window, labels is not None and bool(extra), "framed: step 0, the reconstruction")


def reconstruction_figure(real, again, window, limit: float = 100.0, names=("slice", "again"), titles=None) -> Figure:
    """Images, what became of them, and the signed difference in HU: three rows, a column for each image.

    real, again [n, 1, R, R] in [-1, 1]; window: the Window they were made with; limit: end of the scale, HU.
    """
    real, again = as_slices(real), as_slices(again)
    head = 1.5 if titles is not None else 0.0
    sheet = Sheet(real.shape[-1], len(real), [head, 0.0, 0.0], left=1.5, foot=foot_lines(window, None) + 2.4)
    for row, name in enumerate((*names, "difference")):
        sheet.row_label(row, name)
    for k in range(len(real)):
        sheet.slice(0, k, real[k], sides=k == 0)
        sheet.slice(1, k, again[k])
        draw(sheet.cell(2, k), (again[k] - real[k]) * window.per_unit, DIFFERENCE, limit)
        if titles is not None:
            sheet.title(0, k, titles[k])
    sheet.bar(DIFFERENCE, -limit, limit, "difference in HU", 2.4)
    return sheet.finish(window, False)


def ways_figure(real, ways: dict, window, names=None, limit: float = 100.0) -> Figure:
    """Slices, what several ways through latent space made of them, and below each row the signed error in HU.

    real [n, 1, R, R] in [-1, 1]; ways: name -> [n, 1, R, R]; names: n row labels; limit: end of the scale of errors, HU. Each
    error has its mean absolute value over the image beside it.
    """
    real = as_slices(real)
    ways = {name: as_slices(images).clip(-1, 1) for name, images in ways.items()}
    names = [f"slice {i + 1}" for i in range(len(real))] if names is None else names
    heads = [1.5] + [0.0, 0.35] * len(real)
    foot = foot_lines(window, None) + 2.4
    sheet = Sheet(real.shape[-1], 1 + len(ways), heads[: 2 * len(real)], left=1.5, foot=foot)
    sheet.title(0, 0, "slice")
    for k, name in enumerate(ways):
        sheet.title(0, k + 1, name)
    for i, image in enumerate(real):
        sheet.row_label(2 * i, names[i])
        sheet.row_label(2 * i + 1, "error", MUTED)
        sheet.slice(2 * i, 0, image, sides=i == 0)
        for k, images in enumerate(ways.values()):
            error = (images[i] - image) * window.per_unit
            sheet.slice(2 * i, k + 1, images[i])
            ax = sheet.cell(2 * i + 1, k + 1)
            draw(ax, error, DIFFERENCE, limit)
            style = {
                "color": TEXT,
                "fontsize": min(sheet.points, 0.13 * sheet.cell_px * 72 / DPI),
                "path_effects": EDGE,
            }
            ax.text(0.04, 0.03, f"{np.abs(error).mean():.0f} HU", transform=ax.transAxes, va="bottom", **style)
    sheet.bar(DIFFERENCE, -limit, limit, "error in HU", foot - 2.4)
    return sheet.finish(window, False)


USUAL = [["loss_d", "loss_g"], ["real_score", "fake_score"], ["r1"], ["loss"], ["w_error"], ["image_error"]]
NAMES = {
    "r_t": "r_t, how sure D is of real slices",
    "p": "p, augmented",
}  # others: the column's name
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
        chart_axes(ax)
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
    """Lines over x: series name -> y [len(x)]; bands: name -> (low, high), drawn as a shade below its line.

    Levels of styles have their own colours, here and in `bars`.
    """
    figure = SlideFigure(figsize=(6.4, 3.4), dpi=DPI, facecolor="white", layout="constrained")
    ax = figure.subplots()
    if zero:
        ax.axhline(0, color="#888888", linewidth=0.8)
    for i, (name, y) in enumerate(series.items()):
        color = LEVEL_COLORS.get(name, LINES[i])
        if bands and name in bands:
            ax.fill_between(x, *bands[name], color=color, alpha=0.18, linewidth=0)
        ax.plot(x, y, color=color, linestyle=DASHES[i % 4], marker="osD^"[i % 4], markersize=4, label=name)
    chart_axes(ax)
    ax.set_xlabel(xlabel, fontsize=12)
    ax.set_ylabel(ylabel, fontsize=12)
    return figure


def bars(groups: list[str], series: dict, ylabel: str, intervals: dict | None = None) -> Figure:
    """Bars beside each other for each of `groups`: series name -> values [groups]; intervals: name -> (low, high), as whiskers."""
    figure = SlideFigure(figsize=(6.4, 3.8), dpi=DPI, facecolor="white", layout="constrained")
    ax, width = figure.subplots(), 0.84 / len(series)
    for i, (name, values) in enumerate(series.items()):
        x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        usual = "#777777" if i == 0 or "coarse" in series else LINES[(i - 1) % len(LINES)]
        ax.bar(x, values, 0.92 * width, color=LEVEL_COLORS.get(name, usual), label=name)
        if intervals and name in intervals:
            low, high = (np.asarray(end, dtype=float) for end in intervals[name])
            ax.vlines(x, low, high, color="black", linewidth=1.0)
    chart_axes(ax)
    ax.grid(axis="x", visible=False)
    ax.set_xticks(range(len(groups)), groups)
    ax.set_ylabel(ylabel, fontsize=12)
    return figure


def intervals(names: list[str], table, xlabel: str, zero: str | None = None) -> Figure:
    """A dot with its interval for each name, from above to below: rows value, low, high of a table. zero: what stands at 0."""
    figure = SlideFigure(figsize=(6.4, 0.9 + 0.34 * len(names)), dpi=DPI, facecolor="white", layout="constrained")
    ax, y = figure.subplots(), np.arange(len(names))
    value, low, high = (table[column].to_numpy(dtype=float) for column in ("value", "low", "high"))
    if zero is not None:
        ax.axvline(0, color="#888888", linewidth=1.0)
        ax.set_title(zero, fontsize=11, color="#555555", loc="left")
    apart = (low > 0) | (high < 0) if zero is not None else np.full(len(y), False)
    for sure, ink in ((False, "#777777"), (True, LINES[0])):
        some = apart == sure
        ax.hlines(y[some], low[some], high[some], color=ink, linewidth=1.6)
        ax.plot(value[some], y[some], "o", color=ink, markersize=5)
    chart_axes(ax)
    ax.set_yticks(y, names, fontsize=11)
    ax.invert_yaxis()
    ax.locator_params(axis="x", nbins=6)  # labels of three digits stay apart
    ax.set_xlabel(xlabel, fontsize=12)
    return figure


def heatmap(table, name: str, ends: tuple[float, float] = (0.0, 1.0), bold=None) -> Figure:
    """A table of numbers as shaded cells with the numbers in them: index down the side, columns along the top.

    ends: values of the palest and the darkest shade; where the first is below 0, of the darkest red and the darkest blue.
    name: what the numbers are; a dash stands where there is none. bold: a table of truth values.
    """
    values, signed = table.to_numpy(dtype=float), ends[0] < 0
    weights = np.where(np.zeros_like(values) if bold is None else bold, "bold", "normal")
    size = (2.2 + 0.62 * values.shape[1], 1.0 + 0.34 * values.shape[0])
    figure = SlideFigure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    ax = figure.subplots()
    shades = ax.imshow(values, cmap="RdBu" if signed else "Blues", vmin=ends[0], vmax=ends[1], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * ends[1] if signed else value > np.mean(ends)
        text = f"{round(value, 2) + 0.0:{'+' if signed else ''}.2f}".replace("-", "−") if np.isfinite(value) else "–"
        look = dict(color="white" if dark else "black", weight=weights[row, column])
        ax.text(column, row, text, ha="center", va="center", fontsize=11, **look)
    ax.set_xticks(range(values.shape[1]), [str(label).replace(" ", "\n") for label in table.columns], fontsize=11)
    ax.set_yticks(range(values.shape[0]), table.index, fontsize=11)
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(shades, ax=ax, location="bottom", shrink=0.5, aspect=30, pad=0.02).set_label(name, fontsize=11)
    return figure


def step_name(step: float) -> str:
    """+1.5, 0, −2: with a true minus sign."""
    return "0" if step == 0 else f"{step:+g}".replace("-", "−")


def _round_up(value: float) -> float:
    """The next round number that is not smaller."""
    if not np.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9)))


def chart_axes(ax) -> None:
    """The look of every chart: two spines, a pale grid, where something has a label a legend without a frame above it."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=11)
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    if ax.get_legend_handles_labels()[1]:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 0.98), "ncols": 2, "borderpad": 0, "columnspacing": 1.0}
        ax.legend(fontsize=11, frameon=False, handlelength=1.6, **place)
