"""Images per second of one training alone and of two side by side, by resolution, penalty and how OpenMP's threads wait.

python benchmarks/side_by_side.py --seconds 12
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RATES = {"R1": {"r2_gamma": 0.0}, "R1+R2": {}}


def one(resolution: int, penalty: str, seconds: float) -> None:
    """Print the images per second of preset `phantom-64` at its full resolution; whole rounds of the lazy penalties."""
    import torch
    from train_measures import SmoothImages

    from stylemed.training.gan import GanTrainer
    from stylemed.training.schedule import gan_config

    changes = {"start_resolution": resolution, **RATES[penalty]}
    trainer = GanTrainer(SmoothImages(resolution), gan_config("phantom-64", resolution, **changes), seed=0)
    round_ = trainer.config.r1_interval
    for _ in range(round_):
        trainer.step()
    print("ready", flush=True)
    sys.stdin.readline()  # all begin together
    started, before = time.perf_counter(), trainer.nimg
    while time.perf_counter() - started < seconds:
        for _ in range(round_):
            trainer.step()
    rate = (trainer.nimg - before) / (time.perf_counter() - started)
    print(json.dumps({"rate": rate, "threads": torch.get_num_threads()}))


def measure(processes: int, resolution: int, penalty: str, threads: int, policy: str, seconds: float) -> list[float]:
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": policy}
    command = [sys.executable, __file__, "--one", str(resolution), penalty, "--seconds", str(seconds)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=HERE)
    running = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for process in running:
        process.stdout.readline()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0])["rate"] for process in running]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    if options.one:
        return one(int(options.one[0]), options.one[1], options.seconds)
    print("| side | penalties, every 8th step | threads each | waiting | alone, img/s | two side by side, img/s each |")
    print("|---|---|---|---|---|---|")
    rows = [(side, penalty, 1, "PASSIVE") for side in (32, 64, 128) for penalty in RATES]
    rows += [(64, "R1+R2", 2, "PASSIVE"), (64, "R1+R2", 2, "ACTIVE")]
    for side, penalty, threads, policy in rows:
        alone, both = (measure(n, side, penalty, threads, policy, options.seconds) for n in (1, 2))
        each = ", ".join(f"{rate:.1f}" for rate in both)
        print(f"| {side}² | {penalty} | {threads} | {policy} | {alone[0]:.1f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
