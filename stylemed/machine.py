"""What a number was measured on: processor, GPU, versions, commit."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "nibabel", "jupyter-book")


def machine() -> dict[str, Any]:
    """CPU, GPU and versions, for the run's record."""
    gpu = None
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        gpu = answer.stdout.strip().splitlines()[0] if answer.returncode == 0 and answer.stdout.strip() else None
    versions = {"python": platform.python_version()}
    for package in VERSIONS:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": _processor(), "gpu": gpu, "versions": versions}


def _processor() -> str:
    """Name, family and model, and the widest vectors: what decides in which order sums are rounded."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().split("\n\n")[0] if info.is_file() else ""
    lines = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    details = [f"{word} {lines[key]}" for word, key in (("family", "cpu family"), ("model", "model")) if key in lines]
    flags = lines.get("flags", "").split()
    widest = next(
        (name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX")) if flag in flags), None
    )
    # Torch obeys this variable and then rounds as a lesser processor does.
    widest = os.environ.get("ATEN_CPU_CAPABILITY", widest)
    name = lines.get("model name") or platform.processor() or platform.machine()
    details += [widest] if widest else []
    return f"{name} ({', '.join(details)})" if details else name


def commit(folder: Path) -> str | None:
    """The commit that is checked out in a folder, "+" behind it where files differ; None where there is no git checkout."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)

    try:
        found = git("rev-parse", "HEAD")
    except OSError:
        return None
    if found.returncode != 0:
        return None
    return found.stdout.strip() + ("+" if git("status", "--porcelain").stdout.strip() else "")
