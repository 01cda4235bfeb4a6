"""The regression run: all chapters anew, their numbers against a baseline, and how a baseline comes to be.

A baseline holds, per chapter and metric, the value with the profile's own seed and two tolerances. Where processor,
threads and versions are those of the baseline, the same seed repeats itself and `tight` holds: a thousandth of the
value, nothing for an integer. Elsewhere rounding leads a training astray much as another seed does, and `loose` holds:
twice the spread (largest minus smallest) over the seeds that were accepted, and a quarter of a number that they move.
(Three seeds can lie close by chance: of 91 numbers of profile smoke, AVX2 in place of AVX-512 moved one by 17 % that
seeds had moved by 3.5 %; all others stayed within 1.1 times their spread.)
A number that seeds move by as much as it amounts to could not leave such a tolerance, whatever happened to it. It is
noise at this profile's scale: it stands apart, under `noisy`, and is compared tightly or not at all.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from stylemed.book.execution import Profile, chapter_names, checkout, in_turn, read_profile, run_chapter
from stylemed.book.publishing import read_runs
from stylemed.errors import BadInput
from stylemed.files import write_json

TIGHT = 1e-3  # relative
FLOOR = 1e-6  # absolute, for floats near nothing
SPREADS = 2.0
QUARTER = 0.25  # of the value: the least that is loose, where seeds move it

Metrics = dict[str, dict[str, float | None]]  # chapter -> metric -> value
Entries = dict[str, dict[str, dict[str, float | None]]]  # chapter -> metric -> value, tight, loose


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
        change = f"{_text(self.old)} -> {_text(self.new)}"
        return f"{self.chapter}: {self.metric}: {change} (tolerance {self.tolerance:.3g}; {self.why})"


def _text(value: float | None) -> str:
    return "none" if value is None else f"{value:.8g}"


def read_metrics(build: Path) -> Metrics:
    """All numbers that the chapters of one build folder recorded."""
    files = sorted((build / "metrics").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


# ---- comparing ------------------------------------------------------------------------------------------


def compare(metrics: Metrics, baseline: dict[str, Any], *, tight: bool) -> list[Difference]:
    """Every number outside its tolerance, and every one that is gone or new; noisy ones only if `tight`."""
    found = []
    known = _all_entries(baseline)
    for chapter in sorted(known.keys() | metrics.keys()):
        old, new = known.get(chapter, {}), metrics.get(chapter, {})
        noisy = baseline["noisy"].get(chapter, {})
        for metric in sorted(old.keys() | new.keys()):
            if metric not in old:
                found.append(Difference(chapter, metric, None, new[metric], 0.0, "is new"))
                continue
            entry = old[metric]
            tolerance = entry["tight"] if tight or metric in noisy else entry["loose"]
            if metric not in new:
                found.append(Difference(chapter, metric, entry["value"], None, tolerance, "is gone"))
            elif (tight or metric not in noisy) and not _within(new[metric], entry["value"], tolerance):
                found.append(Difference(chapter, metric, entry["value"], new[metric], tolerance))
    return found


def _within(value: float | None, expected: float | None, tolerance: float) -> bool:
    if value is None or expected is None:
        return value is expected
    return abs(value - expected) <= tolerance


def _all_entries(baseline: dict[str, Any]) -> Entries:
    sure, noisy = baseline["chapters"], baseline["noisy"]
    return {chapter: sure.get(chapter, {}) | noisy.get(chapter, {}) for chapter in sure | noisy}


def what_differs(made: dict[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    """What of processor, GPU, threads and versions was other when a baseline was made, in words; nothing: the same."""
    expected, found = _facts(made), []
    for facts in map(_facts, runs):
        for name in expected | facts:
            here, there = facts.get(name, "none"), expected.get(name, "none")
            if here != there:
                found.append(f"{name} {here} (baseline: {there})")
    return list(dict.fromkeys(found))


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in ("cpu", "gpu", "threads")} | record.get("versions", {})


def compare_build(build: Path, baseline: dict[str, Any]) -> tuple[list[Difference], str]:
    """The numbers of a build folder against a baseline, and in words how tightly they were compared, and why."""
    metrics = read_metrics(build)
    other = what_differs(baseline["made"], read_runs(build))
    how = f"tightly ({TIGHT:g} of each, integers exactly): processor, threads and versions are those of the baseline"
    if other:
        skipped = sum(map(len, baseline["noisy"].values()))
        how = (
            f"loosely (by the spread over seeds, {skipped} noisy ones not at all), since it differs: {'; '.join(other)}"
        )
    return compare(metrics, baseline, tight=not other), how


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
        for entries in _all_entries(content).values():
            for entry in entries.values():
                entry["value"], entry["tight"], entry["loose"]
        content["made"].items()
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
        raise BadInput(
            f"book/baselines/{file.name} is not a baseline of this version; "
            f"restore it from git, or make it anew with: make accept PROFILE={profile}"
        ) from None
    return content


def run_all(profile: Profile, build: Path, root: Path, seed: int | None = None) -> Metrics:
    """Execute every chapter anew in `build`, which is emptied first."""
    shutil.rmtree(build, ignore_errors=True)
    in_turn(chapter_names(root), lambda name: run_chapter(name, profile, build, root=root, seed=seed), profile.at_once)
    return read_metrics(build)


def check(profile_name: str, root: Path | None = None, *, run: bool = True) -> list[Difference]:
    """The regression run. run=False compares what the last `book run` left. Prints as it goes."""
    root = checkout(root)
    profile = read_profile(profile_name, root)
    baseline = read_baseline(profile_name, root)
    build = root / "_build" / (f"{profile_name}-check" if run else profile_name)
    if run:
        run_all(profile, build, root)
    metrics = read_metrics(build)
    differences, how = compare_build(build, baseline)
    count = sum(map(len, metrics.values()))
    print(f"== {count} numbers of {len(metrics)} chapters compared {how}")
    if not differences:
        print(f"== they agree with the baseline '{profile_name}'")
        return []
    print(f"== {len(differences)} differ from the baseline '{profile_name}':")
    for chapter in sorted({difference.chapter for difference in differences} - metrics.keys()):
        print(f"   {chapter}: recorded nothing")
    for difference in differences:
        if difference.chapter in metrics:
            print(f"   {difference}")
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
    sure, noisy = entries(runs)
    file = baseline_file(profile_name, root)
    _print_changes(_old_entries(profile_name, root), _all_entries({"chapters": sure, "noisy": noisy}), noisy)
    facts = read_runs(folder / "seed-0")[0]
    made = {"commit": commit, "date": date.today().isoformat(), "seeds": seeds}
    made |= {name: facts[name] for name in ("cpu", "gpu", "threads", "versions")}
    write_json(file, {"profile": profile_name, "made": made, "chapters": sure, "noisy": noisy})
    print(f"== wrote book/baselines/{file.name}: look at it, then commit it")
    return file


def entries(runs: list[Metrics]) -> tuple[Entries, Entries]:
    """What a baseline says of each number, from one run per seed, the profile's own first: what is sure, what is noise."""
    sure: Entries = {}
    noisy: Entries = {}
    for chapter, metrics in runs[0].items():
        for metric in metrics:
            values = [run.get(chapter, {}).get(metric) for run in runs]
            value = values[0]
            tight, loose = tolerances(values)
            kind = noisy if is_noise(values) else sure
            kind.setdefault(chapter, {})[metric] = {"value": value, "tight": tight, "loose": loose}
    return sure, noisy


def tolerances(values: list[float | None]) -> tuple[float, float | None]:
    """Tight and loose, from one value per seed, the profile's own first; loose is None if only some seeds have a value."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return 0.0, 0.0
    value = values[0]
    exact = value is None or isinstance(value, int)
    tight = 0.0 if exact else max(TIGHT * abs(value), FLOOR)
    if value is None or len(numbers) < len(values):
        return tight, None
    spread = max(numbers) - min(numbers)
    return tight, max(SPREADS * spread, QUARTER * abs(value)) if spread > tight else tight


def is_noise(values: list[float | None]) -> bool:
    """Whether the number could vanish and still be within its loose tolerance. One that no seed moves never is."""
    tight, loose = tolerances(values)
    return loose is None or (loose > tight and loose >= abs(values[0] or 0.0))


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


def _old_entries(profile: str, root: Path) -> Entries:
    if not baseline_file(profile, root).is_file():
        return {}
    try:
        return _all_entries(read_baseline(profile, root))
    except BadInput:  # accepting is one of its cures
        return {}


def _print_changes(old: Entries, new: Entries, noisy: Entries) -> None:
    for chapter in sorted(old.keys() | new.keys()):
        before, after = old.get(chapter, {}), new.get(chapter, {})
        for metric in sorted(before.keys() | after.keys()):
            was, now = before.get(metric), after.get(metric)
            if was != now:
                left = "(new)" if was is None else f"{_text(was['value'])} ± {_text(was['loose'])}"
                right = "(gone)" if now is None else f"{_text(now['value'])} ± {_text(now['loose'])}"
                print(f"   {chapter}: {metric}: {left} -> {right}")
    count, total = (sum(map(len, part.values())) for part in (noisy, new))
    print(f"== {count} of {total} numbers are noise at this scale, compared tightly or not at all:")
    for chapter, metrics in noisy.items():
        print(f"   {chapter}: {', '.join(sorted(metrics))}")
