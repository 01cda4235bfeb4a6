"""Forty ways in which a pair of files can be damaged or odd. Each takes (folder, rng) and changes case 1 of the folder.

GOOD ones end in a store with the case, BAD ones in a sentence about it, EITHER ones in one of the two, by chance.
"""

import gzip
import struct

import nibabel as nib
import numpy as np

VOLUME, MASK = "volume-1.nii.gz", "segmentation-1.nii.gz"


def _bytes(folder, name):
    return gzip.decompress((folder / name).read_bytes())


def _zip(folder, name, data):
    (folder / name).write_bytes(gzip.compress(data, 1))


def _array(name, function, dtype=None):
    def spoil(folder, rng):
        image = nib.load(folder / name)
        array = function(np.asarray(image.dataobj), rng)
        nib.save(nib.Nifti1Image(array if dtype is None else array.astype(dtype), image.affine), folder / name)

    return spoil


def _one_voxel(value):
    def function(array, rng):
        array = array.astype(np.float32)
        array[tuple(rng.integers(0, array.shape))] = value
        return array

    return function


def _header(name, offset, form, *values):
    """Overwrite a field of the NIfTI-1 header."""

    def spoil(folder, rng):
        data = bytearray(_bytes(folder, name))
        struct.pack_into(form, data, offset, *values)
        _zip(folder, name, bytes(data))

    return spoil


def _affine(change):
    def spoil(folder, rng):
        for name in (VOLUME, MASK):
            image = nib.load(folder / name)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), change(image.affine.copy(), rng)), folder / name)

    return spoil


def _file(name, content):
    def spoil(folder, rng):
        (folder / name).write_bytes(content)

    return spoil


def _cut(name, zipped):
    def spoil(folder, rng):
        data = (folder / name).read_bytes()
        data = data if zipped else _bytes(folder, name)
        data = data[: rng.integers(0, len(data))]
        (folder / name).write_bytes(data if zipped else gzip.compress(data, 1))

    return spoil


def _bytes_changed(name, zipped, end=None):
    def spoil(folder, rng):
        data = (folder / name).read_bytes() if zipped else _bytes(folder, name)
        data = np.frombuffer(data, np.uint8).copy()
        where = rng.integers(0, end or len(data), rng.integers(1, 9))
        data[where] = rng.integers(0, 256, len(where))
        (folder / name).write_bytes(data.tobytes() if zipped else gzip.compress(data.tobytes(), 1))

    return spoil


def _plain(folder, rng):
    for name in (VOLUME, MASK):
        (folder / name.removesuffix(".gz")).write_bytes(_bytes(folder, name))
        (folder / name).unlink()


def _swapped(folder, rng):
    volume, mask = (folder / VOLUME).read_bytes(), (folder / MASK).read_bytes()
    (folder / VOLUME).write_bytes(mask)
    (folder / MASK).write_bytes(volume)


def _as_folder(folder, rng):
    (folder / MASK).unlink()
    (folder / MASK).mkdir()


def _other_affine(folder, rng):
    image = nib.load(folder / MASK)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), folder / MASK)


def _flat(folder, rng):
    data = bytearray(_bytes(folder, VOLUME))
    struct.pack_into("<hh", data, 252, 0, 1)  # no quaternion, the affine's rows count
    struct.pack_into("<4f", data, 280 + 16 * rng.integers(3), 0, 0, 0, 0)
    _zip(folder, VOLUME, bytes(data))


def _shear(affine, rng):
    affine[0, 1] += 0.1 * rng.uniform()
    return affine


def _tail(folder, rng):
    (folder / VOLUME).write_bytes((folder / VOLUME).read_bytes() + rng.bytes(64))


GOOD = {
    "not zipped": _plain,
    "labels as float": _array(MASK, lambda a, r: a, np.float32),
    "labels as int64": _array(MASK, lambda a, r: a, np.int32),
    "HU as float64": _array(VOLUME, lambda a, r: a + 0.2, np.float64),
    "HU as float32": _array(VOLUME, lambda a, r: a, np.float32),
    "padding": _array(VOLUME, lambda a, r: np.where(a < -900, -3000, a)),
    "huge values": _array(VOLUME, lambda a, r: np.where(a > 200, 60000, a), np.int32),
    "fourth axis": _array(VOLUME, lambda a, r: a[..., None]),
    "segmentation's affine": _other_affine,
    "oblique": _affine(_shear),
    "no liver": _array(MASK, lambda a, r: np.zeros_like(a)),
    "all liver": _array(MASK, lambda a, r: np.ones_like(a)),
    "one voxel of liver": _array(
        MASK, lambda a, r: (np.arange(a.size).reshape(a.shape) == a.size // 2).astype(np.uint8)
    ),
    "unit unknown": _header(VOLUME, 123, "<B", 0),
    "slope and intercept": _header(VOLUME, 112, "<ff", 1.0, -24.0),
}
BAD = {
    "no segmentation": lambda f, r: (f / MASK).unlink(),
    "segmentation is a folder": _as_folder,
    "other shape": _array(MASK, lambda a, r: a[:, :, :-1]),
    "one slice": _array(VOLUME, lambda a, r: a[:, :, 0]),
    "two volumes": _array(VOLUME, lambda a, r: np.stack([a, a], -1)),
    "complex": _array(VOLUME, lambda a, r: a, np.complex64),
    "label 3": _array(MASK, _one_voxel(3)),
    "label 0.5": _array(MASK, _one_voxel(0.5)),
    "NaN label": _array(MASK, _one_voxel(np.nan)),
    "NaN": _array(VOLUME, _one_voxel(np.nan)),
    "infinite": _array(VOLUME, _one_voxel(-np.inf)),
    "air": _array(VOLUME, lambda a, r: np.full_like(a, -1000)),
    "swapped": _swapped,
    "empty": _file(VOLUME, b""),
    "empty segmentation": _file(MASK, b""),
    "HTML": _file(VOLUME, b"<!doctype html><title>404</title>"),
    "zipped HTML": _file(VOLUME, gzip.compress(b"<!doctype html><title>404</title>" * 50)),
    "negative size": _header(VOLUME, 42, "<h", -64),
    "no type": _header(VOLUME, 70, "<h", 0),
    "flat affine": _flat,
}
EITHER = {
    "cut zip": _cut(VOLUME, True),
    "cut data": _cut(MASK, False),
    "header bytes": _bytes_changed(VOLUME, False, 352),
    "any bytes": _bytes_changed(MASK, True),
    "bytes after the end": _tail,
}
