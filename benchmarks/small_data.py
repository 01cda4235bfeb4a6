"""Does adaptive augmentation help on 50 slices? Three seeds with and three without, the same images seen.

    python benchmarks/small_data.py --store STORE --runs RUNS --kimg 20 --out curves.png

Of the store's `train` slices 50 are shown, spread over the patients; the Fréchet distance is taken from those that are not shown.
A run that was stopped goes on. `--only none-0` trains one of the six, to run them side by side.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from stylemed.data.store import SliceDataset, SliceStore
from stylemed.evaluation import Distances, read_distances
from stylemed.training import Run, train_gan
from stylemed.training.schedule import all_every

SHOWN, SEEDS, MODES = 50, (0, 1, 2), ("none", "ada")
# Growing would add a second thing that changes with time.
CHANGES = {"ada_kimg": 50.0, "augment_p": 0.0, "tick_kimg": 0.2, **all_every(1.0)}


class Part:
    """Some slices of a data set."""

    def __init__(self, whole: SliceDataset, positions: list[int]):
        self.whole, self.positions = whole, positions
        self.resolution, self.channels, self.metadata = whole.resolution, whole.channels, whole.metadata

    def __len__(self) -> int:
        return len(self.positions)

    def images(self, positions):
        return self.whole.images([self.positions[p] for p in positions])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--kimg", type=float, default=20.0)
    parser.add_argument("--preset", default="ct-64")
    parser.add_argument("--only", help="one of none-0, none-1, …, ada-2")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("_build/benchmarks/small_data.png"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    whole = SliceDataset(SliceStore.open(options.store), split="train")
    shown = np.linspace(0, len(whole) - 1, SHOWN).round().astype(int).tolist()
    others = sorted(set(range(len(whole))) - set(shown))
    for seed in SEEDS:
        for mode in MODES:
            if options.only in (None, f"{mode}-{seed}"):
                train_gan(
                    Part(whole, shown),
                    options.runs / f"{mode}-{seed}",
                    options.preset,
                    kimg=options.kimg,
                    seed=seed,
                    on_snapshot=Distances(Part(whole, others), count=250),
                    augment=mode,
                    start_resolution=whole.resolution,
                    **CHANGES,
                )
    if options.only is None:
        report(options)


def report(options) -> None:
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    print("| run | images (thousands) | r_t, last tenth | p | Fréchet, least | at kimg | Fréchet, last |")
    print("|---|---|---|---|---|---|---|")
    for mode, colour in zip(MODES, ("#d55e00", "#0072b2"), strict=True):
        for seed in SEEDS:
            folder = options.runs / f"{mode}-{seed}"
            log, distances = Run(folder).log(), read_distances(folder)
            style = {"color": colour, "linestyle": ("-", "--", ":")[seed], "label": f"{mode}, seed {seed}"}
            top.plot(distances.kimg, distances.frechet, **style)
            r_t = log.r_t.rolling(10, min_periods=1).mean()
            bottom.plot(log.kimg, r_t, **style)
            best = distances.loc[distances.frechet.idxmin()]
            print(
                f"| {mode}-{seed} | {log.kimg.iloc[-1]:.1f} | {log.r_t.tail(len(log) // 10).mean():.2f} | {log.p.iloc[-1]:.2f} "
                f"| {best.frechet:.0f} | {best.kimg:.0f} | {distances.frechet.iloc[-1]:.0f} |"
            )
    top.axhline(
        distances.frechet_floor.iloc[0], color="#555555", linewidth=1, label="floor: halves of the slices not shown"
    )
    top.set_ylabel("Fréchet distance from slices not shown")
    top.set_yscale("log")
    bottom.axhline(0.6, color="#555555", linewidth=1)
    bottom.set_ylabel("r_t (mean of ten entries)")
    bottom.set_xlabel("images shown, in thousands")
    top.legend(frameon=False, ncols=2, fontsize=9)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=110)
    print(f"curves: {options.out}")


if __name__ == "__main__":
    main()
