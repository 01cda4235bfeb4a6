"""One process against two that share its batch: loss curves of 200 steps, and the gradients of single steps.

    python benchmarks/two_processes.py --out curves.png

Two gloo processes on the CPU; 32², growing, R1 at every step, minibatch standard deviation in whole groups. Rounding differs
between one process and two, and Adam without momentum makes a full step of a gradient that is nothing but rounding, so the
curves part after some steps; the same in float64 (--float64) shows that nothing else differs.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS, BATCH = 200, 8


def changes() -> dict:
    few = {
        "fmap_base": 512,
        "fmap_max": 32,
        "r1_interval": 1,
        "batch_default": BATCH,
        "augment": "ada",
        "ada_kimg": 5.0,
    }
    return few | {"start_resolution": 16, "stable_kimg": 0.4, "fade_kimg": 0.4, "tick_kimg": BATCH / 1000}


def work(folder: Path, float64: bool) -> None:
    import torch
    from train_measures import SmoothImages

    from stylemed.training import gan_config, train_gan
    from stylemed.training.distributed import join_team
    from stylemed.training.gan import GanTrainer
    from stylemed.training.schedule import all_every

    torch.set_num_threads(1)
    if float64:
        torch.set_default_dtype(torch.float64)
    images = SmoothImages(32, 100)
    team = join_team(torch.device("cpu"))
    gradients = {}
    for lod, nimg in ((0.5, 600), (0.0, 900)):  # learning rate 0: G meets the same D in both
        trainer = GanTrainer(images, gan_config("smoke", 32, **changes(), learning_rate_default=0.0), 0, team=team)
        trainer.nimg = nimg
        trainer.step()
        assert trainer.now.lod == lod
        for name in ("generator", "discriminator"):
            found = [p.grad.flatten() for p in getattr(trainer, name).parameters() if p.grad is not None]
            gradients[f"{name}, lod {lod}"] = torch.cat(found)
    if team.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(gradients, folder / "gradients.pt")
    more = all_every(STEPS * BATCH / 1000)
    train_gan(images, folder / "run", "smoke", kimg=STEPS * BATCH / 1000, progress=False, **changes(), **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("_build/benchmarks/two_processes.png"))
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.float64)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("one", "two")]
        for world, folder in enumerate(folders, start=1):
            run_in(world, folder, ["--float64"] if options.float64 else [])
        report(*folders, options.out)


def run_in(world: int, folder: Path, more: list[str]) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, __file__, "--work", str(folder), *more]
    processes = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in range(world)]
    if any(process.wait() for process in processes):
        sys.exit("a process failed")


def report(one: Path, two: Path, out: Path) -> None:
    import matplotlib.pyplot as plt
    import torch

    from stylemed.training import Run

    a, b = (torch.load(folder / "gradients.pt") for folder in (one, two))
    for name, value in a.items():
        print(f"gradient of the {name}: relative difference {(value - b[name]).norm() / value.norm():.1e}")
    logs = [Run(folder / "run").log() for folder in (one, two)]
    figure, axes = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    for ax, column in zip(axes, ("loss_d", "loss_g"), strict=True):
        for log, label, style in zip(logs, ("one process", "two processes"), ("-", "--"), strict=True):
            ax.plot(range(1, len(log) + 1), log[column], style, label=label)
        away = (logs[0][column] - logs[1][column]).abs()
        near = int((away > 1e-3).argmax()) if (away > 1e-3).any() else len(away)
        print(f"{column}: within 1e-3 for the first {near} steps, mean difference of all {away.mean():.2g}")
        ax.set_ylabel(column.replace("_", " "))
        ax.legend(frameon=False)
    axes[-1].set_xlabel(f"step (batch {BATCH}; growing from 16² to 32² between step 50 and 100)")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(f"curves: {out}")


if __name__ == "__main__":
    main()
