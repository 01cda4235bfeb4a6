"""CT volumes on disk -> arrays in one canonical orientation.

Reads the layout of LiTS: pairs `volume-N.nii[.gz]` and `segmentation-N.nii[.gz]`, in sub-folders too, and beside them
an optional `volumes.csv` that says what the files cannot (patient, split, modality, phase, range of the intensities,
whether tumors are labelled, orientation).
Canonical axes are [Z, Y, X]: z grows toward the head, row 0 is anterior, column 0 is the patient's right.
"""

from __future__ import annotations

import fnmatch
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylemed.errors import BadInput

SPLITS = ("train", "judge", "test")
CANONICAL = "LPS"  # of the stored axes (x, y, z): indices grow to the left, to the back, to the head
PADDING_HU = -1024  # lower values are what scanners write outside of their circle
AIR_HU = -500  # a volume that stays below holds no body


@dataclass(frozen=True)
class Case:
    """One volume with its segmentation, and the patient it belongs to.

    `hu_min`, `hu_max`: range the intensities were already cut to, None where they were not.
    `tumor_known`: False where the labels do not tell tumor from liver; such a case is never tumor-free.
    `orientation`: axis codes such as "LPS" that stand above the file's header, None to trust the header.
    """

    name: str
    volume: Path
    segmentation: Path
    patient: str
    split: str | None = None
    modality: str = "CT"
    phase: str | None = None
    hu_min: float | None = None
    hu_max: float | None = None
    tumor_known: bool = True
    orientation: str | None = None


@dataclass
class Volume:
    """A case in memory: `hu` int16 and `labels` uint8 (0, 1 liver, 2 tumor), both [Z, Y, X]; `spacing_mm` (z, y, x)."""

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    case: Case


# ---------------------------------------------------------------- what is there


def find_cases(source, include: str | None = None, exclude: str | None = None) -> list[Case]:
    """LiTS pairs below `source`, in the order of their numbers, with what `volumes.csv` says of them.

    `include`, `exclude`: glob patterns, separated by commas, for a case's name, number, patient or file. Default: all.

    Raises BadInput for a folder that is missing or holds no pair, a volume without segmentation, a table that names a
    volume that is not there, an unknown split, or one patient in two splits, and patterns that leave nothing.
    """
    source = Path(source)
    if not source.is_dir():
        raise BadInput(
            f"{source} is not a folder; give the folder that holds volume-N.nii.gz and segmentation-N.nii.gz"
        )
    volumes, segmentations = _numbered(source, "volume"), _numbered(source, "segmentation")
    if not volumes:
        raise BadInput(
            f"{source} holds no volume-N.nii or volume-N.nii.gz, nor do its sub-folders; "
            "give a folder in the layout of LiTS"
        )
    for number, path in volumes.items():
        if number not in segmentations:
            raise BadInput(f"{path} has no segmentation-{number}.nii[.gz] in {source}; add it or take the volume away")
    table = _read_table(source)
    for number in table:
        if number not in volumes:
            raise BadInput(
                f"{source / 'volumes.csv'} names volume {number}, but there is no volume-{number}.nii[.gz]; "
                "remove the row or add the file"
            )
    cases = [
        _case(number, volumes[number], segmentations[number], table.get(number, {}), source / "volumes.csv")
        for number in sorted(volumes, key=lambda n: (len(n), n))
    ]
    splits: dict[str, Case] = {}
    for case in cases:
        first = splits.setdefault(case.patient, case)
        if first.split != case.split:
            raise BadInput(
                f"{source / 'volumes.csv'} puts patient {case.patient} into two splits "
                f"({first.name}: {first.split or 'none'}, {case.name}: {case.split or 'none'}); "
                "give all volumes of a patient the same split"
            )
    return _chosen(cases, source, include, exclude)


def _chosen(cases, source, include, exclude) -> list[Case]:
    def fits(case, patterns):
        names = (
            case.name,
            case.name.removeprefix("volume-"),
            case.patient,
            case.volume.name,
            case.volume.relative_to(source).as_posix(),
        )
        return any(fnmatch.fnmatch(name, pattern.strip()) for name in names for pattern in patterns.split(","))

    chosen = [c for c in cases if (not include or fits(c, include)) and not (exclude and fits(c, exclude))]
    if not chosen:
        raise BadInput(
            f"none of the {len(cases)} cases in {source} is left after --include {include or '*'} "
            f"--exclude {exclude or '(none)'}; the first is named {cases[0].name}"
        )
    return chosen


def _numbered(source: Path, kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    pattern = re.compile(rf"{kind}-(\w+)\.nii(\.gz)?", re.IGNORECASE)
    for path in sorted(source.rglob("*")):
        match = pattern.fullmatch(path.name)
        if not match:
            continue
        number = match[1]
        if number in found:
            raise BadInput(f"{found[number]} and {path} are both {kind} {number}; keep one of them")
        found[number] = path
    return found


def _read_table(source: Path) -> dict[str, dict[str, str]]:
    """Rows of volumes.csv by volume, every cell a stripped string, empty cells left out."""
    import csv

    path = source / "volumes.csv"
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a readable CSV table ({error}); save it as UTF-8 with commas") from None
    if rows and "volume" not in rows[0]:
        raise BadInput(f"{path} has no column volume; its first line must name the columns volume, patient, split, …")
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        cells = {k: v.strip() for k, v in row.items() if isinstance(k, str) and isinstance(v, str) and v.strip()}
        number = re.sub(r"^volume-|\.nii(\.gz)?$", "", cells.pop("volume", ""))
        if not number:
            continue
        if number in table:
            raise BadInput(f"{path} names volume {number} twice; keep one row")
        table[number] = cells
    return table


def _case(number, volume, segmentation, row, table) -> Case:
    def value(column, allowed, cure):
        text = row.get(column)
        if text is not None and text.lower() not in allowed:
            raise BadInput(f"{table}: {column} of volume {number} is {text!r}; {cure}")
        return None if text is None else text.lower()

    def number_of(column):
        try:
            return None if column not in row else float(row[column])
        except ValueError:
            raise BadInput(
                f"{table}: {column} of volume {number} is {row[column]!r}; give a number or leave it empty"
            ) from None

    hu_min, hu_max = number_of("hu_min"), number_of("hu_max")
    if hu_min is not None and hu_max is not None and not hu_min < hu_max:
        raise BadInput(
            f"{table}: volume {number} has hu_min {hu_min:g} and hu_max {hu_max:g}; hu_min must be the smaller"
        )
    orientation = row.get("orientation")
    if orientation is not None:
        orientation = orientation.upper()
        if sorted({"L": "x", "R": "x", "A": "y", "P": "y", "S": "z", "I": "z"}.get(c, "?") for c in orientation) != [
            "x",
            "y",
            "z",
        ]:
            raise BadInput(
                f"{table}: orientation of volume {number} is {orientation!r}; "
                "give three axis codes such as LPS, or leave it empty to trust the header"
            )
    known = value("tumor_labels", ("known", "unknown"), "write known or unknown")
    return Case(
        name=f"volume-{number}",
        volume=volume,
        segmentation=segmentation,
        patient=row.get("patient", f"volume-{number}"),
        split=value("split", SPLITS, "write train, judge or test"),
        modality=row.get("modality", "CT"),
        phase=row.get("phase"),
        hu_min=hu_min,
        hu_max=hu_max,
        tumor_known=known != "unknown",
        orientation=orientation,
    )


# ---------------------------------------------------------------- what is in it


def read_case(case: Case) -> Volume:
    """Read a pair into canonical axes: HU int16 cut to [-1024, 32767], labels 0, 1, 2.

    The volume stays in the type it was stored in until it is int16. Raises BadInput for files that cannot be read, are
    not three-dimensional, do not match, hold NaN or infinite values, labels other than 0, 1, 2, or nothing but air.
    """
    image, mask = _open(case.volume), _open(case.segmentation)
    if _three(image.shape) != _three(mask.shape):
        raise BadInput(
            f"{case.volume} has the shape {_times(image.shape)} and {case.segmentation} {_times(mask.shape)}; "
            "a segmentation must lie on the grid of its volume"
        )
    labels = _labels(*_pixels(mask, case.segmentation), case.segmentation)
    hu = _hounsfield(*_pixels(image, case.volume), case.volume)
    # Same grid, so the volume's header speaks for both (a segmentation's affine is often left at the default).
    hu, spacing = to_canonical(hu, image.affine, case.orientation, case.volume)
    labels, _ = to_canonical(labels, image.affine, case.orientation, case.segmentation)
    if case.modality.upper() == "CT" and int(hu.max()) <= AIR_HU:
        raise BadInput(
            f"{case.volume} holds nothing but air (its highest value is {int(hu.max())} HU); "
            "check its intensity scale or leave it out"
        )
    return Volume(hu, labels, spacing, case)


def to_canonical(array, affine, orientation=None, path="volume"):
    """Turn an array (x, y, z in any order and direction) into [Z, Y, X]; a view where possible, and (z, y, x) in mm."""
    import nibabel as nib

    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise BadInput(f"{path} has no usable orientation in its header; write one with the tool that made the file")
    start = nib.orientations.io_orientation(affine)
    codes = nib.orientations.axcodes2ornt(tuple(orientation)) if orientation else start
    if np.isnan(codes).any():
        raise BadInput(f"{path} has no usable orientation in its header; name it in volumes.csv, column orientation")
    turn = nib.orientations.ornt_transform(codes, nib.orientations.axcodes2ornt(tuple(CANONICAL)))
    array = nib.orientations.apply_orientation(array, turn)
    voxel = np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(0))
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = voxel
    return array.transpose(2, 1, 0), tuple(float(s) for s in spacing[::-1])


def _open(path: Path):
    import nibabel as nib

    try:
        return nib.load(path)
    except FileNotFoundError:
        raise BadInput(f"{path} is not there") from None
    except Exception as error:  # nibabel raises many kinds; all mean the same to the user
        raise BadInput(f"{path} is not a NIfTI file ({_short(error)}); download or export it again") from None


def _pixels(image, path: Path):
    """The voxels [x, y, z] in their stored type, with the header's slope and intercept."""
    try:
        array = np.asanyarray(image.dataobj.get_unscaled())
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise BadInput(f"{path} is damaged or cut short ({_short(error)}); download or copy it again") from None
    except Exception as error:
        raise BadInput(f"{path} cannot be read ({_short(error)}); download or export it again") from None
    if array.ndim < 3 or array.size == 0 or any(n != 1 for n in array.shape[3:]):
        raise BadInput(f"{path} has the shape {_times(array.shape)}; give one three-dimensional volume per file")
    if array.dtype.kind not in "iufb":
        raise BadInput(f"{path} holds values of the type {array.dtype}; give one number per voxel")
    return array.reshape(array.shape[:3]), float(image.dataobj.slope), float(image.dataobj.inter)


def _slices(array, slope, inter):
    """Slice after slice in true units: a float copy of the whole volume is never made."""
    for k in range(array.shape[2]):
        part = array[..., k]
        yield k, part if (slope, inter) == (1.0, 0.0) else part * np.float64(slope) + inter


def _labels(array, slope, inter, path) -> np.ndarray:
    out = np.empty(array.shape, np.uint8, order="F")
    for k, part in _slices(array, slope, inter):
        good = np.isin(part, (0, 1, 2))
        if not good.all():
            odd = part[~good].flat[0]
            raise BadInput(f"{path} holds the label {odd:g}; labels must be 0 (background), 1 (liver) and 2 (tumor)")
        out[..., k] = part
    return out


def _hounsfield(array, slope, inter, path) -> np.ndarray:
    out = np.empty(array.shape, np.int16, order="F")
    for k, part in _slices(array, slope, inter):
        if part.dtype.kind == "f":
            if not np.isfinite(part).all():
                raise BadInput(f"{path} holds NaN or infinite values; replace them (air is -1000 HU) and save it again")
            part = np.rint(part)
        out[..., k] = np.clip(part, PADDING_HU, 32767)
    return out


def _three(shape):
    return tuple(shape[:3]) if all(n == 1 for n in shape[3:]) else tuple(shape)


def _times(shape) -> str:
    return " x ".join(str(n) for n in shape)


def _short(error) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
