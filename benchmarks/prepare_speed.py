"""`prepare` against a plain loop with get_fdata(): seconds, and peak memory of the process tree.

    python benchmarks/prepare_speed.py SOURCE --include 20001,20007 --resolution 512
    python benchmarks/prepare_speed.py SOURCE --include 20001,20007 --copies 26

The plain loop is what a first script does: load volume and segmentation as float64, keep the slices with liver, bring them to the
resolution, save. Both write the same number of slices. `--copies` lays so many copies side by side (patients of their own): memory
should stay where it was, and time should grow in proportion.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


def plain(source: str, out: str, resolution: int) -> None:
    import nibabel as nib
    import numpy as np
    from scipy import ndimage

    slices, labels = [], []
    for path in sorted(Path(source).glob("volume-*.nii.gz")):
        hu = nib.load(path).get_fdata()
        mask = nib.load(path.with_name(path.name.replace("volume", "segmentation"))).get_fdata()
        for k in range(hu.shape[2]):
            if mask[..., k].any():
                zoom = resolution / hu.shape[0]
                slices.append(ndimage.zoom(hu[..., k], zoom, order=1) if zoom != 1 else hu[..., k])
                labels.append(ndimage.zoom(mask[..., k], zoom, order=0) if zoom != 1 else mask[..., k])
    np.save(Path(out) / "hu.npy", np.stack(slices).astype(np.int16))
    np.save(Path(out) / "labels.npy", np.stack(labels).astype(np.uint8))


def ours(source: str, out: str, resolution: int) -> None:
    from stylemed.data import prepare

    prepare(source, Path(out) / "store", resolution, workers=2, progress=False)


def measured(kind: str, source: Path, resolution: int) -> tuple[float, float, int]:
    """Seconds, peak MiB of the process tree, and slices, of a fresh process."""
    import numpy as np
    import psutil

    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, __file__, kind, str(source), out, str(resolution)])
        peak = 0

        def watch():
            nonlocal peak
            while process.poll() is None:
                try:
                    tree = [me := psutil.Process(process.pid), *me.children(recursive=True)]
                    peak = max(peak, sum(p.memory_full_info().pss for p in tree))  # shared pages count once
                except psutil.Error:
                    pass
                time.sleep(0.02)

        thread = threading.Thread(target=watch)
        thread.start()
        if process.wait():
            sys.exit(f"{kind} failed")
        seconds = time.perf_counter() - started
        thread.join()
        file = next(Path(out).rglob("labels.npy"))
        return seconds, peak / 2**20, len(np.load(file, mmap_mode="r"))


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ("plain", "ours"):
        kind, source, out, resolution = sys.argv[1:]
        return {"plain": plain, "ours": ours}[kind](source, out, int(resolution))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--include", required=True, help="numbers of the volumes, separated by commas")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        numbers = options.include.split(",")
        for i in range(max(options.copies, len(numbers))):
            for kind in ("volume", "segmentation"):
                shutil.copy(
                    options.source / f"{kind}-{numbers[i % len(numbers)]}.nii.gz", folder / f"{kind}-{i + 1}.nii.gz"
                )
        kinds = ("ours",) if options.copies else ("plain", "ours")
        print("| | seconds | peak MiB of the process tree | slices |\n|---|---|---|---|")
        for kind in kinds:
            runs = sorted(measured(kind, folder, options.resolution) for _ in range(options.repeats))
            spread = f"{runs[len(runs) // 2][0]:.1f} ({runs[0][0]:.1f} to {runs[-1][0]:.1f})"
            name = "plain loop" if kind == "plain" else f"prepare, {max(options.copies, len(numbers))} cases"
            print(f"| {name} | {spread} | {max(run[1] for run in runs):.0f} | {runs[0][2]} |", flush=True)


if __name__ == "__main__":
    main()
