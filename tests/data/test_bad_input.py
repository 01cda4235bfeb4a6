"""Whatever is wrong with the input ends in one sentence that names it, and leaves nothing behind."""

import gzip
import shutil

import numpy as np
import pytest
from odd_files import BAD

from stylemed.data import SliceDataset, SliceStore, find_cases, prepare, read_case
from stylemed.errors import BadInput
from stylemed.phantom import make_phantom


@pytest.fixture
def pair(phantom, tmp_path):
    """A folder with one pair, to be spoilt."""
    folder = tmp_path / "pair"
    folder.mkdir()
    for kind in ("volume", "segmentation"):
        shutil.copy(phantom / f"{kind}-1.nii.gz", folder)
    return folder


def truncate(folder, _):
    path = folder / "volume-1.nii.gz"
    path.write_bytes(path.read_bytes()[:-5000])


def as_text(folder, _):
    (folder / "volume-1.nii.gz").unlink()
    (folder / "volume-1.nii").write_text("<html>404 not found</html>")


def truncate_plain(folder, _):
    path = folder / "volume-1.nii.gz"
    (folder / "volume-1.nii").write_bytes(gzip.decompress(path.read_bytes())[:-5000])
    path.unlink()


def damage_stream(folder, _):
    path = folder / "volume-1.nii.gz"
    data = bytearray(path.read_bytes())
    data[2000:2100] = bytes(100)
    path.write_bytes(bytes(data))


SPOILT = {
    "no segmentation": (BAD["no segmentation"], "no segmentation-1"),
    "no pairs": (lambda f, _: [p.rename(p.with_name("a" + p.name)) for p in f.iterdir()], "holds no volume-N"),
    "other shape": (BAD["other shape"], "grid of its volume"),
    "truncated gzip": (truncate, "cut short"),
    "truncated plain": (truncate_plain, "cut short"),
    "damaged gzip": (damage_stream, "damaged"),
    "short NIfTI": (lambda f, _: (f / "volume-1.nii.gz").write_bytes(gzip.compress(b"n" * 100)), "not a NIfTI"),
    "text named .nii": (as_text, "not a NIfTI"),
    "empty file": (BAD["empty"], "volume-1.nii.gz"),
    "label 3": (BAD["label 3"], "label 3"),
    "label 0.5": (BAD["label 0.5"], "label 0.5"),
    "NaN label": (BAD["NaN label"], "label nan"),
    "NaN": (BAD["NaN"], "NaN or infinite"),
    "infinite": (BAD["infinite"], "NaN or infinite"),
    "air": (BAD["air"], "nothing but air"),
    "two volumes in one": (BAD["two volumes"], "x 2"),
    "one slice": (BAD["one slice"], "64 x 64"),
    "complex": (BAD["complex"], "type complex64"),
    "twice": (lambda f, _: shutil.copy(f / "volume-1.nii.gz", f / "VOLUME-1.NII.gz"), "both volume 1"),
}
TABLES = {
    "missing volume": ("volume,patient\n1,a\n7,b\n", "volume 7"),
    "bad split": ("volume,split\n1,validation\n", "train, judge or test"),
    "no volume column": ("number,split\n1,train\n", "column volume"),
    "twice": ("volume,split\n1,train\n1,train\n", "twice"),
    "bad number": ("volume,hu_min\n1,low\n", "hu_min"),
    "bad range": ("volume,hu_min,hu_max\n1,100,0\n", "smaller"),
    "bad orientation": ("volume,orientation\n1,LLS\n", "axis codes"),
    "bad labels": ("volume,tumor_labels\n1,maybe\n", "known or unknown"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_pair(pair, name, tmp_path):
    spoil, says = SPOILT[name]
    spoil(pair, np.random.default_rng(0))
    out = tmp_path / "out" / "store"
    with pytest.raises(BadInput) as caught:
        prepare(pair, out, 16, workers=1, progress=False)
    sentence = str(caught.value)
    assert says in sentence and str(pair) in sentence and "\n" not in sentence
    assert not out.parent.exists() or not any(out.parent.iterdir())
    with pytest.raises(BadInput):
        read_case(find_cases(pair)[0])


@pytest.mark.parametrize("name", TABLES)
def test_spoilt_table(pair, name):
    text, says = TABLES[name]
    (pair / "volumes.csv").write_text(text)
    with pytest.raises(BadInput, match=says):
        find_cases(pair)


def test_one_patient_in_two_splits(phantom, tmp_path):
    folder = shutil.copytree(phantom, tmp_path / "p")
    (folder / "volumes.csv").write_text("volume,patient,split\n1,ann,train\n2,ann,test\n")
    with pytest.raises(BadInput, match="ann into two splits"):
        find_cases(folder)


def test_arguments(phantom, pair, tmp_path):
    with pytest.raises(BadInput, match="not a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "s", 32)
    for resolution in (48, 4, 2048, 0, -8, 32.0):
        with pytest.raises(BadInput, match="power of two"):
            prepare(phantom, tmp_path / "s", resolution)
    with pytest.raises(BadInput, match="window"):
        prepare(phantom, tmp_path / "s", 32, window=(100, 0))
    with pytest.raises(BadInput, match="none of the 6"):
        prepare(phantom, tmp_path / "s", 32, include="*lits*")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    with pytest.raises(BadInput, match="no slice store"):
        prepare(phantom, tmp_path / "precious", 32)
    with pytest.raises(BadInput, match="no phantom folder"):
        make_phantom(tmp_path / "precious", 1)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"
    made = {f.name: f.read_bytes() for f in phantom.iterdir()}
    with pytest.raises(BadInput, match=r"twins False, not True: name another folder with --out"):
        make_phantom(phantom, 4, test_patients=2, size=64, slices=20, twins=True)
    assert made == {f.name: f.read_bytes() for f in phantom.iterdir()}
    wrong = [dict(patients=0), dict(size=16), dict(slices=2), dict(patients=-1), dict(phase="late")]
    for arguments in wrong + [dict(tumor_free=share) for share in (-0.1, 1.1, float("nan"))]:
        with pytest.raises(BadInput):
            make_phantom(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists() and not (tmp_path / "s").exists()


def test_spoilt_store(pair, tmp_path):
    with pytest.raises(BadInput, match="no slice store"):
        SliceStore.open(tmp_path / "nothing")
    prepare(pair, tmp_path / "good", 16, workers=1, progress=False)
    info = (tmp_path / "good" / "store.json").read_text()
    spoilt = {
        "version 99": lambda f: (f / "store.json").write_text(info.replace('"version": 1', '"version": 99')),
        "is damaged": lambda f: (f / "store.json").write_text(info[:50]),
        "lacks hu.npy": lambda f: (f / "hu.npy").unlink(),
        "do not fit": lambda f: np.save(f / "labels.npy", np.zeros((2, 16, 16), np.uint8)),
        "fit together": lambda f: (f / "hu.npy").write_bytes(b"junk"),
        "files do not": lambda f: (f / "slices.csv").write_text("case\n"),
    }
    for i, (says, spoil) in enumerate(spoilt.items()):
        folder = shutil.copytree(tmp_path / "good", tmp_path / str(i))
        spoil(folder)
        with pytest.raises(BadInput, match=says):
            SliceStore.open(folder)
    store = SliceStore.open(tmp_path / "good")
    with pytest.raises(BadInput, match="train, judge or test"):
        store.select("validation")
    with pytest.raises(BadInput, match="no slice of split judge"):
        SliceDataset(store, "judge")
