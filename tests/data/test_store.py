"""prepare and SliceStore: what is kept, how it is split, and that nothing half-made is left."""

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from stylemed.data import SliceDataset, SliceStore, Window, find_cases, prepare, read_case
from stylemed.data.preparing import split_patients
from stylemed.data.resample import Resampler
from stylemed.errors import BadInput


@pytest.fixture(scope="module")
def store(phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "store"
    report = prepare(phantom, out, 32, progress=False)
    assert not report.left_out and "train" in report.table
    return SliceStore.open(out)


def copy_of(phantom, to: Path, table=None) -> Path:
    shutil.copytree(phantom, to)
    rows = pd.read_csv(to / "volumes.csv").astype(object)
    if table:
        table(rows)
        rows.to_csv(to / "volumes.csv", index=False)
    return to


def test_only_and_all_slices_with_liver(store, phantom):
    expected = sum(int((read_case(c).labels > 0).any(axis=(1, 2)).sum()) for c in find_cases(phantom))
    assert len(store) == expected == len(store.hu) and (store.slices["liver_px"] > 0).all()
    assert list((store.labels > 0).sum(axis=(1, 2))) == list(store.slices["liver_px"])
    for _, part in store.slices.groupby("case"):
        assert part["z"].is_monotonic_increasing and part["z_mm"].iloc[0] == 0
        assert np.allclose(np.diff(part["z_mm"]) / np.diff(part["z"]), part["z_mm"].iloc[1], rtol=1e-3)


def test_tumor_is_never_lost(store, phantom):
    for case in find_cases(phantom):
        had = (read_case(case).labels == 2).any(axis=(1, 2))
        rows = store.slices[store.slices["case"] == case.name]
        assert list(rows["tumor_px"] > 0) == list(had[rows["z"]])
    labels = np.zeros((64, 64), np.uint8)
    labels[10:50, 10:30] = 1
    labels[20, 20] = 2
    small = Resampler((64, 64), (1, 1), 8).labels(labels)
    assert (small == 2).sum() == 1 and small[2, 2] == 2


def test_resampling_keeps_place_and_mean():
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (60, 60)).astype(np.int16)
    small = Resampler(image.shape, (1, 1), 16).hu(image, -1000)
    assert small.mean() == pytest.approx(image.mean(), abs=0.6)
    np.testing.assert_array_equal(Resampler(image.shape, (1, 1), 60).hu(image, -1000), image)
    wide = Resampler((30, 60), (1, 1), 64).hu(np.full((30, 60), 50, np.int16), -1000)
    assert (wide[:15] == -1000).all() and (wide[17:47] == 50).all(), "made square with air, not stretched"
    thick = Resampler((30, 60), (2, 1), 64).hu(np.full((30, 60), 50, np.int16), -1000)
    assert (thick == 50).all(), "millimetres count, not pixels"


def test_splits_are_by_patient(store, phantom):
    assert store.slices.groupby("patient")["split"].nunique().max() == 1
    assert set(store.slices.loc[store.select("test"), "case"]) == {"volume-5", "volume-6"}


def test_one_more_patient_moves_nobody(phantom, tmp_path, capsys):
    names = [f"p{i}" for i in range(3000)]
    for seed in range(5):
        drawn = split_patients(dict.fromkeys(names), seed)
        for n in (1, 11, 12, 300):
            assert split_patients(dict.fromkeys(names[-n:]), seed).items() <= drawn.items()
        share = {split: list(drawn.values()).count(split) / len(names) for split in ("train", "judge", "test")}
        assert share == pytest.approx({"train": 0.7, "judge": 0.15, "test": 0.15}, abs=0.025)
    assert split_patients({"a": "judge", "b": "test"}, 0) == {"a": "judge", "b": "test"}
    source = copy_of(phantom, tmp_path / "p", lambda rows: rows.drop(columns="split", inplace=True))
    splits = []
    for some in ("[1-3]", "*"):
        prepare(source, tmp_path / some, 16, include=f"volume-{some}", workers=1)
        few = SliceStore.open(tmp_path / some)
        splits.append(dict(zip(few.slices["patient"], few.slices["split"], strict=True)))
    assert len(splits[0]) == 3 and splits[0].items() <= splits[1].items()
    few = SliceStore.open(tmp_path / "[1-3]")
    empty = next(name for name in ("train", "judge", "test") if name not in splits[0].values())
    cure = "give splits in volumes.csv, another --seed or more patients"
    said = capsys.readouterr().out
    assert f"no patient is in {empty}" in said and cure in said
    with pytest.raises(BadInput, match=f"split {empty}; {cure}"):
        SliceDataset(few, empty)


def test_unknown_is_not_negative(phantom, tmp_path):
    def unknown(rows):
        rows.loc[rows["volume"] == 2, "tumor_labels"] = "unknown"

    source = copy_of(phantom, tmp_path / "p", unknown)
    prepare(source, tmp_path / "s", 16, include="volume-[12]", workers=1, progress=False)
    store = SliceStore.open(tmp_path / "s")
    state = store.slices["case"].to_numpy()
    assert set(state) == {"volume-1", "volume-2"} == set(state[store.select()])
    assert set(state[store.select(tumor=False)]) == set(state[store.select(tumor=True)]) == {"volume-1"}


def test_window_is_cut_down_to_what_all_inputs_hold(phantom, tmp_path, capsys):
    def clipped(rows):
        rows["hu_min"], rows["hu_max"] = rows["hu_min"].astype(object), rows["hu_max"].astype(object)
        rows.loc[rows["volume"] == 1, ["hu_min", "hu_max"]] = [0, 255]

    source = copy_of(phantom, tmp_path / "p", clipped)
    report = prepare(source, tmp_path / "s", 16, include="volume-[12]", workers=1)
    assert SliceStore.open(tmp_path / "s").window == Window(0, 250)
    assert any("cut down" in note for note in report.notes) and "cut down" in capsys.readouterr().out
    prepare(source, tmp_path / "s", 16, include="volume-[12]", window=(-50, 200), workers=1, progress=False)
    store = SliceStore.open(tmp_path / "s")
    assert store.window == Window(-50, 200)
    images = store.images([0, 1])
    assert images.shape == (2, 1, 16, 16) and images.dtype == np.float32 and np.abs(images).max() <= 1
    inside = (store.hu[:2] >= -50) & (store.hu[:2] <= 200)
    np.testing.assert_allclose(store.window.to_hu(images[:, 0])[inside], store.hu[:2][inside], atol=1e-2)


def test_same_inputs_and_settings_are_done_once(phantom, tmp_path, capsys):
    out = tmp_path / "s"
    prepare(phantom, out, 16, include="volume-1", workers=1, progress=False)
    first = (out / "hu.npy").stat().st_mtime_ns
    copied = shutil.copytree(phantom, tmp_path / "copy")  # another place and time, the same files
    os.utime(copied / "volume-1.nii.gz", (0, 0))
    report = prepare(copied, out, 16, include="volume-1", workers=1)
    assert report.reused and (out / "hu.npy").stat().st_mtime_ns == first and "already" in capsys.readouterr().out
    report = prepare(phantom, out, 32, include="volume-1", workers=1)
    assert not report.reused and SliceStore.open(out).resolution == 32 and "replaced" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "s"], "no scraps beside the store"


@pytest.mark.slow
def test_processes_make_the_same_store(phantom, store, tmp_path, monkeypatch):
    monkeypatch.setattr("stylemed.data.preparing.WORTH_MB", 1e-6)
    monkeypatch.chdir(tmp_path)  # relative paths are those of the caller
    prepare(phantom, Path("s"), store.resolution, workers=2, progress=False)
    again = SliceStore.open("s")
    assert np.array_equal(again.hu, store.hu) and np.array_equal(again.labels, store.labels)
    assert again.digest == store.digest and again.slices.equals(store.slices)


def test_one_bad_case_never_ends_the_run(phantom, tmp_path):
    source = copy_of(phantom, tmp_path / "p")
    good = (source / "volume-2.nii.gz").read_bytes()
    (source / "volume-2.nii.gz").write_bytes(good[: len(good) // 2])
    image = nib.load(source / "segmentation-4.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), source / "segmentation-4.nii.gz")
    report = prepare(source, tmp_path / "s", 16, progress=False)
    assert list(report.left_out) == ["volume-2", "volume-4"]
    assert "volume-2.nii.gz" in report.left_out["volume-2"] and "no liver" in report.left_out["volume-4"]
    assert SliceStore.open(tmp_path / "s").slices["case"].nunique() == 4 and "left out 2" in report.table
    assert prepare(source, tmp_path / "s", 16, progress=False).left_out == report.left_out
    assert json.loads((tmp_path / "s" / "store.json").read_text())["left_out"] == report.left_out


def once(error, function):
    """The function, whose first call fails; every call is on record."""

    def failing(*args, **kwargs):
        failing.calls.append(args)
        if len(failing.calls) == 1:
            raise error
        return function(*args, **kwargs)

    failing.calls = []
    return failing


@pytest.mark.parametrize(
    "where, error",
    [
        ("stylemed.data.volumes._opened", OSError(errno.EIO, "Input/output error")),
        ("stylemed.data.preparing.Resampler", MemoryError()),
        ("numpy.save", OSError("1024 requested and 512 written")),  # what NumPy says of a full disk
        ("nibabel.load", FileNotFoundError("No such file or no access")),
    ],
)
def test_what_may_pass_is_tried_again_and_nothing_else(phantom, tmp_path, monkeypatch, where, error):
    source = copy_of(phantom, tmp_path / "p")
    (source / "volume-3.nii.gz").write_bytes(b"")
    again = dict(include="volume-[1-3]", workers=1, progress=False)
    prepare(source, tmp_path / "whole", 16, **again)
    module, name = where.rsplit(".", 1)
    monkeypatch.setattr(where, once(error, getattr(importlib.import_module(module), name)))
    report = prepare(source, tmp_path / "s", 16, **again)
    assert list(report.left_out) == ["volume-1", "volume-3"] and report.again == ["volume-1"]
    assert "the same command tries it again" in report.left_out["volume-1"] and "only these" in report.notes[-1]
    first = SliceStore.open(tmp_path / "s")
    assert set(first.slices["case"]) == {"volume-2"} and first.digest != SliceStore.open(tmp_path / "whole").digest
    asked = once(None, read_case)
    asked.calls.append(None)  # so that it never fails
    monkeypatch.setattr("stylemed.data.preparing.read_case", asked)
    report = prepare(source, tmp_path / "s", 16, **again)
    assert [case.name for (case,) in asked.calls[1:]] == ["volume-1"] and not report.again
    assert list(report.left_out) == ["volume-3"] and "volume-1, which failed last time" in report.notes[1]
    for file in ("hu.npy", "labels.npy", "slices.csv", "store.json"):
        assert (tmp_path / "s" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert prepare(source, tmp_path / "s", 16, **again).reused
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p", "s", "whole"], "no scraps beside the store"


def test_a_file_that_may_not_be_read_is_one_case_left_out(phantom, tmp_path, monkeypatch):
    some = dict(include="volume-[12]", workers=1, progress=False)
    opened = Path.open

    def refused(path, *args, **kwargs):
        if path.name == "volume-1.nii.gz":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        report = prepare(phantom, tmp_path / "s", 16, **some)
    assert list(report.left_out) == ["volume-1"] and "Permission denied" in report.left_out["volume-1"]
    assert not prepare(phantom, tmp_path / "s", 16, **some).left_out
    assert SliceStore.open(tmp_path / "s").slices["case"].nunique() == 2


def test_no_room_for_the_store_is_a_sentence(phantom, tmp_path, monkeypatch):
    full = once(OSError(errno.ENOSPC, "No space left on device"), shutil.copyfileobj)
    monkeypatch.setattr("stylemed.data.preparing.shutil.copyfileobj", full)
    with pytest.raises(BadInput, match="No space left on device.*same command again"):
        prepare(phantom, tmp_path / "s", 16, include="volume-1", workers=1, progress=False)
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr("stylemed.data.preparing.read_case", None)  # not called: the part is there
    prepare(phantom, tmp_path / "s", 16, include="volume-1", workers=1, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_dataset_gives_tensors(store):
    torch = pytest.importorskip("torch")
    data = SliceDataset(store, "train")
    assert data.resolution == 32 and data.channels == 1 and len(data) == len(store.select("train"))
    one, many = data[0], data.images([0, 3])
    assert one.shape == (1, 32, 32) and many.shape == (2, 1, 32, 32) and one.dtype == torch.float32
    assert torch.equal(one, many[0]) and float(many.min()) >= -1 and float(many.max()) <= 1
    assert len(SliceDataset(store, "train", tumor=True)) < len(data)


def test_dataset_of_a_smaller_side(store):
    torch = pytest.importorskip("torch")
    data, small = SliceDataset(store, "train"), SliceDataset(store, "train", resolution=16)
    assert small.resolution == small.metadata["provenance"]["resolution"] == 16 and len(small) == len(data)
    squares = data.images([0, 3]).unfold(2, 2, 2).unfold(3, 2, 2)  # [2, 1, 16, 16, 2, 2]
    assert torch.allclose(small.images([0, 3]), squares.mean(dim=(4, 5)), atol=1e-6)
    for wrong in (24, 64, -16):
        with pytest.raises(BadInput, match="cannot be averaged to"):
            SliceDataset(store, "train", resolution=wrong)


def test_import_needs_no_torch():
    code = "import sys, stylemed.data; print([m for m in ('torch', 'monai', 'pandas', 'scipy') if m in sys.modules])"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.skipif("STYLEMED_SAMPLE" not in os.environ, reason="STYLEMED_SAMPLE names no folder with the real sample")
def test_real_sample(tmp_path):
    prepare(os.environ["STYLEMED_SAMPLE"], tmp_path / "s", 64, progress=False)
    store = SliceStore.open(tmp_path / "s")
    assert store.slices["patient"].nunique() == 113 and store.window == Window(0, 250)
    known = store.slices["tumor_known"] == 1
    assert store.slices.loc[known, "patient"].nunique() == 10 and not set(store.select(tumor=False)) & set(
        np.flatnonzero(~known)
    )
    rows = np.arange(len(store))
    bright = (store.images(rows)[:, 0] > -0.2) & (store.labels[rows] > 0)
    assert bright[:, :, :32].sum() > 1.5 * bright[:, :, 32:].sum(), "real livers are on the image's left"
