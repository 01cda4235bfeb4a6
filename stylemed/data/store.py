"""Volumes -> SliceStore -> datasets in [-1, 1].

A SliceStore is a folder: `hu.npy` int16 [N, R, R], `labels.npy` uint8 [N, R, R] (0, 1 liver, 2 tumor), `slices.csv`
(one row per slice) and `store.json` (how it was made). It keeps intensities as they are; the window is applied on
reading.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stylemed.data.resample import Resampler
from stylemed.data.volumes import SPLITS, Case, find_cases, read_case
from stylemed.errors import BadInput

FORMAT, VERSION = "stylemed slice store", 1
DEFAULT_WINDOW = (-100.0, 250.0)
AIR = -1000
COLUMNS = ["case", "patient", "split", "modality", "phase", "z", "z_mm", "liver_px", "tumor_px", "tumor_known"]
SHARES = {"judge": 0.15, "test": 0.15}  # of the patients of each stratum, where volumes.csv gives no split


@dataclass(frozen=True)
class Window:
    """Interval of intensities (HU for CT) that is mapped to [-1, 1] and back."""

    lo: float
    hi: float

    def to_unit(self, hu) -> np.ndarray:
        """Intensities of any shape -> float32, clipped to [-1, 1]."""
        unit = np.asarray(hu, np.float32) * np.float32(2 / (self.hi - self.lo))
        unit -= np.float32((self.hi + self.lo) / (self.hi - self.lo))
        return np.clip(unit, -1, 1, out=unit if unit.ndim else None)

    def to_hu(self, unit) -> np.ndarray:
        """[-1, 1] -> intensities, float32 of the same shape."""
        return (np.asarray(unit, np.float32) + 1) * np.float32((self.hi - self.lo) / 2) + np.float32(self.lo)


@dataclass
class PrepareReport:
    """What `prepare` did: `left_out` {case: sentence}, `notes` said aloud, `table` for the terminal."""

    path: Path
    reused: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    table: str = ""


# ---------------------------------------------------------------- volumes -> store


def prepare(
    source,
    out,
    resolution: int,
    *,
    window: tuple[float, float] | None = None,
    include: str | None = None,
    exclude: str | None = None,
    workers: int = 2,
    seed: int = 0,
    progress: bool = True,
) -> PrepareReport:
    """Make the SliceStore `out` of every slice below `source` that holds liver.

    `resolution`: side of the images, a power of two from 8 to 1024. `window` (lo, hi): default [-100, 250] HU cut down
    to what all inputs hold. `include`, `exclude`: glob patterns, separated by commas, for a case's name, patient or
    path below `source`.
    `seed` places patients in splits where volumes.csv does not. `workers`: processes, one case each.
    A case that cannot be used is left out and reported. The store appears complete or not at all; a run that was
    stopped goes on where it was, and a store that is already what is asked for is left as it is.
    Raises BadInput where nothing can be made.
    """
    source, out, resolution = Path(source), Path(out), _power_of_two(resolution)
    if window is not None and not (np.isfinite(window).all() and window[0] < window[1]):
        raise BadInput(f"the window [{window[0]:g}, {window[1]:g}] is empty; give the lower value first")
    cases = find_cases(source, include, exclude)
    report = PrepareReport(out)
    old = _old_store(out)
    known = {f["path"]: f for entry in old.get("inputs", []) for f in entry["files"]}
    inputs = {case.name: _input(case, source, known) for case in cases}
    settings = dict(resolution=resolution, window=list(window) if window else None, seed=seed)
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
    done = _run(cases, inputs, parts, resolution, workers, report, progress)
    usable = [case for case in cases if case.name in done]
    if not usable:
        shutil.rmtree(parts, ignore_errors=True)
        first = next(iter(report.left_out.values()), "")
        raise BadInput(f"{source} holds no usable case among {len(cases)}; the first fails because {first}")
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
        left_out=report.left_out,
    )
    (parts / "store" / "store.json").write_text(json.dumps(info, indent=1))
    shutil.rmtree(parts / "old", ignore_errors=True)
    if out.exists():
        out.rename(parts / "old")
    (parts / "store").rename(out)
    shutil.rmtree(parts, ignore_errors=True)
    report.table = SliceStore.open(out).describe()
    return report


def _say(report, sentence, progress):
    report.notes.append(sentence)
    if progress:
        print(sentence)


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
        name, stat = path.relative_to(source).as_posix(), path.stat()
        old = known.get(name, {})
        same = (old.get("bytes"), old.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
        with path.open("rb") as file:
            sha = old["sha256"] if same else hashlib.file_digest(file, "sha256").hexdigest()
        files.append(dict(path=name, bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha))
    said = {
        k: getattr(case, k)
        for k in ("patient", "split", "modality", "phase", "hu_min", "hu_max", "tumor_known", "orientation")
    }
    return dict(case=case.name, files=files, **said)


def _lasting(entry: dict) -> dict:
    """An input without what a copy of the same files changes."""
    return entry | {"files": [{k: f[k] for k in ("path", "sha256")} for f in entry["files"]]}


def _digest(*things) -> str:
    return hashlib.sha256(json.dumps(things, sort_keys=True).encode()).hexdigest()[:16]


def _run(cases, inputs, parts, resolution, workers, report, progress) -> dict[str, dict]:
    """Prepare every case into `parts`; {case: its part's record} of those that worked."""
    from concurrent.futures.process import BrokenProcessPool

    from tqdm import tqdm

    jobs = []
    for case in cases:
        jobs.append((case, parts / f"{case.name}-{_digest(VERSION, resolution, _lasting(inputs[case.name]))}"))
    workers = max(1, min(workers, len(jobs)))
    if workers == 1:
        results = (_part(*job, resolution) for job in jobs)
    else:
        from joblib import Parallel, delayed  # starts clean processes: safe beside torch and in notebooks

        pool = Parallel(workers, return_as="generator_unordered")
        results = pool(delayed(_part)(*job, resolution) for job in jobs)
    done = {}
    try:
        for name, record, trouble in tqdm(results, "prepare", len(jobs), unit=" cases", disable=not progress):
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


def _part(case: Case, folder: Path, resolution: int):
    """One case -> its slices in `folder`; (name, record, None) or (name, None, the sentence why not)."""
    done = folder / "done.json"
    if done.is_file():
        return case.name, json.loads(done.read_text()), None
    try:
        volume = read_case(case)
        keep = np.flatnonzero(volume.labels.any(axis=(1, 2)))
        if not len(keep):
            return case.name, None, f"{case.segmentation} labels no liver; leave the case out or label it"
        fill = AIR if case.hu_min is None else max(AIR, int(case.hu_min))
        resample = Resampler(volume.hu.shape[1:], volume.spacing_mm[1:], resolution)
        folder.mkdir(parents=True, exist_ok=True)
        hu = np.empty((len(keep), resolution, resolution), np.int16)
        labels = np.empty(hu.shape, np.uint8)
        for i, z in enumerate(keep):
            hu[i] = resample.hu(volume.hu[z], fill)
            labels[i] = resample.labels(volume.labels[z])
        np.save(folder / "hu.npy", hu)
        np.save(folder / "labels.npy", labels)
        record = dict(
            folder=folder.name,
            z=keep.tolist(),
            mm=volume.spacing_mm[0],
            liver_px=(labels > 0).sum((1, 2)).tolist(),
            tumor_px=(labels == 2).sum((1, 2)).tolist(),
        )
        done.write_text(json.dumps(record))
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
    """Join the parts in the order of the cases, one after the other in memory."""
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
    hu = np.lib.format.open_memmap(folder / "hu.npy", "w+", np.int16, shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, shape)
    rows, at = [], 0
    for case in cases:
        part = done[case.name]
        n = len(part["z"])
        hu[at : at + n] = np.load(parts / part["folder"] / "hu.npy", mmap_mode="r")
        labels[at : at + n] = np.load(parts / part["folder"] / "labels.npy", mmap_mode="r")
        at += n
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
                )
            )
    hu.flush()
    labels.flush()
    del hu, labels
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "slices.csv", index=False)


def _state(cases, done) -> str:
    """What is known of a patient's tumors: with, without, or unknown."""
    if any(c.tumor_known and sum(done[c.name]["tumor_px"]) for c in cases):
        return "with"
    return "without" if all(c.tumor_known for c in cases) else "unknown"


def split_patients(given: dict[str, str | None], states: dict[str, str], seed: int) -> dict[str, str]:
    """A split for every patient: the given one, else by the rank of a seeded hash within the same tumor state.

    Of each state 15 % (at least one, from four patients on) go to judge and as many to test, the rest to train.
    """
    splits = {patient: split for patient, split in given.items() if split}
    for state in sorted(set(states.values())):
        free = [p for p in given if p not in splits and states[p] == state]
        free.sort(key=lambda p: hashlib.sha256(f"{seed} {p}".encode()).hexdigest())
        takes = [s for s, share in SHARES.items() for _ in range(max(1, round(share * len(free))))]
        takes = takes if len(free) >= 4 else []
        splits |= dict(zip(free, takes + ["train"] * (len(free) - len(takes)), strict=True))
    return splits


# ---------------------------------------------------------------- store -> images


class SliceStore:
    """An opened store; `.hu` and `.labels` stay on disk until rows are read.

    Attributes: path, hu [N, R, R], labels [N, R, R], slices (pandas table, one row per slice), resolution, windows
    {modality: Window}, window (of the only or first modality), info (store.json), digest (inputs and settings).
    """

    def __init__(self, path, info, hu, labels, slices):
        self.path, self.info, self.hu, self.labels, self.slices = path, info, hu, labels, slices
        self.resolution: int = info["resolution"]
        self.windows = {modality: Window(*ends) for modality, ends in info["windows"].items()}
        self.window = self.windows.get("CT") or next(iter(self.windows.values()))
        self.digest: str = info["digest"]

    @classmethod
    def open(cls, path) -> SliceStore:
        """Raises BadInput for a folder that is no store, of another version, or not whole."""
        import pandas as pd

        path = Path(path)
        cure = "make it again with stylemed prepare"
        if not (path / "store.json").is_file():
            raise BadInput(f"{path} is no slice store (it has no store.json); make one with stylemed prepare")
        try:
            info = json.loads((path / "store.json").read_text())
            version, known = info["version"], info["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            raise BadInput(f"{path / 'store.json'} is damaged; {cure}") from None
        if not known or version != VERSION:
            raise BadInput(
                f"{path} is a slice store of version {version}, this program reads version {VERSION}; {cure}"
            )
        for name in ("hu.npy", "labels.npy", "slices.csv"):
            if not (path / name).is_file():
                raise BadInput(f"{path} lacks {name}; {cure}")
        try:
            hu = np.load(path / "hu.npy", mmap_mode="r")
            labels = np.load(path / "labels.npy", mmap_mode="r")
            slices = pd.read_csv(path / "slices.csv", dtype={"case": str, "patient": str}, keep_default_na=False)
            shape = (len(slices), info["resolution"], info["resolution"])
            whole = hu.shape == labels.shape == shape and (hu.dtype, labels.dtype) == (np.int16, np.uint8)
            whole = whole and set(COLUMNS) <= set(slices.columns) and bool(info["windows"]) and "digest" in info
        except (ValueError, OSError, KeyError, TypeError, EOFError):
            whole = False
        if not whole:
            raise BadInput(f"{path} is damaged (its files do not fit together); {cure}")
        return cls(path, info, hu, labels, slices)

    def __len__(self) -> int:
        return len(self.slices)

    def select(self, split=None, tumor=None, modality=None) -> np.ndarray:
        """Row numbers. `tumor` True: known to hold tumor, False: known to hold none, None: all, unknown ones too."""
        t = self.slices
        if split is not None and split not in SPLITS:
            raise BadInput(f"unknown split {split!r}; choose train, judge or test")
        mask = np.ones(len(t), bool)
        if split is not None:
            mask &= (t["split"] == split).to_numpy()
        if modality is not None:
            mask &= (t["modality"] == modality).to_numpy()
        if tumor is not None:
            mask &= ((t["tumor_known"] == 1) & ((t["tumor_px"] > 0) == bool(tumor))).to_numpy()
        return np.flatnonzero(mask)

    def images(self, rows) -> np.ndarray:
        """Rows -> float32 [n, 1, R, R] in [-1, 1], each through the window of its modality."""
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        hu = self.hu[rows]
        out = np.empty((len(rows), 1, *hu.shape[1:]), np.float32)
        modality = self.slices["modality"].to_numpy()[rows]
        for name, window in self.windows.items():
            out[modality == name, 0] = window.to_unit(hu[modality == name])
        return out

    def describe(self) -> str:
        """What is in the store, as a table for the terminal."""
        t = self.slices
        lines = [f"{self.path}: {len(t)} slices of {self.resolution} x {self.resolution} pixels, store {self.digest}"]
        lines += [f"window {name} [{w.lo:g}, {w.hi:g}]" for name, w in self.windows.items()]
        lines.append(f"{'split':<7}{'patients':>9}{'cases':>7}{'slices':>8}{'tumor':>8}{'no tumor':>10}{'unknown':>9}")
        for name in (*SPLITS, "all"):
            part = t if name == "all" else t[t["split"] == name]
            if not len(part):
                continue
            known = part["tumor_known"] == 1
            tumor = part["tumor_px"] > 0
            lines.append(
                f"{name:<7}{part['patient'].nunique():>9}{part['case'].nunique():>7}{len(part):>8}"
                f"{(known & tumor).sum():>8}{(known & ~tumor).sum():>10}{(~known).sum():>9}"
            )
        left = self.info.get("left_out", {})
        lines += [f"left out {len(left)} cases:"] if left else []
        lines += [f"  {name}: {why}" for name, why in left.items()]
        return "\n".join(lines)


class SliceDataset:
    """Slices of one split as torch tensors in [-1, 1]; `select` takes what SliceStore.select takes."""

    channels = 1

    def __init__(self, store: SliceStore, split: str | None = "train", **select):
        self.store = store
        self.rows = store.select(split, **select)
        self.resolution = store.resolution
        # What travels with weights trained on these slices.
        windows = {name: {"lo": window.lo, "hi": window.hi} for name, window in store.windows.items()}
        self.metadata = {"windows": windows, "store": store.digest, "split": split}
        if not len(self.rows):
            raise BadInput(
                f"{store.path} holds no slice of split {split or 'any'} with {select or 'any label'}; "
                "see what it holds with stylemed inspect"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        """float32 tensor [1, R, R]."""
        return self.images([i])[0]

    def images(self, positions):
        """Positions in the dataset -> float32 tensor [n, 1, R, R]."""
        import torch

        return torch.from_numpy(self.store.images(self.rows[np.asarray(positions, dtype=np.int64)]))
