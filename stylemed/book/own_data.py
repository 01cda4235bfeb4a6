"""The book on volumes of one's own: what of a profile gives way to them, where it is built, and the model card at its end."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylemed.book.execution import Profile, chapter_names, checkout, parameters_of, read_profile
from stylemed.errors import BadInput
from stylemed.files import write_atomic

CARD = "model-card.md"
PRESETS = {"phantom-32": "ct-64", "phantom-64": "ct-64"}  # what real scans are trained with instead
PHANTOM = ("patients", "test_patients", "first_test", "size")  # what chapter 1 draws it with, of no use beside data
LEAST = {"train": 1, "test": 2}  # patients: without them no chapter can train, or none can mix
LICENCE = (
    "**to be filled in by the owner of the data**: these weights were learned from patients, so what may be done with them is what "
    "the licence, the ethics vote and the consents of the data allow; until this line is filled in, they are for nobody else"
)


def own_book(profile_name: str, data: str | Path, root: Path | None = None) -> tuple[Profile, Path]:
    """The profile with the volumes below `data` in the place of its own, and its build folder, `_build/<profile>-<name of data>`.

    Networks are trained anew whatever the profile says: released ones are of other patients. The judge learns from patients of the
    data. BadInput for a folder without volumes, for too few patients in a split, and where that build folder is of another folder
    of this name, before anything runs.
    """
    from stylemed.data.layouts import find_cases
    from stylemed.data.preparing import split_patients

    root, data = checkout(root), Path(data).expanduser().resolve()
    profile = read_profile(profile_name, root)
    cases = find_cases(data)
    if not any(case.tumor_known for case in cases):
        raise BadInput(
            f"{data / 'volumes.csv'} calls the tumors of every volume unknown; the book needs some that are known"
        )
    given = {case.patient: case.split for case in cases}
    counts = Counter(split_patients(given, seed=0).values())
    for split, least in LEAST.items():
        if counts[split] < least:
            raise BadInput(
                f"{data} has {len(given)} patients, {counts[split]} of them in the split {split}, where the book needs {least}; "
                "add patients, or give splits in volumes.csv"
            )
    chapters = {}
    for name in chapter_names(root):
        own = dict(profile.chapters.get(name) or {})
        known = parameters_of(root / "book" / f"{name}.ipynb")
        if "data" in known:
            own = {key: value for key, value in own.items() if key not in PHANTOM}
        instead: dict[str, Any] = {"data": str(data), "scans": "*", "weights": "fresh", "judge_patients": 0}
        if "preset" in known:
            instead["preset"] = PRESETS.get(own.get("preset"), own.get("preset"))
        chapters[name] = own | {key: value for key, value in instead.items() if key in known and value is not None}
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", data.name).strip("-.") or "data"
    said = f"the volumes of {data.name}, in the sizes and lengths of this profile: {profile.description}"
    note = (
        f"This book was made on the volumes of **{data.name}**: chapters 1 and 3 to 6 cut, train and measure on them.\n"
        "Where the text speaks of phantoms and of released models, it tells of the book as it is published; chapters 7 and 8 and "
        f"all studies on record are of these still.\nWhat came of the models stands in `{CARD}`, beside the pages."
    )
    build = root / "_build" / f"{profile_name}-{name}"
    for run in (build / "runs").glob("01_*.json"):
        before = json.loads(run.read_text())["parameters"].get("data")
        if before != str(data):
            raise BadInput(
                f"{build} holds the book of {before}; rename one of the two folders of data, or delete {build.name}."
            )
    return replace(profile, chapters=chapters, description=said, note=note), build


def write_card(profile: Profile, build: Path) -> Path:
    """Write `model-card.md` into the build folder, from what the chapters left there. BadInput where some of it is missing."""
    file = build / CARD
    write_atomic(file, model_card(profile, build).encode())
    return file


def model_card(profile: Profile, build: Path) -> str:
    """Markdown: data, training, measurements, what the models are not for. Nothing in it is typed but the words."""
    from stylemed.data.store import SliceStore
    from stylemed.pretrained.bundles import NOT_FOR, facts, last_distances
    from stylemed.training.run import load_generator

    made = build / "artifacts"
    store, generator = SliceStore.open(made / "store"), load_generator(made / "gan")[0]
    runs = {file.stem[:2]: json.loads(file.read_text()) for file in sorted((build / "runs").glob("*.json"))}
    data = f"the volumes of {Path(runs['01']['parameters']['data']).name}"
    told = [f"- **{name}**: {value}" for name, value in facts(generator, data, LICENCE).items()]
    parts = {
        f"{build.name}: models of one's own data": told,
        "Not for": [NOT_FOR],
        "Data": _data(store),
        "Training": _training(profile, runs),
        "Generator, measured": [_variety(made / "gan"), "", *last_distances(made / "gan" / "distances.csv")],
        "Encoder, measured": _encoder(build),
        "Direction, measured": _direction(build, runs["06"]),
    }
    lines = [
        line
        for n, (title, text) in enumerate(parts.items())
        for line in ("#" * (1 + bool(n)) + f" {title}", "", *text, "")
    ]
    return "\n".join(lines)


def _data(store) -> list[str]:
    """Cases and patients by split, and what was odd about the files."""
    rows = [
        "| split | patients | cases | slices | with tumor | without | tumors unknown |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    slices = store.slices.iloc[store.select()]
    known, tumor = slices["tumor_known"] == 1, slices["tumor_px"] > 0
    for split in ("train", "judge", "test", "all"):
        use = slices["split"].isin([split]) | (split == "all")
        counts = [slices[use]["patient"].nunique(), slices[use]["case"].nunique(), int(use.sum())]
        counts += [int((use & part).sum()) for part in (known & tumor, known & ~tumor, ~known)]
        rows.append(f"| {split} | " + " | ".join(map(str, counts)) + " |")
    odd = [f"left out: {case} ({_nameless(why)})" for case, why in store.info["left_out"].items()]
    kinds: dict[str, list[str]] = {}
    for case, notes in store.info["case_notes"].items():
        for note in notes:
            kinds.setdefault(_nameless(note), []).append(case)
    odd += [f"{len(cases)} cases, such as {cases[0]}: {note}" for note, cases in kinds.items()]
    unmeasured = slices["case"].nunique() - len(set(slices["case"]) & set(store.info["mm_known"]))
    odd += [f"{unmeasured} cases do not say how large their voxels are"] if unmeasured else []
    return [*rows, "", "What was odd:", "", *(f"- {one}" for one in odd or ["nothing that was looked for"])]


def _nameless(text: str) -> str:
    """Without the folders of this machine: of a path the file's name is left."""
    return re.sub(r"(?<![\w.])/(?:[^\s/]+/)+", "", text)


def _training(profile: Profile, runs: dict[str, dict]) -> list[str]:
    """Parameters and minutes by chapter, seed, machine, versions."""
    rows = ["| chapter | parameters | minutes |", "|---|---|---:|"]
    for run in runs.values():
        given = {name: value for name, value in run["parameters"].items() if name not in ("profile", "data")}
        words = ", ".join(f"{name} {value}" for name, value in given.items())
        rows.append(f"| {run['chapter']} | {words} | {run['minutes']:.1f} |")
    last = list(runs.values())[-1]
    machines = sorted({run["cpu"] + (f" with {run['gpu']}" if run["gpu"] else "") for run in runs.values()})
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    return [
        f"Profile `{profile.name}`; {sum(run['minutes'] for run in runs.values()):.1f} minutes in all, on {'; '.join(machines)}, "
        f"threads: {last['threads']}. Every field of the trainings stands in `config.yaml` beside the weights, in `artifacts/gan` "
        "and `artifacts/encoder`.",
        "",
        *rows,
        "",
        f"Versions: {versions}.",
    ]


def _variety(run: Path) -> str:
    from stylemed.evaluation import read_distances, verdict

    return verdict(read_distances(run)) or "Too early for a verdict on variety: the training was too short for one."


ENCODER = {  # metric of chapter 4 -> what it is
    "r2_wp": "R² of known latents, in W+",
    "psnr_wp": "PSNR of generated images, encoded and made again, dB",
    "psnr_real_w": "PSNR of shown `test` slices, encoder in W, dB",
    "psnr_real_wp": "PSNR of the same, encoder in W+, dB",
    "psnr_few": "PSNR of the same, few steps of descent on top, dB",
    "psnr_many": "PSNR of the same, many steps from the mean, dB",
    "mae_train": "mean error of `train` patients, HU",
    "mae_test": "mean error of `test` patients, HU",
    "mae_test_worst": "mean error of the worst `test` patient, HU",
    "mae_mean_slice": "for comparison: error of the mean training slice, HU",
}
DIRECTION = {  # metric of chapter 6 -> what it is
    "judge_auc": "the judge's own AUC on `test`",
    "area_auc": "AUC of the area of the liver alone, in `train`",
    "score_per_step": "what the image's own score rises by for each step",
    "ratio": "change in the liver over that elsewhere",
    "judge_rise": "rise of the share in which the judge sees a tumor, percentage points",
    "judge_random_high": "the same, highest of the random directions",
}


def _table(numbers: dict[str, Any], names: dict[str, str]) -> list[str]:
    rows = [f"| {what} | {_number(numbers[key])} |" for key, what in names.items() if key in numbers]
    return ["| what | value |", "|---|---|", *rows] if rows else []


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _metrics(build: Path, number: str) -> dict[str, Any]:
    files = sorted((build / "metrics").glob(f"{number}_*.json"))
    return json.loads(files[0].read_text()) if files else {}


def _encoder(build: Path) -> list[str]:
    return _table(_metrics(build, "04"), ENCODER)


def _direction(build: Path, run: dict[str, Any]) -> list[str]:
    """AUC with its interval and its patients, and what the walk does; where the chapter ended early, why."""
    numbers = _metrics(build, "06")
    ends = f"Chapter 6 ends early. {run['ended']}" if "ended" in run else None
    kept = build / "artifacts" / "direction.safetensors"
    lines = []
    if kept.is_file():
        from stylemed.latent.direction import Direction

        direction = Direction.load(kept)
        for where, found in {
            "cross-validation in `train`": direction.cv,
            "held-out `test` patients": direction.test,
        }.items():
            if found:
                auc = f"{found['auc']:.2f} (95 % interval {found['low']:.2f} to {found['high']:.2f})"
                lines.append(
                    f"- {where}: AUC {auc}; {found['patients']} patients, {found['patients_with']} with tumor slices"
                )
        lines += ["- on `test` patients: not measured, tumors are not known there"] if not direction.test else []
    return [*([ends, ""] if ends else []), *lines, "", *_table(numbers, DIRECTION)]
