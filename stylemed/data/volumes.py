"""CT volumes on disk -> arrays in one canonical orientation.

Canonical axes are [Z, Y, X]: z grows toward the head, row 0 is anterior, column 0 is the patient's right.
Files are read slice by slice in the order they are stored in, so that neither a float copy of a volume nor slices that nobody
asked for are ever in memory.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stylemed.data.body import BODY_HU
from stylemed.data.layouts import Case
from stylemed.errors import BadInput, Hindered

CANONICAL = "LPS"  # of the stored axes (x, y, z): indices grow to the left, to the back, to the head
PADDING_HU = -1024  # lower values are what scanners write outside of their circle
MOST_ROUNDED = 0.02  # of the range of a volume: what rounding to whole numbers may change
AIR_HU = -500  # a volume that stays below holds no body
BRIGHT_HU = 200  # what counts as bone when the orientation is looked at
OFF_CENTRE = 0.04  # of the body's extent: a liver or spine farther than that on the wrong side is suspicious
MM = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}


@dataclass
class Volume:
    """A case in memory.

    `hu` int16 and `labels` uint8 (0, 1 liver, 2 tumor), both [Z, Y, X]; `z`: number of each row's slice in the whole volume,
    from the feet; `spacing_mm` (z, y, x); `spacing_known`: whether these were measured; `notes`: what is odd about the files.
    """

    hu: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]
    case: Case
    z: np.ndarray
    spacing_known: bool = True
    notes: list[str] = field(default_factory=list)


def read_case(case: Case, liver_only: bool = False) -> Volume:
    """Read a pair into canonical axes: HU int16 cut to [-1024, 32767], labels 0, 1, 2.

    `liver_only`: keep the slices that hold liver or tumor, and nothing else in memory. Both files are read to their end either
    way. Raises BadInput for files that are missing, cannot be read, are not three-dimensional, do not match, hold NaN or
    infinite values, labels other than 0, 1, 2, or nothing but air; Hindered, a kind of it, where the trouble may pass.
    """
    if not case.segmentation.exists():
        raise Hindered(f"{case.volume} has no {case.segmentation.name}; add it or take the volume away")
    image, mask = _Stored(case.volume), _Stored(case.segmentation)
    if image.shape != mask.shape:
        raise BadInput(
            f"{case.volume} has the shape {_times(image.shape)} and {case.segmentation} {_times(mask.shape)}; "
            "a segmentation must lie on the grid of its volume"
        )
    # Same grid, so the volume's header speaks for both (a segmentation's affine is often left at the default).
    turn = image.turn(case.orientation)
    axis = int(np.flatnonzero(turn[:, 0] == 2)[0])  # the stored axis along the body
    keep = np.ones(image.shape[axis], bool)
    labels = _read(mask, axis, keep, _labels)
    if liver_only:
        keep = labels.any(axis=tuple({0, 1, 2} - {axis}))
        labels = np.moveaxis(np.moveaxis(labels, axis, 0)[keep], 0, axis)
    hu = _read(image, axis, keep, _hounsfield)
    z = np.flatnonzero(keep[:: int(turn[axis, 1])])
    hu, labels = _turned(hu, turn), _turned(labels, turn)
    if case.modality.upper() == "CT" and hu.size and int(hu.max()) <= AIR_HU:
        raise BadInput(
            f"{case.volume} holds nothing but air (its highest value is {int(hu.max())} HU); "
            "check its intensity scale or leave it out"
        )
    spacing = np.empty(3)
    spacing[turn[:, 0].astype(int)] = image.voxel
    volume = Volume(hu, labels, tuple(float(s) for s in spacing[::-1]), case, z)
    volume.spacing_known = image.unit_known if case.spacing_known is None else case.spacing_known
    volume.notes = [*image.notes("intensities"), *mask.notes("labels"), *_doubts(volume)]
    if not np.allclose(image.affine, mask.affine, atol=1e-3):
        volume.notes.append("the segmentation has another affine; the volume's was taken for both")
    return volume


def read_some(cases: list[Case], count: int) -> list[Volume]:
    """Up to `count` of the cases, to look at, those whose tumors are known first. The first is whole, of the others the slices
    with liver are there. Cases without liver, and those that cannot be read, are passed over; BadInput where none is left.
    """
    volumes: list[Volume] = []
    first = None
    for case in sorted(cases, key=lambda case: not case.tumor_known):
        try:
            volume = read_case(case, liver_only=bool(volumes))
        except BadInput as error:
            first = first or error
            continue
        if volume.labels.any():
            volumes.append(volume)
        if len(volumes) == count:
            break
    if not volumes:
        raise first or BadInput(f"{cases[0].segmentation} labels no liver, nor does any other; label it")
    return volumes


def write_pair(folder: Path, number: str, hu, labels, spacing_mm=(1.0, 1.0, 1.0), origin_mm=(0.0, 0.0)) -> None:
    """Write `hu` and `labels` [Z, Y, X] in canonical axes as volume-NUMBER.nii.gz and segmentation-NUMBER.nii.gz.

    spacing_mm (z, y, x); origin_mm (x, y): of the first pixel in the world of NIfTI (RAS).
    """
    import nibabel as nib

    z, y, x = spacing_mm
    affine = np.diag([-x, -y, z, 1.0])  # LPS arrays in a RAS world
    affine[:2, 3] = origin_mm
    for kind, array in (("volume", hu), ("segmentation", labels)):
        file = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
        file.set_qform(affine, 1)
        file.set_sform(affine, 1)
        file.header.set_xyzt_units("mm")
        packed = gzip.compress(file.to_bytes(), compresslevel=4, mtime=0)  # no time stamp: equal pairs are equal files
        (folder / f"{kind}-{number}.nii.gz").write_bytes(packed)


class _Stored:
    """A NIfTI file: its header, and its slices along the last axis in the stored type."""

    def __init__(self, path: Path):
        import nibabel as nib

        self.path = path
        try:
            with path.open("rb") as file:
                file.read(1)  # a disk's error shows here; nibabel would call it a wrong type of file
            image = nib.load(path)
            proxy = image.dataobj
            shape, self.dtype, self.offset = proxy.shape, np.dtype(proxy.dtype), int(proxy.offset)
            self.slope, self.inter = float(proxy.slope), float(proxy.inter)
            self.affine = np.asarray(image.affine, float)
            self.unit = image.header.get_xyzt_units()[0]
        except FileNotFoundError:
            raise Hindered(f"{path} is not there") from None
        except Exception as error:  # nibabel raises many kinds; all mean the same to the user
            _let_pass(path, error)
            raise BadInput(f"{path} is not a NIfTI file ({_short(error)}); download or export it again") from None
        if len(shape) < 3 or any(n != 1 for n in shape[3:]) or any(n < 1 for n in shape[:3]):
            raise BadInput(f"{path} has the shape {_times(shape)}; give one three-dimensional volume per file")
        if self.dtype.kind not in "iufb":
            raise BadInput(f"{path} holds values of the type {self.dtype}; give one number per voxel")
        self.four, self.shape = len(shape) > 3, tuple(int(n) for n in shape[:3])
        self.voxel = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)) * MM.get(self.unit, 1.0)
        self.unit_known = self.unit in MM
        self.lowest = self.highest = self.rounded = 0.0  # of its values, and what rounding changed at most

    def slices(self):
        """(k, array [x, y] in the stored type) for every k of the last axis; reads the file to its end.

        The end matters: a gzip's checksum stands there.
        """
        x, y, n = self.shape
        size = x * y * self.dtype.itemsize
        try:
            with _opened(self.path) as file:
                _skip(file, self.offset)
                for k in range(n):
                    data = file.read(size)
                    if len(data) < size:
                        raise EOFError(f"slice {k + 1} of {n} is not there")
                    yield k, np.frombuffer(data, self.dtype).reshape((x, y), order="F")
                while file.read(1 << 20):
                    pass
        except Exception as error:  # EOFError, zlib.error, isal's own: all mean the same to the user
            _let_pass(self.path, error)
            raise BadInput(
                f"{self.path} is damaged or cut short ({_short(error)}); download or copy it again"
            ) from None

    def turn(self, orientation: str | None) -> np.ndarray:
        """nibabel's orientation transform [3, 2] from the stored axes to the canonical ones."""
        import nibabel as nib

        cure = "name it in volumes.csv, column orientation"
        affine = self.affine
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise BadInput(
                f"{self.path} has no usable orientation in its header; write one with the tool that made the file"
            )
        start = nib.orientations.io_orientation(affine)
        codes = nib.orientations.axcodes2ornt(tuple(orientation)) if orientation else start
        if np.isnan(codes).any():
            raise BadInput(f"{self.path} has no usable orientation in its header; {cure}")
        return nib.orientations.ornt_transform(codes, nib.orientations.axcodes2ornt(tuple(CANONICAL)))

    def notes(self, what: str) -> list[str]:
        """What a reader should know of how the numbers were stored."""
        found = []
        if (self.slope, self.inter) != (1.0, 0.0):
            found.append(f"{what} stored with slope {self.slope:g} and intercept {self.inter:g}")
        if self.dtype.kind == "f":
            found.append(f"{what} stored as {self.dtype.name}")
        if self.four:
            found.append(f"{what} stored with a fourth axis of length 1")
        if what == "intensities" and self.lowest < PADDING_HU:
            found.append(
                f"intensities down to {self.lowest:g} set to {PADDING_HU} (padding outside of the scanner's circle)"
            )
        return found


def _let_pass(path: Path, error: Exception) -> None:
    """Raise Hindered where the machine failed, not the file: no memory, or what the operating system has a number for."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
        raise Hindered(f"{path} cannot be read now ({_short(error)}); look after the disk and the memory") from None


def _opened(path: Path):
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    if not zipped:
        return path.open("rb")
    try:
        from isal import igzip  # two to three times as fast
    except ImportError:
        return gzip.open(path, "rb")
    return igzip.open(path, "rb")


def _skip(file, count: int) -> None:
    while count > 0:
        data = file.read(min(count, 1 << 20))
        if not data:
            raise EOFError("the file ends before its voxels begin")
        count -= len(data)


def _read(stored: _Stored, axis: int, keep: np.ndarray, convert) -> np.ndarray:
    """The slices `keep` along `axis`, converted: [x, y, z] with the length of that axis cut down."""
    kept = []
    for k, part in stored.slices():
        part = convert(part, stored)
        if axis < 2:
            kept.append(part.compress(keep, axis).T)
        elif keep[k]:
            kept.append(part.T)
    if stored.rounded > MOST_ROUNDED * (stored.highest - stored.lowest):
        raise BadInput(
            f"{stored.path} holds fractions from {stored.lowest:g} to {stored.highest:g}, which are no HU; "
            "export it before it is normalised, or scale it back"
        )
    if not kept:
        return np.empty((*stored.shape[:2], 0), np.uint8 if convert is _labels else np.int16)
    return np.stack(kept).transpose(2, 1, 0)  # slices stay in one piece, as the file has them


def _true(part, stored):
    if (stored.slope, stored.inter) == (1.0, 0.0):
        return part
    return part * np.float64(stored.slope) + stored.inter


def _labels(part, stored) -> np.ndarray:
    """One slice -> uint8."""
    part = _true(part, stored)
    if part.dtype == np.uint8 and part.max() <= 2:
        return part
    good = (part == 0) | (part == 1) | (part == 2)
    if not good.all():
        odd = part[~good].flat[0]
        raise BadInput(f"{stored.path} holds the label {odd:g}; labels must be 0 (background), 1 (liver) and 2 (tumor)")
    return part.astype(np.uint8)


def _hounsfield(part, stored) -> np.ndarray:
    """One slice -> int16."""
    part = _true(part, stored)
    if part.dtype.kind == "f":
        if not np.isfinite(part).all():
            raise BadInput(
                f"{stored.path} holds NaN or infinite values; replace them (air is -1000 HU) and save it again"
            )
        whole = np.rint(part)
        stored.rounded = max(stored.rounded, float(np.abs(whole - part).max()))
        part = whole
    lowest = float(part.min())
    stored.lowest, stored.highest = min(stored.lowest, lowest), max(stored.highest, float(part.max()))
    if part.dtype == np.int16 and lowest >= PADDING_HU:
        return part
    return np.clip(part, PADDING_HU, 32767).astype(np.int16)


def _turned(array, turn) -> np.ndarray:
    """Stored axes (x, y, z in any order and direction) -> [Z, Y, X]; a view."""
    import nibabel as nib

    return nib.orientations.apply_orientation(array, turn).transpose(2, 1, 0)


def _doubts(volume: Volume) -> list[str]:
    """Whether the body contradicts the header: where the liver lies, and the spine. Nothing is turned for it.

    The liver is the largest organ of the right side, in column 0's half; bone is densest at the spine, in the lower half.
    """
    liver = volume.labels > 0
    rows = np.flatnonzero(liver.any(axis=(1, 2)))[:: max(1, len(volume.labels) // 20)]  # some slices say enough
    if not len(rows) or volume.case.modality.upper() != "CT":
        return []
    hu, liver = volume.hu[rows], liver[rows]
    body = hu > max(BODY_HU, -np.inf if volume.case.hu_min is None else volume.case.hu_min)
    bone = hu >= min(BRIGHT_HU, np.inf if volume.case.hu_max is None else volume.case.hu_max - 5)
    found = []
    centre = {name: _centre(mask) for name, mask in (("body", body), ("liver", liver), ("bone", bone)) if mask.any()}
    _, height, width = body.shape
    header = "the header says" if volume.case.orientation is None else "the table says"
    if "body" in centre and (centre["liver"][1] - centre["body"][1]) / width > OFF_CENTRE:
        found.append(
            f"the liver lies on the patient's left: either {header} the wrong orientation, or the organs are mirrored; "
            "look at it, and correct it in volumes.csv, column orientation"
        )
    if "body" in centre and "bone" in centre and (centre["bone"][0] - centre["body"][0]) / height < -OFF_CENTRE:
        found.append(
            f"the spine lies in front: either {header} the wrong orientation, or the patient lies face down; "
            "look at it, and correct it in volumes.csv, column orientation"
        )
    return found


def _centre(mask) -> tuple[float, float]:
    """Mean row and column of a mask [Z, Y, X]."""
    count = mask.sum()
    rows, columns = mask.sum(axis=(0, 2)), mask.sum(axis=(0, 1))
    return float(rows @ np.arange(len(rows)) / count), float(columns @ np.arange(len(columns)) / count)


def _times(shape) -> str:
    return " x ".join(str(n) for n in shape)


def _short(error) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
