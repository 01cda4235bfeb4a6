"""Damaged files: truncated anywhere, with random bytes in header or data. Never a crash, never half a store."""

import gzip
import shutil

import numpy as np
import pytest

from stylemed.data import SliceStore, find_cases, prepare, read_case
from stylemed.errors import BadInput


@pytest.fixture(scope="module")
def pair(phantom, tmp_path_factory):
    """One pair in a folder, zipped and not, as bytes."""
    files = {}
    for kind in ("volume", "segmentation"):
        data = (phantom / f"{kind}-1.nii.gz").read_bytes()
        files[f"{kind}-1.nii.gz"], files[f"{kind}-1.nii"] = data, gzip.decompress(data)
    return files


def spoil(data: bytes, rng) -> bytes:
    kind = rng.integers(3)
    if kind == 0:
        return data[: rng.integers(0, len(data))]
    changed = np.frombuffer(data, np.uint8).copy()
    where = rng.integers(0, 352 if kind == 1 else len(data), rng.integers(1, 9))
    changed[where] = rng.integers(0, 256, len(where))
    return changed.tobytes()


@pytest.mark.parametrize("part", range(5))
def test_damaged_files_end_in_one_sentence_or_a_whole_volume(pair, part, tmp_path):
    rng = np.random.default_rng(part)
    refused = 0
    for _ in range(100):
        ending = rng.choice([".nii", ".nii.gz"])
        broken = rng.choice(["volume", "segmentation"])
        for kind in ("volume", "segmentation"):
            data = pair[f"{kind}-1{ending}"]
            if kind == broken:
                if ending == ".nii.gz" and rng.uniform() < 0.5:  # damage within, zipped again: no checksum helps
                    data = gzip.compress(spoil(pair[f"{kind}-1.nii"], rng), 1)
                else:
                    data = spoil(data, rng)
            (tmp_path / f"{kind}-1{ending}").write_bytes(data)
        try:
            volume = read_case(find_cases(tmp_path)[0], liver_only=True)
            assert volume.hu.shape == volume.labels.shape and volume.hu.dtype == np.int16
        except BadInput as sentence:
            refused += 1
            assert "-1.nii" in str(sentence) and "\n" not in str(sentence)
        for file in tmp_path.glob("*.nii*"):
            file.unlink()
    assert refused > 40


def test_damaged_case_leaves_a_whole_store_of_the_others(phantom, pair, tmp_path):
    source = shutil.copytree(phantom, tmp_path / "p")
    rng = np.random.default_rng(9)
    for i in range(3):
        (source / "volume-1.nii.gz").write_bytes(gzip.compress(pair["volume-1.nii"][: rng.integers(100, 5000)]))
        report = prepare(source, tmp_path / f"s{i}", 16, include="1,2", workers=1, progress=False)
        assert list(report.left_out) == ["volume-1"] and set(SliceStore.open(tmp_path / f"s{i}").slices["case"]) == {
            "volume-2"
        }
        assert sorted(p.name for p in tmp_path.iterdir()) == ["p", *(f"s{k}" for k in range(i + 1))]
