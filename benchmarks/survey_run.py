"""What a trained generator draws: an untruncated grid without selection, and how often and how large its tumors are.

    python benchmarks/survey_run.py RUN --store STORE [--judge JUDGE | --labeller LABELLER] [--samples 5000] --out GRID.png

The reader's answer for the generated images stands beside its answer for slices, `test` ones, where the truth is known too; both
shares are corrected by its sensitivity and specificity there (Rogan and Gladen 1978).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from stylemed.data.store import SliceStore, disc_across
from stylemed.data.truth import truth
from stylemed.evaluation import corrected_share, read_distances, survey_samples
from stylemed.files import write_atomic
from stylemed.latent.mixing import synthesize
from stylemed.training import load_generator
from stylemed.training.reader import Judge, Labeller
from stylemed.training.run import grid_png

SIZES = ((0, 3), (3, 5), (5, 8), (8, np.inf))  # pixels across


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    reader = parser.add_mutually_exclusive_group()
    reader.add_argument("--judge", type=Path)
    reader.add_argument("--labeller", type=Path)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("_build/benchmarks/grid.png"))
    options = parser.parse_args()
    generator, metadata = load_generator(options.run)
    store = SliceStore.open(options.store)
    print(f"{options.run.name}: {metadata['nimg'] / 1000:.0f} kimg, seed {metadata['seed']}, store {store.digest}")
    last = read_distances(options.run).iloc[-1].dropna()
    print(last.to_frame("last distances").T.round(3).to_markdown(index=False))
    write_atomic(options.out, grid_png(grid(generator, options.seed), 8))
    print(f"64 images, untruncated, not selected: {options.out}, {Image.open(options.out).size}")
    if options.judge or options.labeller:
        reader = Judge.load(options.judge) if options.judge else Labeller.load(options.labeller)
        print(tumors(generator, reader, store, options.samples, options.seed).round(3).to_markdown())


def grid(generator, seed: int) -> torch.Tensor:
    z = torch.randn(64, generator.latent_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return synthesize(generator, generator.broadcast(generator.mapping(z)))


def tumors(generator, reader, store, samples: int, seed: int) -> pd.DataFrame:
    """Rows: generated images and test slices; shares found, corrected and true, and the sizes that the reader outlines."""
    rows = store.select("test")
    rows = rows[(store.slices["tumor_known"] == 1).to_numpy()[rows]]
    slices, true = reader.findings(store.images(rows)).table, truth(store, rows)["tumor"].to_numpy() == 1
    found = slices["tumor"].to_numpy() == 1
    errors = found[true].mean(), 1 - found[~true].mean()
    made = survey_samples(generator, reader, samples, seed)
    table = {}
    for name, answers, known in (("generated", made, None), ("test slices", slices, true.mean())):
        share = answers["tumor"].mean()
        across = disc_across(answers["tumor_px"][answers["tumor_px"] > 0])
        table[name] = {"n": len(answers), "found": share, "corrected": corrected_share(share, *errors), "true": known}
        table[name] |= {f"{lo}–{hi} px": ((across >= lo) & (across < hi)).sum() / len(answers) for lo, hi in SIZES}
    print(f"reader on test slices: sensitivity {errors[0]:.3f}, specificity {errors[1]:.3f}")
    return pd.DataFrame.from_dict(table, orient="index")


if __name__ == "__main__":
    main()
