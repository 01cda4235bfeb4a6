"""Kill `prepare` at random moments, start it again each time, and compare the store with one made in one go, byte by byte.

python benchmarks/kill_prepare.py --kills 20
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--patients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run = [sys.executable, "-m", "stylemed"]
        subprocess.run(
            [*run, "phantom", "--out", folder / "p", "--patients", str(options.patients), "--size", "128"], check=True
        )
        command = [*run, "prepare", str(folder / "p"), "--resolution", "64"]
        started = time.perf_counter()
        subprocess.run([*command, "--out", str(folder / "whole")], check=True, capture_output=True)
        whole = time.perf_counter() - started
        print(f"in one go: {whole:.1f} s")
        kills = 0
        while kills < options.kills:
            process = subprocess.Popen([*command, "--out", str(folder / "killed")], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
            # Where the store is nearly done, later kills would find nothing to do: begin anew, at other moments.
            time.sleep(moments.uniform(0.2, 1.0) * whole)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                print(
                    f"kill {kills}: {sorted(p.name for p in folder.iterdir() if p.name not in ('p', 'whole'))}",
                    flush=True,
                )
            elif not same(folder / "whole", folder / "killed"):
                sys.exit("the store differs")
            else:
                subprocess.run(["rm", "-r", str(folder / "killed")], check=True)
            process.wait()
        subprocess.run([*command, "--out", str(folder / "killed")], check=True, capture_output=True)
        left = sorted(p.name for p in folder.iterdir())
        equal = same(folder / "whole", folder / "killed")
        print(f"stores byte-equal: {equal}; left in the folder: {left}")
        sys.exit(0 if equal and left == ["killed", "p", "whole"] else 1)


def same(a: Path, b: Path) -> bool:
    names = [sorted(p.name for p in folder.iterdir()) for folder in (a, b)]
    return names[0] == names[1] and all((a / n).read_bytes() == (b / n).read_bytes() for n in names[0])


if __name__ == "__main__":
    main()
