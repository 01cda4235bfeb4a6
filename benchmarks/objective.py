"""Which objective keeps variety? One thing changed at a time, the same images seen, judged by distance and variety to `train`.

    python benchmarks/objective.py --store STORE --runs RUNS --labeller LABELLER --kimg 25 [--only mapping-2-0]

Runs go on where they were stopped; with all of them there, the table is printed. `test` is never read.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from stylemed.data.store import SliceDataset, SliceStore
from stylemed.evaluation import Distances, read_distances
from stylemed.training import Run, train_gan
from stylemed.training.reader import Labeller
from stylemed.training.schedule import all_every

RELATIVISTIC = {"loss": "relativistic", "r2_gamma": 0.3}
SETTINGS = {
    "paper-loss-8": {"mapping_layers": 8},
    "mapping-8": {**RELATIVISTIC, "mapping_layers": 8},
    "mapping-4": {**RELATIVISTIC, "mapping_layers": 4},
    "mapping-2": {**RELATIVISTIC, "mapping_layers": 2},
    "mapping-1": {**RELATIVISTIC, "mapping_layers": 1},
    "mapping-8-normalized": {**RELATIVISTIC, "mapping_layers": 8, "mapping_normalized": True},
    "mapping-8-normalized-from-16": {
        **RELATIVISTIC,
        "mapping_normalized": True,
        "start_resolution": 16,
        "stable_kimg": 4.0,
        "fade_kimg": 2.0,
    },
    "mapping-8-normalized-mixing-half": {**RELATIVISTIC, "mapping_normalized": True, "style_mixing": 0.5},
    "paper-loss-8-normalized": {"mapping_normalized": True},
    "mapping-2-batch-16": {**RELATIVISTIC, "mapping_layers": 2, "batch_default": 16, "learning_rate_default": 0.002},
    "mapping-2-little-augmented": {**RELATIVISTIC, "mapping_layers": 2, "augment_p": 0.2, "augment": "fixed"},
}
# Where a setting says nothing else: StyleGAN's own objective, at 32² from the start.
COMMON = {
    "loss": "non-saturating",
    "r2_gamma": 0.0,
    "mapping_normalized": False,
    "stable_kimg": 10.0,
    "fade_kimg": 5.0,
    "ema_kimg": 1.0,
    **all_every(2.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--labeller", type=Path, required=True)
    parser.add_argument("--preset", default="ct-64")
    parser.add_argument("--kimg", type=float, default=25.0)
    parser.add_argument("--only", nargs="*", help=f"SETTING-SEED, such as mapping-2-0; settings: {', '.join(SETTINGS)}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = SliceDataset(SliceStore.open(options.store), split="train")
    for name in options.only or ():
        setting, _, seed = name.rpartition("-")
        train_gan(
            dataset,
            options.runs / name,
            options.preset,
            kimg=options.kimg,
            seed=int(seed),
            on_snapshot=Distances(dataset, reader=Labeller.load(options.labeller)),
            **{"start_resolution": dataset.resolution, **COMMON, **SETTINGS[setting]},
        )
    if not options.only:
        print(report(options.runs).to_markdown(floatfmt=".3g", index=False))


def report(runs: Path) -> pd.DataFrame:
    rows = []
    for folder in sorted(runs.glob("*-[0-9]")):
        last, log = read_distances(folder).iloc[-1], Run(folder).log()
        shown = ["frechet", "kernel", "recall", "liver_dice", "nearest", "nearest_distinct", "spread", "tumor_share"]
        row = {"run": folder.name, "kimg": last.kimg, "img/s": log.images_per_second.median()}
        rows.append(row | {name: last[name] for name in shown})
    levels = {name: last.get(f"{name}_train") for name in ("recall", "liver_dice", "nearest", "spread", "tumor_share")}
    rows.append({"run": "slices", "frechet": last.frechet_floor, **levels})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
