"""Volumes -> SliceStore: `stylemed prepare`. In parallel by case, restartable, and never half a store."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stylemed.data.body import body_square
from stylemed.data.layouts import Case, find_layout, relative
from stylemed.data.resample import Resampler
from stylemed.data.store import COLUMNS, FORMAT, MORE_COLUMNS, VERSION, SliceStore
from stylemed.data.volumes import read_case
from stylemed.errors import BadInput

DEFAULT_WINDOW = (-100.0, 250.0)
AIR = -1000
FRAMES = ("image", "body")
WORTH_MB = 64  # of files for each process: it takes a second to start
SHARES = {"judge": 0.15, "test": 0.15}  # of the patients of each stratum, where volumes.csv gives no split


@dataclass
class PrepareReport:
    """What `prepare` did: `left_out` {case: sentence}, `notes` said aloud, `table` for the terminal."""

    path: Path
    reused: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    table: str = ""


def prepare(
    source,
    out,
    resolution: int,
    *,
    window: tuple[float, float] | None = None,
    mm: float | None = None,
    frame: str = "image",
    clip: tuple[float, float] | None = None,
    include: str | None = None,
    exclude: str | None = None,
    workers: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> PrepareReport:
    """Make the SliceStore `out` of every slice below `source` that holds liver.

    `resolution`: side of the images, a power of two from 8 to 1024. `window` (lo, hi): default [-100, 250] HU cut down
    to what all inputs hold. `mm`: millimetres per pixel, about the middle of the image; default: the whole image, whatever
    its size. `frame`: "image", that; or "body", one square around the body for each case, a twin's that of its original.
    `clip` (lo, hi): cut CT intensities down first, as if the files held no more; to learn from volumes for others that are cut.
    `include`, `exclude`: glob patterns, separated by commas, for a case's name, patient or path below `source`.
    `seed` places patients in splits where volumes.csv does not. `workers`: processes, one case each.
    A case that cannot be used is left out and reported. The store appears complete or not at all; a run that was
    stopped goes on where it was, and a store that is already what is asked for is left as it is.
    Raises BadInput where nothing can be made.
    """
    source, out, resolution = Path(source), Path(out), _power_of_two(resolution)
    if window is not None and not (np.isfinite(window).all() and window[0] < window[1]):
        raise BadInput(f"the window [{window[0]:g}, {window[1]:g}] is empty; give the lower value first")
    if mm is not None and not 0.05 <= mm <= 50:
        raise BadInput(f"{mm:g} mm per pixel is no size for a body; choose between 0.05 and 50")
    if frame not in FRAMES:
        raise BadInput(f"the frame {frame!r} is not known; choose image or body")
    if frame == "body" and mm is not None:
        raise BadInput("a frame about the body has no size of pixel of its own; leave out --mm or --frame body")
    if clip is not None and not (np.isfinite(clip).all() and clip[0] < clip[1]):
        raise BadInput(f"nothing lies in [{clip[0]:g}, {clip[1]:g}]; give the lower value of --clip first")
    layout, cases = find_layout(source, include, exclude)
    if clip is not None:
        cases = [_clipped(case, clip) for case in cases]
    report = PrepareReport(out)
    _say(report, f"{source}: {len(cases)} cases, layout: {layout}", progress)
    old = _old_store(out)
    known = {f["path"]: f for entry in old.get("inputs", []) for f in entry["files"]}
    inputs = {case.name: _input(case, source, known) for case in cases}
    settings = dict(resolution=resolution, window=list(window) if window else None, seed=seed, mm=mm, frame=frame)
    if clip is not None:
        settings["clip"] = list(clip)
    digest = _digest(VERSION, settings, [_lasting(entry) for entry in inputs.values()])
    if old.get("digest") == digest and _complete(out):
        report.reused, report.left_out = True, old["left_out"]
        _say(report, f"{out} holds this already ({len(cases)} cases, resolution {resolution}); nothing to do", progress)
        report.table = SliceStore.open(out).describe()
        return report
    if old:
        _say(report, f"{out} is a store of other inputs or settings and is replaced", progress)

    parts = out.with_name(f".{out.name}.part")
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{out} cannot be made ({error.strerror}); choose a folder you may write to") from None
    done = _run(cases, inputs, parts, (resolution, mm, frame, clip is not None), workers, report, progress)
    _say_notes(done, report, progress)
    usable = [case for case in cases if case.name in done]
    if not usable:
        shutil.rmtree(parts, ignore_errors=True)
        first = next(iter(report.left_out.values()), "")
        raise BadInput(f"{source} holds no usable case among {len(cases)}; the first fails because {first}")
    if frame == "body" and all(done[case.name]["square"] is None for case in usable):
        shutil.rmtree(parts, ignore_errors=True)
        raise BadInput(f"no body was found in any of the {len(usable)} cases of {source}; leave out --frame body")
    try:
        windows = _windows(usable, window, report, progress)
    except BadInput:
        shutil.rmtree(parts, ignore_errors=True)
        raise
    _assemble(parts / "store", usable, done, parts, resolution, seed, report, progress)
    info = dict(
        format=FORMAT,
        version=VERSION,
        resolution=resolution,
        digest=digest,
        windows=windows,
        settings=settings,
        inputs=list(inputs.values()),
        mm_known=[c.name for c in usable if done[c.name]["spacing_known"]],
        left_out=report.left_out,
        case_notes={c.name: done[c.name]["notes"] for c in usable if done[c.name]["notes"]},
    )
    (parts / "store" / "store.json").write_text(json.dumps(info, indent=1))
    shutil.rmtree(parts / "old", ignore_errors=True)
    if out.exists():
        out.rename(parts / "old")
    (parts / "store").rename(out)
    shutil.rmtree(parts, ignore_errors=True)
    report.table = SliceStore.open(out).describe()
    return report


def _clipped(case: Case, clip) -> Case:
    """The case as one whose intensities were cut to `clip`."""
    if case.modality.upper() != "CT":
        return case
    lo = clip[0] if case.hu_min is None else max(clip[0], case.hu_min)
    hi = clip[1] if case.hu_max is None else min(clip[1], case.hu_max)
    return replace(case, hu_min=float(lo), hu_max=float(hi))


def _say(report, sentence, progress):
    report.notes.append(sentence)
    if progress:
        print(sentence)


def _say_notes(done, report, progress) -> None:
    """What is odd about the files, each kind once with the cases it holds for."""
    kinds: dict[str, list[str]] = {}
    for name, record in done.items():
        for note in record["notes"]:
            kinds.setdefault(note, []).append(name)
    for note, names in kinds.items():
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        _say(report, f"note: {some}: {note}", progress)


def _power_of_two(resolution) -> int:
    if not (
        isinstance(resolution, int | np.integer) and 8 <= resolution <= 1024 and resolution & (resolution - 1) == 0
    ):
        raise BadInput(
            f"the resolution {resolution} is not a power of two from 8 to 1024; choose 32, 64, 128, 256 or 512"
        )
    return int(resolution)


def _old_store(out: Path) -> dict:
    """The store.json of the store that stands where the new one goes; {} where nothing stands."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    try:
        info = json.loads((out / "store.json").read_text())
        if info["format"] == FORMAT:
            return info
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise BadInput(f"{out} exists and is no slice store; name another folder with --out")


def _complete(out: Path) -> bool:
    try:
        SliceStore.open(out)
    except BadInput:
        return False
    return True


def _input(case: Case, source: Path, known: dict) -> dict:
    """What a case is made of, with the hash of its files; a file of unchanged size and time is not read again."""
    files = []
    for path in (case.volume, case.segmentation):
        name = relative(path, source)
        if not path.is_file():
            files.append(dict(path=name, bytes=0, mtime_ns=0, sha256="missing"))
            continue
        stat, old = path.stat(), known.get(name, {})
        same = (old.get("bytes"), old.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
        with path.open("rb") as file:
            sha = old["sha256"] if same else hashlib.file_digest(file, "sha256").hexdigest()
        files.append(dict(path=name, bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha))
    said = {
        k: getattr(case, k)
        for k in (
            "patient",
            "split",
            "modality",
            "phase",
            "kernel",
            "noise_hu",
            "hu_min",
            "hu_max",
            "tumor_known",
            "spacing_known",
            "orientation",
            "twin_of",
        )
    }
    return dict(case=case.name, files=files, **said)


def _lasting(entry: dict) -> dict:
    """An input without what a copy of the same files changes."""
    return entry | {"files": [{k: f[k] for k in ("path", "sha256")} for f in entry["files"]]}


def _digest(*things) -> str:
    return hashlib.sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()[:16]


def _run(cases, inputs, parts, size, workers, report, progress) -> dict[str, dict]:
    """Prepare every case into `parts`; {case: its part's record} of those that worked."""
    from concurrent.futures.process import BrokenProcessPool

    from tqdm import tqdm

    size_mb = sum(inputs[case.name]["files"][0]["bytes"] for case in cases) / 1e6  # of the volumes
    workers = max(1, min(workers, len(cases), int(size_mb / WORTH_MB)))
    done = {}

    def results():
        for twins in (False, True):  # after their originals, whose square they take
            jobs = []
            for case in cases:
                if twins == bool(case.twin_of):
                    like = done.get(case.twin_of)
                    key = _digest(VERSION, size, _lasting(inputs[case.name]), like and like["square"])
                    jobs.append((case, parts / f"{case.name}-{key}", like, *size))
            if workers == 1:
                yield from (_part(*job) for job in jobs)
            else:
                from joblib import Parallel, delayed  # starts clean processes: safe beside torch and in notebooks

                pool = Parallel(workers, return_as="generator_unordered")
                yield from pool(delayed(_part_in)(os.getcwd(), *job) for job in jobs)

    try:
        for name, record, trouble in tqdm(results(), "prepare", len(cases), unit=" cases", disable=not progress):
            if trouble:
                report.left_out[name] = trouble
            else:
                done[name] = record
    except BrokenProcessPool:
        raise BadInput(
            "a process of prepare was ended from outside, most often for lack of memory; "
            "give the same command with --workers 1, it goes on where this one stopped"
        ) from None
    report.left_out = {c.name: report.left_out[c.name] for c in cases if c.name in report.left_out}
    return done


def _part_in(folder_of_caller: str, *job):
    """`_part` in a worker: relative paths are those of the caller, whatever the worker did before."""
    os.chdir(folder_of_caller)
    return _part(*job)


def _part(case: Case, folder: Path, like: dict | None, resolution: int, mm: float | None, frame: str, clip: bool):
    """One case -> its slices in `folder`; (name, record, None) or (name, None, the sentence why not).

    like: the record of the case that this one is a twin of.
    """
    done = folder / "done.json"
    if done.is_file():
        return case.name, json.loads(done.read_text()), None
    try:
        volume = read_case(case, liver_only=True)
        if clip and case.modality.upper() == "CT":
            np.clip(volume.hu, round(case.hu_min), round(case.hu_max), out=volume.hu)
        if not len(volume.z):
            return case.name, None, f"{case.segmentation} labels no liver; leave the case out or label it"
        if mm is not None and not volume.spacing_known:
            return (
                case.name,
                None,
                (
                    f"{case.volume} does not say how large its voxels are; leave --mm out, or write spacing known in volumes.csv "
                    "where its header can be believed"
                ),
            )
        fill = AIR if case.hu_min is None else max(AIR, int(case.hu_min))
        square = None
        if frame == "body":
            square = like["square"] if like else body_square(volume)
        if frame == "body" and square is None:
            volume.notes.append("no body was found: the whole image is kept")
        resample = Resampler(volume.hu.shape[1:], volume.spacing_mm[1:], resolution, mm, square)
        folder.mkdir(parents=True, exist_ok=True)
        hu = np.empty((len(volume.z), resolution, resolution), np.int16)
        labels = np.empty(hu.shape, np.uint8)
        for i in range(len(volume.z)):
            hu[i], labels[i] = resample.hu(volume.hu[i], fill), resample.labels(volume.labels[i])
        seen = labels.any(axis=(1, 2))  # all of them, unless `mm` cuts some liver off
        if not seen.any():
            cut = f"{resolution * mm:g} mm about its middle"
            return case.name, None, f"{case.volume} has no liver within {cut}; raise --mm"
        lost = int(((volume.labels == 2).any(axis=(1, 2)) & ~(labels == 2).any(axis=(1, 2))).sum())
        if not seen.all() or lost:
            volume.notes.append(f"{(~seen).sum()} slices have their liver, {lost} their tumor outside of the frame")
        z = volume.z[seen]
        if not seen.all():
            hu, labels = hu[seen], labels[seen]
        np.save(folder / "hu.npy", hu)
        np.save(folder / "labels.npy", labels)
        record = dict(
            folder=folder.name,
            z=z.tolist(),
            mm=volume.spacing_mm[0],
            mm_px=resample.mm_px,
            square=square,
            spacing_known=volume.spacing_known,
            liver_px=(labels > 0).sum((1, 2)).tolist(),
            tumor_px=(labels == 2).sum((1, 2)).tolist(),
            notes=volume.notes,
        )
        half = done.with_suffix(".part")
        half.write_text(json.dumps(record))
        half.replace(done)  # a case is done or it is not, whenever the program is stopped
        return case.name, record, None
    except BadInput as trouble:
        return case.name, None, str(trouble)
    except Exception as error:  # one case never ends the run
        return case.name, None, f"{case.volume} could not be prepared ({type(error).__name__}: {error})"


def _windows(cases, window, report, progress) -> dict[str, list[float]]:
    """One interval per modality; the default is cut down to what all its volumes hold."""
    windows = {}
    for modality in sorted({case.modality for case in cases}):
        mine = [case for case in cases if case.modality == modality]
        lows = [c.hu_min for c in mine if c.hu_min is not None]
        highs = [c.hu_max for c in mine if c.hu_max is not None]
        held = (max(lows, default=-np.inf), min(highs, default=np.inf))
        if window is not None:
            lo, hi = window
            if lo < held[0] or hi > held[1]:
                _say(
                    report,
                    f"note: the window [{lo:g}, {hi:g}] is wider than the [{held[0]:g}, {held[1]:g}] that "
                    f"all {modality} volumes hold",
                    progress,
                )
        else:
            start = DEFAULT_WINDOW if modality.upper() == "CT" else (-np.inf, np.inf)
            lo, hi = max(start[0], held[0]), min(start[1], held[1])
            if not (np.isfinite([lo, hi]).all() and lo < hi):
                raise BadInput(f"no default window fits the {modality} volumes; give one with --window LO HI")
            if (lo, hi) != DEFAULT_WINDOW:
                _say(
                    report,
                    f"window [{lo:g}, {hi:g}] for {modality}: the default "
                    f"[{DEFAULT_WINDOW[0]:g}, {DEFAULT_WINDOW[1]:g}] cut down to what all volumes hold",
                    progress,
                )
        windows[modality] = [float(lo), float(hi)]
    return windows


def _assemble(folder, cases, done, parts, resolution, seed, report, progress) -> None:
    """Join the parts in the order of the cases."""
    import pandas as pd

    splits = split_patients(
        {c.patient: c.split for c in cases},
        {c.patient: _state([d for d in cases if d.patient == c.patient], done) for c in cases},
        seed,
    )
    drawn = sum(1 for case in {c.patient: c for c in cases}.values() if case.split is None)
    if drawn:
        _say(report, f"{drawn} patients have no split in volumes.csv; drawn by patient with seed {seed}", progress)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shape = (sum(len(done[c.name]["z"]) for c in cases), resolution, resolution)
    folders = [parts / done[case.name]["folder"] for case in cases]
    _join(folder / "hu.npy", [part / "hu.npy" for part in folders], np.int16, shape)
    _join(folder / "labels.npy", [part / "labels.npy" for part in folders], np.uint8, shape)
    rows = []
    for case in cases:
        part = done[case.name]
        for z, liver, tumor in zip(part["z"], part["liver_px"], part["tumor_px"], strict=True):
            # z_mm: height above the lowest slice of this case that holds liver.
            rows.append(
                (
                    case.name,
                    case.patient,
                    splits[case.patient],
                    case.modality,
                    case.phase or "",
                    z,
                    round((z - part["z"][0]) * part["mm"], 3),
                    liver,
                    tumor,
                    int(case.tumor_known),
                    case.kernel or "",
                    "" if case.noise_hu is None else case.noise_hu,
                    round(part["mm_px"], 4),
                    case.twin_of or "",
                )
            )
    pd.DataFrame(rows, columns=COLUMNS + MORE_COLUMNS).to_csv(folder / "slices.csv", index=False)


def _join(file: Path, parts: list[Path], dtype, shape) -> None:
    """Write the .npy files `parts` one after the other as one array, without ever holding one of them."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for part in parts:
            with part.open("rb") as piece:
                np.lib.format.read_magic(piece)
                np.lib.format.read_array_header_1_0(piece)
                shutil.copyfileobj(piece, out, 1 << 22)
        out.flush()
        os.fsync(out.fileno())


def _state(cases, done) -> str:
    """What is known of a patient's tumors: with, without, or unknown."""
    if any(c.tumor_known and sum(done[c.name]["tumor_px"]) for c in cases):
        return "with"
    return "without" if all(c.tumor_known for c in cases) else "unknown"


def by_chance(patients, seed: int) -> list[str]:
    """Patients in the order of a seeded hash of their names: one more of them does not move the others."""
    return sorted(patients, key=lambda p: hashlib.sha256(f"{seed} {p}".encode()).hexdigest())


def split_patients(given: dict[str, str | None], states: dict[str, str], seed: int) -> dict[str, str]:
    """A split for every patient: the given one, else by the rank of a seeded hash within the same tumor state.

    Of each state 15 % (at least one, from four patients on) go to judge and as many to test, the rest to train.
    """
    splits = {patient: split for patient, split in given.items() if split}
    for state in sorted(set(states.values())):
        free = by_chance([p for p in given if p not in splits and states[p] == state], seed)
        takes = [s for s, share in SHARES.items() for _ in range(max(1, round(share * len(free))))]
        takes = takes if len(free) >= 4 else []
        splits |= dict(zip(free, takes + ["train"] * (len(free) - len(takes)), strict=True))
    return splits
