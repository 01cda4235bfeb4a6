"""Any profile from end to end on any machine, with the trainings cut to almost nothing.

A profile says in its own file, under `rehearsal:`, what is put in place of its parameters, and nothing else changes:

parameters:  {chapter: {parameter: value}}: fewer images to train on, fewer patients to draw, less to measure
preset:      {chapter: {field: value}}: fields of the preset that the chapter trains with
data:        made-up volumes in the place of those that the profile reads (see `made_up_volumes`)

A rehearsal lives in a folder of its own, `_build/<profile>-rehearsal`, which looks like the root of a checkout: the
chapters' relative paths lead to what is in there, so it neither reads nor touches anything real. It shows that every
cell runs with the sizes of the profile. No number and no picture in it means anything.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

from stylemed.book.execution import (
    Profile,
    chapter_names,
    chapter_parameters,
    checkout,
    find_chapter,
    in_turn,
    read_profile,
)
from stylemed.book.execution import run_chapter as run_one
from stylemed.errors import BadInput
from stylemed.files import write_json

PARTS = ("parameters", "preset", "data")
# What of a checkout the chapters may look at, besides themselves.
COPIED = ("_toc.yml", "_config.yml", "pyproject.toml", "constraints.txt", "book/profiles", "book/results")
# The table that holds a chapter's preset, by the chapter's number.
PRESETS = {
    "03": ("stylemed.training.schedule", "PRESETS"),
    "04": ("stylemed.training.encoder", "ENCODER_PRESETS"),
}


def rehearse(
    profile_name: str, chapters: list[str] | None = None, root: Path | None = None, *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Run the chapters (all, or some by number or name) of a profile as a rehearsal; what `run_chapter` says of each.

    Prints what is replaced, and at the end minutes and memory of every chapter. Raises BadInput before the first
    chapter runs when the profile has no `rehearsal:`, or one with an unknown chapter, parameter or part.
    """
    root = checkout(root)
    profile = read_profile(profile_name, root)
    names = [find_chapter(name, root) for name in chapters] if chapters else chapter_names(root)
    cut = rehearsed(profile, root)
    folder = root / "_build" / f"{profile_name}-rehearsal"
    _lay_out(folder, profile, cut, root)
    if not quiet:
        print(f"== rehearsal of the profile '{profile_name}' in {folder.relative_to(root)}; its numbers mean nothing")
        print("\n".join(f"   {line}" for line in replaced(profile)), flush=True)
    told = {}

    def run(name: str) -> None:
        told[name] = run_one(name, cut, folder, root=folder, quiet=quiet)

    in_turn(names, run, cut.at_once, quiet=quiet)
    facts = [told[name] for name in names]
    if not quiet:
        print(
            f"== the profile '{profile_name}' runs: {len(facts)} chapters, {sum(f['minutes'] for f in facts):.1f} min"
        )
        for fact in facts:
            print(f"   {fact['chapter']:<28} {fact['minutes']:>6.2f} min {fact['peak_memory_mb']:>7} MB")
    return facts


def rehearsed(profile: Profile, root: Path) -> Profile:
    """The profile with its rehearsal's parameters in place of its own. Raises BadInput for what does not exist."""
    block = profile.rehearsal
    if not block:
        raise BadInput(f"The profile '{profile.name}' has no `rehearsal:`; book/profiles/colab.yaml shows one.")
    for part in block:
        if part not in PARTS:
            raise BadInput(f"The rehearsal of '{profile.name}' has a part '{part}'; there are: {', '.join(PARTS)}.")
    parameters = block.get("parameters") or {}
    for chapter in [*parameters, *(block.get("preset") or {})]:
        if chapter not in chapter_names(root):
            raise BadInput(f"The rehearsal of '{profile.name}' names the chapter '{chapter}', which is not in book/.")
    given = {name: (profile.chapters.get(name) or {}) | parameters.get(name, {}) for name in chapter_names(root)}
    cut = dataclasses.replace(profile, chapters=given, rehearsal={})
    for name in chapter_names(root):
        chapter_parameters(name, cut, root)  # raises for an unknown one
    return cut


def replaced(profile: Profile) -> list[str]:
    """What the rehearsal puts in place of what, a line each."""
    block, lines = profile.rehearsal, []
    for name, parameters in (block.get("parameters") or {}).items():
        before = profile.chapters.get(name) or {}
        for key, value in parameters.items():
            lines.append(f"{name}: {key} {value} (the profile has {before.get(key, 'the default')})")
    for name, fields in (block.get("preset") or {}).items():
        lines += [f"{name}: {key} {value} in its preset" for key, value in fields.items()]
    if block.get("data"):
        lines.append(f"made-up volumes instead of real ones: {block['data']}")
    return lines


def _lay_out(folder: Path, profile: Profile, cut: Profile, root: Path) -> None:
    """Write the root of the rehearsal: pages it needs, chapters with the preset's changes, made-up volumes."""
    (folder / "book").mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = root / name, folder / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copy(source, target)
    changes = profile.rehearsal.get("preset") or {}
    for old in (folder / "book").glob("*.ipynb"):
        old.unlink()
    for name in chapter_names(root):
        source = json.loads((root / "book" / f"{name}.ipynb").read_text())
        if changes.get(name):
            _change_preset(source, name, changes[name])
        (folder / "book" / f"{name}.ipynb").write_text(json.dumps(source, indent=1, ensure_ascii=False) + "\n")
    for parameters in cut.chapters.values():
        if parameters.get("data"):
            place = (folder / "book" / parameters["data"]).resolve()
            if not place.is_relative_to(folder.resolve()) or place.is_relative_to((folder / "book").resolve()):
                raise BadInput(f"'{parameters['data']}' leads out of the rehearsal; give `data` below the book's root.")
            made_up_volumes(place, str(parameters["scans"]), **(profile.rehearsal.get("data") or {}))


def _change_preset(source: dict[str, Any], name: str, fields: dict[str, Any]) -> None:
    """Put a cell behind the parameters cell that changes fields of the chapter's preset, in its process alone."""
    if name[:2] not in PRESETS:
        raise BadInput(f"{name} trains nothing, so the rehearsal cannot change its preset.")
    module, table = PRESETS[name[:2]]
    lines = [
        f"from {module} import {table}",
        "",
        f"{table}[preset] |= {fields!r}",
        'print("REHEARSAL: the numbers and pictures of this copy mean nothing")',
    ]
    cell = {
        "cell_type": "code",
        "id": "rehearsal",
        "metadata": {"tags": ["rehearsal"]},
        "source": "\n".join(lines),
        "outputs": [],
        "execution_count": None,
    }
    first = next(i for i, c in enumerate(source["cells"]) if "parameters" in c["metadata"].get("tags", []))
    source["cells"].insert(first + 1, cell)


def made_up_volumes(
    folder: Path, scans: str, *, size: int = 64, slices: int = 16, without_tumor: list[int] | None = None, seed: int = 0
) -> Path:
    """Phantom pairs under the numbers of `scans` ("28,29,30"), in LiTS layout and, like LiTS, without `volumes.csv`.

    Scans in `without_tumor` get patients without a tumor, all others get patients with one: the patients fall into
    splits by what they have, so the made-up folder must not be kinder than the real one. The same call again makes
    nothing new. Raises BadInput for scans that are not plain numbers.
    """
    import pandas as pd

    from stylemed.phantom.patients import VERSION, make_phantom

    numbers = [number.strip() for number in scans.split(",")]
    if not all(re.fullmatch(r"\d+", number) for number in numbers):
        raise BadInput(f"made-up volumes need the numbers of their scans, not '{scans}'")
    free = {str(number) for number in without_tumor or []}
    wanted = {number: number not in free for number in numbers}  # number -> has a tumor
    stamp = {"phantom": VERSION, "size": size, "slices": slices, "seed": seed, "tumor": wanted}
    if (folder / "made-up.json").is_file() and json.loads((folder / "made-up.json").read_text()) == stamp:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # More patients than needed: slices far apart may miss all tumors of one. Scans without a tumor are twins.
    shared = dict(size=size, slices=slices, seed=seed, twins=True, tumor_free=0.0, progress=False)
    drawn = make_phantom(folder / "drawn", 3 * len(wanted) // 2 + 2, **shared)
    tumor_px = pd.read_csv(drawn / "truth.csv", dtype={"volume": str}).groupby("volume", sort=False)["tumor_px"].sum()
    patients = iter(tumor_px.index[tumor_px > 0])
    for number, tumor in wanted.items():
        patient = next(patients) + ("" if tumor else "free")
        for kind in ("volume", "segmentation"):
            (drawn / f"{kind}-{patient}.nii.gz").rename(folder / f"{kind}-{number}.nii.gz")
    shutil.rmtree(drawn)
    write_json(folder / "made-up.json", stamp)
    return folder
