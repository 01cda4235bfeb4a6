"""What is in a slice store, to look at: a contact sheet, and a histogram of the intensities of each label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stylemed.display.figures import LINES, chart_axes, show_slices
from stylemed.display.pixels import stacked
from stylemed.display.sheet import DPI, SlideFigure
from stylemed.statistics import evenly_spaced

LABELS = ("elsewhere", "liver", "tumor")


def contact_sheet(store, count: int = 24, columns: int = 6):
    """Slices spread over the patients and, of each patient, over the height, with liver and tumor outlined.

    store: SliceStore. Above each slice stand patient and split.
    """
    rows = spread_rows(store, count)
    table = store.slices.iloc[rows]
    titles = [f"{patient[-12:]}\n{split}" for patient, split in zip(table["patient"], table["split"], strict=True)]
    labels = np.asarray(store.labels[rows])
    return show_slices(store.images(rows), labels=labels, titles=titles, window=store.window, columns=columns)


def spread_rows(store, count: int) -> np.ndarray:
    """At most `count` rows: patients by turns, each at another height of the liver, the order always the same."""
    table = store.slices.iloc[store.select()]  # without twins
    groups = [group.index.to_numpy() for _, group in table.groupby("patient", sort=True)]
    if len(groups) > count:
        groups = [groups[i] for i in evenly_spaced(len(groups), count)]
    each = -(-count // len(groups))
    rows = []
    for i, group in enumerate(groups):
        places = (np.arange(each) + (i % 5 + 0.5) / 5) / each  # not always the middle slice
        rows += sorted(set(group[np.minimum((places * len(group)).astype(int), len(group) - 1)]))
    return np.array(rows[:count])


def intensity_histogram(store, most: int = 400):
    """Share of the pixels at each intensity, for liver, tumor and the rest; of at most `most` slices.

    Only slices whose tumors are known count for liver and tumor, where there are any.
    """
    rows = store.select()  # without twins
    known = rows[(store.slices["tumor_known"] == 1).to_numpy()[rows]]
    rows = known if len(known) else rows
    rows = rows[evenly_spaced(len(rows), most)]
    hu, labels = np.asarray(store.hu[rows]), np.asarray(store.labels[rows])
    lo, hi = store.window.lo - 50, store.window.hi + 50
    edges = np.linspace(lo, hi, 81)
    figure = SlideFigure(figsize=(6.4, 3.4), dpi=DPI, facecolor="white", layout="constrained")
    ax = figure.subplots()
    for label, name in enumerate(LABELS):
        values = hu[labels == label]
        if len(values):
            share = np.histogram(values, edges)[0] / len(values)
            ax.step(edges[:-1], 100 * share, where="post", color=LINES[label], label=name, linewidth=1.8)
    ax.set_ylim(bottom=0)
    chart_axes(ax)
    ax.set_xlabel("HU" if "CT" in store.windows else "intensity", fontsize=12)
    ax.set_ylabel("% of the label's pixels", fontsize=12)
    ax.axvspan(store.window.lo, store.window.hi, color="#888888", alpha=0.12, linewidth=0)
    ax.annotate("window", (store.window.lo, 0.98), xycoords=("data", "axes fraction"), va="top", fontsize=10, xytext=(4, 0),
                textcoords="offset points")  # fmt: skip
    return figure


def save_inspection(store, path: Path) -> Path:
    """Contact sheet and histogram below each other, as one PNG."""
    page = stacked([contact_sheet(store).png(), intensity_histogram(store).png()])
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path
