"""The regression run: all chapters anew, their numbers against a baseline, and how a baseline comes to be.

A baseline holds, per chapter and metric, the value with the profile's own seed and a tolerance. Accepting runs
the chapters with several seeds; the tolerance is twice the spread (largest minus smallest) over them, and at
least TINY of the value: about 3.4 standard deviations for three seeds. A number that no seed moves has to repeat.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from stylemed.book.execution import Profile, chapter_names, checkout, machine, read_profile, run_chapter
from stylemed.chapters import write_json
from stylemed.errors import BadInput

TINY = 1e-6  # relative
SPREADS = 2.0

Metrics = dict[str, dict[str, float | None]]  # chapter -> metric -> value


@dataclass(frozen=True)
class Difference:
    """One number that is not what the baseline says."""

    chapter: str
    metric: str
    old: float | None
    new: float | None
    tolerance: float
    why: str = "left its tolerance"

    def __str__(self) -> str:
        return (
            f"{self.chapter}: {self.metric}: {_text(self.old)} -> {_text(self.new)} "
            f"(tolerance {self.tolerance:.3g}; {self.why})"
        )


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.8g}"


def read_metrics(build: Path) -> Metrics:
    """All numbers that the chapters of one build folder recorded."""
    files = sorted((build / "metrics").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def compare(metrics: Metrics, baseline: dict[str, Any]) -> list[Difference]:
    """Every number outside its tolerance, and every one that is gone or new."""
    found = []
    known = baseline["chapters"]
    for chapter in sorted(known.keys() | metrics.keys()):
        old, new = known.get(chapter, {}), metrics.get(chapter, {})
        for metric in sorted(old.keys() | new.keys()):
            if metric not in new:
                entry = old[metric]
                found.append(Difference(chapter, metric, entry["value"], None, entry["tolerance"], "is gone"))
            elif metric not in old:
                found.append(Difference(chapter, metric, None, new[metric], 0.0, "is new"))
            elif not _within(new[metric], old[metric]):
                entry = old[metric]
                found.append(Difference(chapter, metric, entry["value"], new[metric], entry["tolerance"]))
    return found


def _within(value: float | None, entry: dict[str, float]) -> bool:
    if value is None or entry["value"] is None:
        return value is entry["value"]
    return abs(value - entry["value"]) <= entry["tolerance"]


def baseline_file(profile: str, root: Path) -> Path:
    return root / "book" / "baselines" / f"{profile}.json"


def read_baseline(profile: str, root: Path) -> dict[str, Any]:
    """Raises BadInput when there is none, or when it cannot be read."""
    file = baseline_file(profile, root)
    if not file.is_file():
        raise BadInput(
            f"There is no baseline for the profile '{profile}' (book/baselines/{file.name}); "
            f"make one with: make accept PROFILE={profile}"
        )
    try:
        content = json.loads(file.read_text())
        content["chapters"].items()
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
        raise BadInput(f"book/baselines/{file.name} is not a baseline; restore it from git.") from None
    return content


def run_all(profile: Profile, build: Path, root: Path, seed: int | None = None) -> Metrics:
    """Execute every chapter anew in `build`, which is emptied first."""
    shutil.rmtree(build, ignore_errors=True)
    for chapter in chapter_names(root):
        run_chapter(chapter, profile, build, root=root, seed=seed)
    return read_metrics(build)


def check(profile_name: str, root: Path | None = None, *, run: bool = True) -> list[Difference]:
    """The regression run. run=False compares what the last `book run` left. Prints as it goes."""
    root = checkout(root)
    profile = read_profile(profile_name, root)
    baseline = read_baseline(profile_name, root)
    if run:
        metrics = run_all(profile, root / "_build" / f"{profile_name}-check", root)
    else:
        metrics = read_metrics(root / "_build" / profile_name)
    here, there = machine(), baseline["made"]
    differences = compare(metrics, baseline)
    count = sum(map(len, metrics.values()))
    if not differences:
        print(f"== {count} numbers of {len(metrics)} chapters are within tolerance of the baseline '{profile_name}'")
        return []
    print(f"== {len(differences)} of {count} numbers differ from the baseline '{profile_name}':")
    for difference in differences:
        print(f"   {difference}")
    other = [k for k in ("cpu", "gpu", "versions") if here[k] != there.get(k)]
    if other:
        print(f"   (the baseline was made with another {', '.join(other)}: {there.get('cpu')})")
    print(f"   to accept them: make accept PROFILE={profile_name}")
    return differences


def accept(profile_name: str, seeds: int = 3, root: Path | None = None) -> Path:
    """Run the chapters with `seeds` seeds and write the baseline, printing old -> new.

    Raises BadInput when the git tree is dirty (a baseline belongs to a commit) or for fewer than three seeds.
    """
    root = checkout(root)
    profile = read_profile(profile_name, root)
    if seeds < 3:
        raise BadInput(f"{seeds} seeds say nothing about the spread; tolerances come from at least 3.")
    commit = _clean_commit(root)
    folder = root / "_build" / f"{profile_name}-accept"
    runs = []
    for seed in range(seeds):
        print(f"== seed {seed} ({seed + 1} of {seeds})", flush=True)
        runs.append(run_all(profile, folder / f"seed-{seed}", root, seed or None))
    chapters: dict[str, dict[str, dict[str, float]]] = {}
    for chapter, metrics in runs[0].items():
        chapters[chapter] = {}
        for metric, value in metrics.items():
            values = [run.get(chapter, {}).get(metric) for run in runs]
            chapters[chapter][metric] = {"value": value, "tolerance": tolerance(values)}
    file = baseline_file(profile_name, root)
    old = json.loads(file.read_text())["chapters"] if file.is_file() else {}
    _print_changes(old, chapters)
    made = {"commit": commit, "date": date.today().isoformat(), "seeds": seeds, "threads": profile.threads}
    write_json(file, {"profile": profile_name, "made": made | machine(), "chapters": chapters})
    print(f"== wrote book/baselines/{file.name}: look at it, then commit it")
    return file


def tolerance(values: list[float | None]) -> float:
    """Twice the spread over the seeds, at least TINY of the first value; see the module's text."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return 0.0
    return max(SPREADS * (max(numbers) - min(numbers)), TINY * max(1.0, abs(numbers[0])))


def _clean_commit(root: Path) -> str:
    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)

    commit = git("rev-parse", "HEAD")
    if commit.returncode != 0:
        raise BadInput("A baseline belongs to a commit, and this folder is not a git checkout with one.")
    dirty = git("status", "--porcelain").stdout.splitlines()
    if dirty:
        raise BadInput(
            f"The git tree is not clean ({len(dirty)} files, first '{dirty[0].strip()}'); "
            "commit first, so that the baseline belongs to a commit."
        )
    return commit.stdout.strip()


def _print_changes(old: dict[str, Any], new: dict[str, Any]) -> None:
    for chapter in sorted(old.keys() | new.keys()):
        before, after = old.get(chapter, {}), new.get(chapter, {})
        for metric in sorted(before.keys() | after.keys()):
            was, now = before.get(metric), after.get(metric)
            if was != now:
                left = "(new)" if was is None else f"{_text(was['value'])} ± {was['tolerance']:.3g}"
                right = "(gone)" if now is None else f"{_text(now['value'])} ± {now['tolerance']:.3g}"
                print(f"   {chapter}: {metric}: {left} -> {right}")
