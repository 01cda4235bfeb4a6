"""What the frame `body` changes: how much of an image is body, and that nothing of liver and tumors is lost.

    python benchmarks/body_frame.py SOURCE --resolution 64 [--include GLOB]

Prepares SOURCE in both frames in a temporary folder and prints a table, a row per modality and frame.
body: share of an image that is body, air within it too; where CT was cut off above fat, that is what muscles and ribs enclose.
cut: pixels of liver, in the volumes, that lie outside of the square. edge: stored pixels of liver at the image's edge.
area: liver of all slices in mm2, against the frame `image`. with tumor: slices.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from stylemed.data import SliceStore, find_cases, prepare, read_case
from stylemed.data.body import ABOVE_CUT, BODY_HU, DARKEST_FAT_HU, SIGNAL, body_outline, body_square


def body_share(store, rows) -> float:
    """Mean share of the image that is body."""
    shares = []
    for _, part in store.slices.iloc[rows].groupby("case"):
        hu, liver = np.asarray(store.hu[part.index]), np.asarray(store.labels[part.index]) > 0
        if part["modality"].iloc[0] == "MR":
            least = SIGNAL * np.percentile(hu[~liver], 99)
        else:
            least = BODY_HU if hu.min() < DARKEST_FAT_HU else hu.min() + ABOVE_CUT
        fat_seen = least <= DARKEST_FAT_HU or part["modality"].iloc[0] == "MR"
        dense = (hu > least) | liver
        shares += [body_outline(dense[i : i + 1], fat_seen).mean() for i in range(len(dense))]
    return float(np.mean(shares))


def cut_off(cases) -> dict[str, int]:
    """Pixels of liver of each modality that are not wholly within the square."""
    lost = {}
    for case in cases:
        volume = read_case(case, liver_only=True)
        square = body_square(volume)
        lost.setdefault(case.modality, 0)
        if square is None:
            continue
        _, y, x = np.nonzero(volume.labels)
        outside = np.zeros(len(y), bool)
        for place, start, size in zip((y, x), square, volume.spacing_mm[1:], strict=False):
            outside |= (place * size < start - 1e-6) | ((place + 1) * size > start + square[2] + 1e-6)
        lost[case.modality] += int(outside.sum())
    return lost


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--include")
    asked = parser.parse_args()
    cut = cut_off(find_cases(asked.source, asked.include))
    print("| modality | frame | cases | slices | body, % | mm per pixel | cut | edge | area | with tumor |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for frame in ("image", "body"):
            out = Path(folder) / frame
            prepare(asked.source, out, asked.resolution, frame=frame, include=asked.include, progress=False)
            stores[frame] = SliceStore.open(out)
        for modality in sorted(cut):
            first = None
            for frame, store in stores.items():
                rows = store.select(modality=modality)
                table, labels = store.slices.iloc[rows], np.asarray(store.labels[rows]) > 0
                area = float((table["liver_px"] * table["mm_px"] ** 2).sum())
                first = first or area
                edge = labels.copy()
                edge[:, 1:-1, 1:-1] = False
                print(
                    f"| {modality} | {frame} | {table['case'].nunique()} | {len(rows)} | {100 * body_share(store, rows):.1f} | "
                    f"{table['mm_px'].min():.2f}–{table['mm_px'].max():.2f} | {cut[modality] if frame == 'body' else 0} | "
                    f"{edge.sum()} | {area / first:.4f} | {(table['tumor_px'] > 0).sum()} |"
                )


if __name__ == "__main__":
    main()
