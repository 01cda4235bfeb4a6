"""The frame about the body, and twins, which share it with their originals."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from odd_files import GOOD

from stylemed.data import SliceDataset, SliceStore, prepare
from stylemed.data.body import body_square
from stylemed.data.layouts import Case, find_cases
from stylemed.data.resample import Resampler
from stylemed.data.volumes import Volume
from stylemed.errors import BadInput

SIZE, HALF = 128, (30, 42)  # of the image, and of the body's axes down and across, pixels
SPACING = (5.0, 2.5, 2.5)


def disc(centre, half):
    y, x = np.mgrid[:SIZE, :SIZE]
    return ((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2 <= 1


def someone(kind="CT", seed=0, slices=12):
    """A body of fat, muscle and lungs with a liver, an arm on each side in some slices, and a table; (Volume, centre)."""
    rng = np.random.default_rng(seed)
    centre = np.array([50 + rng.integers(-6, 7), 64 + rng.integers(-8, 9)])
    hu = np.full((slices, SIZE, SIZE), -1000)
    labels = np.zeros(hu.shape, np.uint8)
    hu[:, centre[0] + 34 : centre[0] + 36, 4:-4] = 60
    for i, image in enumerate(hu):
        image[disc(centre, HALF)] = -100
        image[disc(centre, (27, 38))] = 50
        image[disc(centre, (24, 35))] = -800 if i > 8 else 30
        liver = disc(centre - (0, 14), (12, 14))
        image[liver] = 110
        labels[i][liver] = 1
        labels[i][disc(centre - (2, 12), (3, 3))] = 2
        if i % 3 == 0:
            for side in (-53, 53):
                image[disc(centre + (10, side), (5, 5))] = 50
    hu = hu + rng.normal(0, 12, hu.shape)
    if kind == "MR":
        hu = np.clip(hu + 1000, 0, None) / 2.5
    if kind == "clipped":
        hu = np.clip(hu, 0, 255)
    case = Case("c", "v", "s", "p", modality="MR" if kind == "MR" else "CT", hu_min=0.0 if kind == "clipped" else None)
    return Volume(np.rint(hu).astype(np.int16), labels, SPACING, case, np.arange(slices)), centre


@pytest.mark.parametrize("kind", ["CT", "MR", "clipped"])
def test_the_square_is_about_the_body_and_not_the_table(kind):
    for seed in range(4):
        volume, centre = someone(kind, seed)
        *corner, side = np.array(body_square(volume)) / SPACING[1]
        first, last = centre - HALF, centre + np.array(HALF) + 1
        assert (corner <= first).all() and (np.add(corner, side) >= last).all(), "nothing of the body is cut off"
        assert 2 * HALF[1] < side < 1.2 * 2 * HALF[1]
        assert np.abs(np.array(corner) + side / 2 - centre - 0.5).max() < 3


def test_no_liver_is_cut_wherever_it_is_labelled():
    for seed in range(6):
        volume, _ = someone(seed=seed)
        y, x = np.random.default_rng(seed).integers(0, SIZE - 4, 2)
        volume.labels[3, y : y + 4, x : x + 4] = 1  # in one slice, anywhere
        square = body_square(volume)
        resample = Resampler((SIZE, SIZE), SPACING[1:], 32, square=square)
        area = resample._mean((volume.labels[3] > 0).astype(np.float32)).sum() * resample.mm_px**2
        assert area == pytest.approx((volume.labels[3] > 0).sum() * SPACING[1] ** 2, rel=1e-4)
        assert [(resample.labels(one) == 2).any() for one in volume.labels] == [True] * len(volume.labels)


def test_a_square_is_cut_out_where_it_lies():
    image = np.random.default_rng(0).integers(-900, 900, (40, 60)).astype(np.int16)
    part = Resampler(image.shape, (2, 2), 16, square=(10, 30, 32)).hu(image, -1000)
    np.testing.assert_array_equal(part, image[5:21, 15:31])
    beyond = Resampler(image.shape, (2, 2), 16, square=(-8, 100, 32)).hu(image, -1000)
    np.testing.assert_array_equal(beyond[4:, :10], image[:12, 50:])
    assert (beyond[:4] == -1000).all() and (beyond[:, 10:] == -1000).all()
    whole = Resampler(image.shape, (2, 2), 32, square=(-20, 0, 120))
    np.testing.assert_array_equal(whole.hu(image, -1000), Resampler(image.shape, (2, 2), 32).hu(image, -1000))


def test_tumors_do_not_move_the_square():
    for kind in ("CT", "MR", "clipped"):
        volume, _ = someone(kind)
        square = body_square(volume)
        liver = volume.labels > 0
        volume.hu[liver], volume.labels[liver] = volume.hu.min(), 1
        assert body_square(volume) == square


@pytest.fixture(scope="module")
def with_twin(phantom, tmp_path_factory):
    """Patients 1 to 3, and 1 once more without its tumors: changed in the liver, and a little beside it."""
    source = tmp_path_factory.mktemp("twins") / "p"
    source.mkdir()
    table = pd.read_csv(phantom / "volumes.csv", dtype=str).iloc[:3]
    for number in table["volume"]:
        for kind in ("volume", "segmentation"):
            shutil.copy(phantom / f"{kind}-{number}.nii.gz", source)
    ill = source / "segmentation-1.nii.gz"
    mask, image = nib.load(ill), nib.load(source / "volume-1.nii.gz")
    labels, hu = np.array(mask.dataobj), np.array(image.dataobj)
    labels[labels > 0] = 1
    rows = np.flatnonzero(labels.any(axis=(0, 1)))
    hu[:, :, rows[::2]] += 3
    nib.save(nib.Nifti1Image(hu, image.affine), source / "volume-1free.nii.gz")
    nib.save(nib.Nifti1Image(labels, mask.affine), source / "segmentation-1free.nii.gz")
    twin = table.iloc[:1].assign(volume="1free", twin_of="1")
    pd.concat([table, twin]).to_csv(source / "volumes.csv", index=False)
    return source


def test_one_square_for_a_case_and_its_twin(with_twin, tmp_path):
    prepare(with_twin, tmp_path / "s", 64, frame="body", progress=False)
    prepare(with_twin, tmp_path / "i", 64, progress=False)
    store, image = SliceStore.open(tmp_path / "s"), SliceStore.open(tmp_path / "i")
    assert (store.info["settings"]["frame"], image.info["settings"]["frame"]) == ("body", "image")
    assert store.digest != image.digest and (store.slices["mm_px"] < image.slices["mm_px"]).any()
    sizes = store.slices.groupby("case")["mm_px"]
    assert (sizes.nunique() == 1).all() and sizes.first()["volume-1"] == sizes.first()["volume-1free"]
    area = [(s.slices["liver_px"] * s.slices["mm_px"] ** 2).sum() for s in (store, image)]
    assert area[0] == pytest.approx(area[1], rel=0.03)
    rows = store.select()
    mine = rows[(store.slices["case"] == "volume-1").to_numpy()[rows]]
    twins = store.twin_rows(rows)
    assert np.array_equal(twins >= 0, np.isin(rows, mine)) and len(mine)
    assert np.array_equal(store.slices["z"].iloc[twins[twins >= 0]], store.slices["z"].iloc[mine])
    assert np.array_equal(store.labels[twins[twins >= 0]] > 0, store.labels[mine] > 0)


def test_twins_are_left_out_unless_asked_for(with_twin, tmp_path):
    report = prepare(with_twin, tmp_path / "s", 16, progress=False)
    store = SliceStore.open(tmp_path / "s")
    twin = store.slices["twin_of"].to_numpy() == "volume-1"
    assert twin.any() and set(store.slices["case"][twin]) == {"volume-1free"}
    assert not twin[store.select()].any() and twin[store.select(twins="only")].all()
    assert len(store.select(twins=True)) == len(store) == len(store.select()) + len(store.select(twins="only"))
    assert not twin[SliceDataset(store, None).rows].any()
    assert f"{len(store.select()):>8}" in next(line for line in report.table.splitlines() if line.startswith("all"))
    assert f"{twin.sum()} slices of 1 twins" in report.table
    old = pd.read_csv(tmp_path / "s" / "slices.csv").drop(columns=["twin_of", "mm_px"])
    old.to_csv(tmp_path / "s" / "slices.csv", index=False)
    info = {k: v for k, v in store.info.items() if k != "mm_known"}
    (tmp_path / "s" / "store.json").write_text(json.dumps(info))
    assert len(SliceStore.open(tmp_path / "s").select()) == len(store), "a store of before has no twins"
    assert "median mm" in SliceStore.open(tmp_path / "s").describe()


@pytest.mark.parametrize("of, says", [("7", "twin of 7, which is not there"), ("1free", "is a twin itself")])
def test_a_twin_of_nobody(with_twin, tmp_path, of, says):
    source = shutil.copytree(with_twin, tmp_path / "p")
    table = pd.read_csv(source / "volumes.csv", dtype=str)
    table.loc[table["volume"] == "1free", "twin_of"] = of
    table.to_csv(source / "volumes.csv", index=False)
    with pytest.raises(BadInput, match=says):
        find_cases(source)


def test_where_no_body_is_found(phantom, tmp_path):
    source = shutil.copytree(phantom, tmp_path / "p")
    GOOD["all liver"](source, None)
    prepare(source, tmp_path / "s", 16, include="1,2", frame="body", workers=1, progress=False)
    store = SliceStore.open(tmp_path / "s")
    assert "no body was found: the whole image is kept" in store.info["case_notes"]["volume-1"]
    assert "volume-2" not in store.info["case_notes"]
    with pytest.raises(BadInput, match="no body was found in any of the 1 cases"):
        prepare(source, tmp_path / "n", 16, include="1", frame="body", workers=1, progress=False)
    with pytest.raises(BadInput, match="leave out --mm or --frame body"):
        prepare(source, tmp_path / "n", 16, frame="body", mm=2.0)
    with pytest.raises(BadInput, match="choose image or body"):
        prepare(source, tmp_path / "n", 16, frame="torso")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "s"]


def test_clipping_is_as_if_the_files_were_cut(phantom, tmp_path):
    """The same store as from files that hold no more, frame included."""
    source = shutil.copytree(phantom, tmp_path / "p")
    table = pd.read_csv(source / "volumes.csv", dtype=str, keep_default_na=False)
    for name in ("1", "2"):
        file = source / f"volume-{name}.nii.gz"
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.clip(np.asarray(image.dataobj), 0, 255), image.affine), file)
    table["hu_min"], table["hu_max"] = 0, 255
    table.to_csv(source / "volumes.csv", index=False)
    prepare(source, tmp_path / "a", 32, frame="body", include="1,2", workers=1, progress=False)
    prepare(phantom, tmp_path / "b", 32, frame="body", clip=(0, 255), include="1,2", workers=1, progress=False)
    a, b = SliceStore.open(tmp_path / "a"), SliceStore.open(tmp_path / "b")
    assert np.array_equal(a.hu, b.hu) and a.window == b.window and a.slices.equals(b.slices)
    with pytest.raises(BadInput, match="lower value of --clip"):
        prepare(phantom, tmp_path / "c", 32, clip=(255, 0))
