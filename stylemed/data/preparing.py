"""Volumes -> SliceStore: `stylemed prepare`. In parallel by case, restartable, and never half a store."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stylemed.data.body import body_square
from stylemed.data.layouts import SPLITS, Case, find_layout, relative
from stylemed.data.resample import Resampler
from stylemed.data.store import COLUMNS, EMPTY_SPLIT, FORMAT, MORE_COLUMNS, VERSION, SliceStore
from stylemed.data.volumes import read_case
from stylemed.errors import BadInput, Hindered
from stylemed.files import put, write_json
from stylemed.statistics import chance

DEFAULT_WINDOW = (-100.0, 250.0)
AIR = -1000
FRAMES = ("image", "body")
WORTH_MB = 64  # of files for each process: it takes a second to start
SHARES = {"judge": 0.15, "test": 0.15}  # the chance of a patient whose split volumes.csv does not give


@dataclass
class PrepareReport:
    """What `prepare` did: `left_out` {case: sentence}, `notes` said aloud, `table` for the terminal.

    `again`: those left out for another reason than what their files hold; the same call tries them again.
    """

    path: Path
    reused: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    table: str = ""
    again: list[str] = field(default_factory=list)


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
    `seed` places patients in splits where volumes.csv does not (`split_patients`). `workers`: processes, one case each.
    A case that cannot be used is left out and reported. The store appears complete or not at all; a run that was
    stopped goes on where it was, and a store that is already what is asked for is left as it is. A case that failed for
    another reason than what its files hold (no room, no memory) is tried again by the same call, and only it.
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
    if any(case.split is None for case in cases):
        settings["splits"] = "by each patient's own hash"  # not by rank among all, as in older stores
    digest = _digest(VERSION, settings, [_lasting(entry) for entry in inputs.values()])
    unfinished = bool(old.get("again")) and old.get("digest") == _unfinished(digest, old["again"])
    if old.get("digest") == digest and _complete(out):
        report.reused, report.left_out = True, old["left_out"]
        _say(report, f"{out} holds this already ({len(cases)} cases, resolution {resolution}); nothing to do", progress)
        report.table = SliceStore.open(out).describe()
        return report
    if unfinished:
        report.left_out = {name: why for name, why in old["left_out"].items() if name not in old["again"]}
        _say(report, f"{out} lacks {', '.join(old['again'])}, which failed last time; trying again", progress)
    elif old:
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
    info = dict(
        format=FORMAT,
        version=VERSION,
        resolution=resolution,
        digest=_unfinished(digest, report.again) if report.again else digest,
        windows=windows,
        settings=settings,
        inputs=list(inputs.values()),
        mm_known=[c.name for c in usable if done[c.name]["spacing_known"]],
        left_out=report.left_out,
        again=report.again,
        case_notes={c.name: done[c.name]["notes"] for c in usable if done[c.name]["notes"]},
    )
    try:
        _assemble(parts / "store", usable, done, parts, resolution, seed, report, progress)
        (parts / "store" / "store.json").write_text(json.dumps(info, indent=1))
    except OSError as error:
        shutil.rmtree(parts / "store", ignore_errors=True)
        raise BadInput(
            f"{out} cannot be written ({error.strerror or error}); make room and give the same command again, "
            "it goes on where this one stopped"
        ) from None
    put(parts / "store", out)
    if not report.again:
        shutil.rmtree(parts, ignore_errors=True)
    else:
        _say(
            report,
            f"note: {', '.join(report.again)} failed for another reason than what the files hold: the same command tries "
            f"again, and only these; until then {parts} keeps the others (it may be deleted)",
            progress,
        )
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
        try:
            stat, old = path.stat(), known.get(name, {})
            same = (old.get("bytes"), old.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
            with path.open("rb") as file:
                sha = old["sha256"] if same else hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # not there, a folder, or not to be read
            files.append(dict(path=name, bytes=0, mtime_ns=0, sha256="missing"))
            continue
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


def _unfinished(digest: str, again: list[str]) -> str:
    """The digest of a store that lacks the cases `again`: never that of the whole one."""
    return _digest(digest, again)


def _run(cases, inputs, parts, size, workers, report, progress) -> dict[str, dict]:
    """Prepare every case that is not left out already into `parts`; {case: its part's record} of those that worked."""
    from concurrent.futures.process import BrokenProcessPool

    from tqdm import tqdm

    asked = [case for case in cases if case.name not in report.left_out]
    size_mb = sum(inputs[case.name]["files"][0]["bytes"] for case in asked) / 1e6  # of the volumes
    workers = max(1, min(workers, len(asked), int(size_mb / WORTH_MB)))
    done, failed = {}, set()

    def results():
        for twins in (False, True):  # after their originals, whose square they take
            jobs = []
            for case in asked:
                if twins == bool(case.twin_of):
                    like = done.get(case.twin_of)
                    key = _digest(VERSION, size, _lasting(inputs[case.name]), like and like["square"])
                    # Names come from a table too, and may hold anything.
                    folder = f"{key}-{re.sub(r'[^A-Za-z0-9.-]+', '_', case.name)[:40]}"
                    jobs.append((case, parts / folder, like, *size))
            if workers == 1:
                yield from (_part(*job) for job in jobs)
            else:
                from joblib import Parallel, delayed  # starts clean processes: safe beside torch and in notebooks

                pool = Parallel(workers, return_as="generator_unordered")
                yield from pool(delayed(_part_in)(os.getcwd(), *job) for job in jobs)

    try:
        for name, record, trouble, passing in tqdm(
            results(), "prepare", len(asked), unit=" cases", disable=not progress
        ):
            if trouble:
                report.left_out[name] = trouble
                # A file that was missing from the start is another input once it is there.
                if passing and all(f["sha256"] != "missing" for f in inputs[name]["files"]):
                    report.left_out[name] += "; the same command tries it again"
                    failed.add(name)
            else:
                done[name] = record
    except BrokenProcessPool:
        raise BadInput(
            "a process of prepare was ended from outside, most often for lack of memory; "
            "give the same command with --workers 1, it goes on where this one stopped"
        ) from None
    report.left_out = {c.name: report.left_out[c.name] for c in cases if c.name in report.left_out}
    report.again = [name for name in report.left_out if name in failed]
    return done


def _part_in(folder_of_caller: str, *job):
    """`_part` in a worker: relative paths are those of the caller, whatever the worker did before."""
    os.chdir(folder_of_caller)
    return _part(*job)


def _part(case: Case, folder: Path, like: dict | None, resolution: int, mm: float | None, frame: str, clip: bool):
    """One case -> its slices in `folder`; (name, record, None, False) or (name, None, why not, whether that may pass).

    like: the record of the case that this one is a twin of.
    """
    done = folder / "done.json"
    if done.is_file():
        return case.name, json.loads(done.read_text()), None, False
    try:
        volume = read_case(case, liver_only=True)
        if clip and case.modality.upper() == "CT":
            np.clip(volume.hu, round(case.hu_min), round(case.hu_max), out=volume.hu)
        if not len(volume.z):
            raise BadInput(f"{case.segmentation} labels no liver; leave the case out or label it")
        if mm is not None and not volume.spacing_known:
            raise BadInput(
                f"{case.volume} does not say how large its voxels are; leave --mm out, or write spacing known in volumes.csv "
                "where its header can be believed"
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
            raise BadInput(f"{case.volume} has no liver within {cut}; raise --mm")
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
        write_json(done, record)  # a case is done or it is not, whenever the program is stopped
        return case.name, record, None, False
    except Hindered as trouble:
        shutil.rmtree(folder, ignore_errors=True)  # there may be no room for the others
        return case.name, None, str(trouble), True
    except BadInput as trouble:
        return case.name, None, str(trouble), False
    except Exception as error:  # one case never ends the run
        shutil.rmtree(folder, ignore_errors=True)
        return case.name, None, f"{case.volume} could not be prepared ({type(error).__name__}: {error})", True


def _windows(cases, window, report, progress) -> dict[str, list[float]]:
    """One interval per modality; the default is cut down to what all its volumes hold.

    `window` is that of CT, if there is CT, and of what has no range of its own in volumes.csv.
    """
    windows, modalities = {}, sorted({case.modality for case in cases})
    for modality in modalities:
        mine = [case for case in cases if case.modality == modality]
        lows = [c.hu_min for c in mine if c.hu_min is not None]
        highs = [c.hu_max for c in mine if c.hu_max is not None]
        held = (max(lows, default=-np.inf), min(highs, default=np.inf))
        if window is not None and (modality == "CT" or "CT" not in modalities or not np.isfinite(held).all()):
            lo, hi = window
            if lo < held[0] or hi > held[1]:
                _say(
                    report,
                    f"note: the window [{lo:g}, {hi:g}] reaches beyond the [{held[0]:g}, {held[1]:g}] that "
                    f"all {modality} volumes hold",
                    progress,
                )
        else:
            start = DEFAULT_WINDOW if modality == "CT" else (-np.inf, np.inf)
            lo, hi = max(start[0], held[0]), min(start[1], held[1])
            if not (np.isfinite([lo, hi]).all() and lo < hi):
                raise BadInput(f"no default window fits the {modality} volumes; give one with --window LO HI")
            if (lo, hi) != DEFAULT_WINDOW:
                default = f"the default [{start[0]:g}, {start[1]:g}] cut down to " if modality == "CT" else ""
                _say(report, f"window [{lo:g}, {hi:g}] for {modality}: {default}what all volumes hold", progress)
        windows[modality] = [float(lo), float(hi)]
    return windows


def _assemble(folder, cases, done, parts, resolution, seed, report, progress) -> None:
    """Join the parts in the order of the cases."""
    import pandas as pd

    given = {case.patient: case.split for case in cases}
    splits = split_patients(given, seed)
    drawn = sum(split is None for split in given.values())
    if drawn:
        _say(report, f"{drawn} patients have no split in volumes.csv; drawn by patient with seed {seed}", progress)
        empty = [name for name in SPLITS if name not in splits.values()]
        if empty:
            _say(report, f"note: no patient is in {' or '.join(empty)}; if you need one there, {EMPTY_SPLIT}", progress)
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


def split_patients(given: dict[str, str | None], seed: int) -> dict[str, str]:
    """A split for every patient: the given one, else by a hash of seed and name alone, so that more patients move nobody.

    Of all names 15 % go to judge and as many to test, the rest to train. Few patients may leave a split empty.
    """
    splits = {}
    for patient, split in given.items():
        place = chance(patient, seed)
        drawn = "judge" if place < SHARES["judge"] else "test" if place < sum(SHARES.values()) else "train"
        splits[patient] = split or drawn
    return splits
