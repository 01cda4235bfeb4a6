"""Kill a training at random moments, start it again each time, and compare its weights with those of an unbroken run.

    python benchmarks/kill_and_resume.py --kills 30

After half of the kills the newest checkpoint is damaged as well. Exits 1 unless both generators are bit-equal and the logs agree
in every column that is not a time. Takes some minutes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KIMG = 10.0


def train(folder: str) -> None:
    import torch
    from train_measures import SmoothImages

    from stylemed.training import train_gan
    from stylemed.training.schedule import all_every

    torch.set_num_threads(1)
    changes = {"fmap_base": 512, "fmap_max": 32, "stable_kimg": 1.6, "fade_kimg": 1.6}
    changes |= {"augment": "ada", "ada_kimg": 20.0, "tick_kimg": 0.16, **all_every(0.16)}
    train_gan(SmoothImages(32, 200), folder, "smoke", kimg=KIMG, progress=False, **changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return train(options.child)
    moments = random.Random(options.seed)
    command = [sys.executable, __file__, "--child"]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        started = time.monotonic()
        subprocess.run([*command, str(whole)], check=True)
        print(f"unbroken run: {time.monotonic() - started:.0f} s")
        kills = 0
        while kills < options.kills:
            before = newest(killed)
            process = subprocess.Popen([*command, str(killed)], stderr=subprocess.PIPE, text=True)
            while newest(killed) == before and process.poll() is None:  # it has to get a little further each time
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 3))
            if process.poll() is not None:
                sys.exit(f"the training ended after {kills} kills: {process.stderr.read()}")
            os.kill(process.pid, signal.SIGKILL)
            said = process.communicate()[1]
            kills += 1
            print(f"kill {kills}: {newest(killed)}" + (f"; it had warned: {said.strip()}" if said else ""), flush=True)
            if kills == options.kills // 2:
                file = killed / newest(killed)
                file.write_bytes(file.read_bytes()[:-1000])
                print(f"        {file.name} cut short", flush=True)
        subprocess.run([*command, str(killed)], check=True)
        sys.exit(0 if compare(whole, killed) else 1)


def newest(run: Path) -> str:
    return max((file.name for file in run.glob("checkpoint-*.pt")), default="")


def compare(whole: Path, killed: Path) -> bool:
    import torch

    from stylemed.training import Run, load_generator

    a, b = (load_generator(run)[0].state_dict() for run in (whole, killed))
    weights = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    times = ["minutes", "images_per_second", "reading_share"]
    logs = Run(whole).log().drop(columns=times).equals(Run(killed).log().drop(columns=times))
    print(f"weights bit-equal: {weights}; logs equal but for times: {logs}")
    return weights and logs


if __name__ == "__main__":
    main()
