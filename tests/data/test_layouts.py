"""The layouts that public data come in, what a table may say, and what is odd enough to be said aloud."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from stylemed.data import SliceStore, find_cases, prepare, read_case
from stylemed.data.layouts import find_layout
from stylemed.errors import BadInput


def as_decathlon(phantom, to):
    """The phantom's first three patients as the Decathlon lays them out, with the dot files of its archive."""
    for number in (1, 2, 3):
        for kind, folder in (("volume", "imagesTr"), ("segmentation", "labelsTr")):
            (to / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(phantom / f"{kind}-{number}.nii.gz", to / folder / f"liver_{number}.nii.gz")
            (to / folder / f"._liver_{number}.nii.gz").write_bytes(b"\0\5\26\7Mac OS X")
    (to / "imagesTs").mkdir()
    shutil.copy(
        phantom / "volume-4.nii.gz", to / "imagesTs" / "liver_4.nii.gz"
    )  # has no labels, and is not for training
    return to


def as_table(phantom, to):
    (to / "scans").mkdir(parents=True)
    rows = ["image,mask,patient,split"]
    for number in (1, 2, 3):
        for kind in ("volume", "segmentation"):
            shutil.copy(phantom / f"{kind}-{number}.nii.gz", to / "scans" / f"{kind[0]}{number}.nii.gz")
        rows.append(f"scans/v{number}.nii.gz,scans/s{number}.nii.gz,p{number},train")
    (to / "mine.csv").write_text("\n".join(rows))
    return to / "mine.csv"


def test_every_layout_gives_the_same_slices(phantom, tmp_path, capsys):
    decathlon, table = as_decathlon(phantom, tmp_path / "msd" / "Task03_Liver"), as_table(phantom, tmp_path / "own")
    stores = {}
    for name, source, include in (
        ("LiTS", phantom, "1,2,3"),
        ("Decathlon", decathlon.parent, None),
        ("table", table, None),
    ):
        prepare(source, tmp_path / name, 16, include=include, workers=1)
        assert f"layout: {'Medical Segmentation ' * (name == 'Decathlon')}{name}" in capsys.readouterr().out
        stores[name] = SliceStore.open(tmp_path / name)
    for store in stores.values():
        assert np.array_equal(store.hu, stores["LiTS"].hu) and np.array_equal(store.labels, stores["LiTS"].labels)
    assert [c.name for c in find_cases(decathlon)] == ["liver_1", "liver_2", "liver_3"]
    assert [c.name for c in find_cases(decathlon, include="1,3")] == ["liver_1", "liver_3"]
    assert set(stores["table"].slices["patient"]) == {"p1", "p2", "p3"}


def test_a_table_beside_the_decathlon_is_believed(phantom, tmp_path):
    folder = as_decathlon(phantom, tmp_path / "msd")
    (folder / "volumes.csv").write_text("volume,patient,tumor_labels\nliver_1,ann,unknown\n2,bob,\n")
    first, second, third = find_cases(folder)
    assert (first.patient, second.patient, third.patient) == ("ann", "bob", "liver_3")
    assert not first.tumor_known and second.tumor_known


def test_tables_that_cannot_be_used(tmp_path):
    (tmp_path / "a.csv").write_text("image,patient\nx.nii.gz,p\n")
    with pytest.raises(BadInput, match="x has no mask"):
        find_cases(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("volume,patient\n1,p\n")
    with pytest.raises(BadInput, match="no column image"):
        find_cases(tmp_path / "b.csv")
    with pytest.raises(BadInput, match="not a folder"):
        find_cases(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("image,mask\np1/ct.nii.gz,p1/m.nii.gz\np2/ct.nii.gz,p2/m.nii.gz\n")
    with pytest.raises(BadInput, match="ct twice; keep one row, or tell them apart in a column volume"):
        find_cases(tmp_path / "d.csv")


def test_odd_names_numbers_and_modalities_are_kept(phantom, tmp_path):
    for old, new in ((1, "2-a"), (2, "3.b")):
        for kind in ("volume", "segmentation"):
            shutil.copy(phantom / f"{kind}-{old}.nii.gz", tmp_path / f"{kind}-{new}.nii.gz")
    (tmp_path / "volumes.csv").write_text("volume,modality,phase,hu_min,hu_max\n2-a,ct,1,,\n3.b,MRI,2,0,900\n")
    cases = find_cases(tmp_path)
    assert [(case.name, case.modality) for case in cases] == [("volume-2-a", "CT"), ("volume-3.b", "MR")]
    prepare(tmp_path, tmp_path / "s", 16, window=(-100, 250), workers=1, progress=False)
    store = SliceStore.open(tmp_path / "s")
    assert set(store.slices["phase"]) == {"1", "2"} and store.info["windows"]["CT"] == [-100, 250]
    assert store.info["windows"]["MR"] == [0, 900]


def test_fractions_are_no_hounsfield_units(phantom, tmp_path):
    for kind in ("volume", "segmentation"):
        shutil.copy(phantom / f"{kind}-1.nii.gz", tmp_path / f"{kind}-1.nii.gz")
    image = nib.load(tmp_path / "volume-1.nii.gz")
    values = (np.asarray(image.dataobj, np.float32) + 1000) / 4000
    nib.save(nib.Nifti1Image(values, image.affine), tmp_path / "volume-1.nii.gz")
    with pytest.raises(BadInput, match="holds fractions from 0 to .*, which are no HU"):
        read_case(find_cases(tmp_path)[0])


def test_names_in_a_table_are_no_paths(phantom, tmp_path):
    table = as_table(phantom, tmp_path / "deep" / "own")
    names = ["siteA/001", "../../escaped", "a_" + "long" * 60, "001", "siteB/001", "/", "vol ä\u2028 1"]
    rows = [f"{name},scans/v{1 + i % 3}.nii.gz,scans/s{1 + i % 3}.nii.gz,p{i}" for i, name in enumerate(names)]
    table.write_text("\n".join(["volume,image,mask,patient", *rows]), encoding="utf-8")
    before = set(tmp_path.rglob("*"))
    report = prepare(table, tmp_path / "deep" / "store", 16, workers=1, progress=False)
    cases = SliceStore.open(tmp_path / "deep" / "store").slices.drop_duplicates("case")
    assert dict(zip(cases["case"], cases["patient"], strict=True)) == {n: f"p{i}" for i, n in enumerate(names)}
    assert not report.left_out
    new = {p.relative_to(tmp_path / "deep").parts[0] for p in set(tmp_path.rglob("*")) - before}
    assert new == {"store"}


def test_missing_segmentation_is_one_case_left_out(phantom, tmp_path):
    source = shutil.copytree(phantom, tmp_path / "p")
    (source / "segmentation-2.nii.gz").unlink()
    report = prepare(source, tmp_path / "s", 16, progress=False)
    assert list(report.left_out) == ["volume-2"] and "no segmentation-2.nii.gz" in report.left_out["volume-2"]


def save(path, array, affine, header=None):
    nib.save(nib.Nifti1Image(array, affine, header), path)


def test_oddities_are_handled_and_named(phantom, tmp_path, capsys):
    source = shutil.copytree(phantom, tmp_path / "p")
    plain = read_case(find_cases(source)[0])
    image, mask = (nib.load(source / f"{kind}-1.nii.gz") for kind in ("volume", "segmentation"))
    hu, labels = np.array(image.dataobj), np.array(mask.dataobj)
    padded = hu.astype(np.float64)
    padded[:2] = -2000
    save(source / "volume-1.nii.gz", padded[..., None], image.affine)
    save(source / "segmentation-1.nii.gz", labels.astype(np.float32), np.diag([1.0, 1, 1, 1]))
    odd = read_case(find_cases(source)[0])
    assert np.array_equal(odd.labels, plain.labels) and odd.hu.min() == -1024
    said = "; ".join(odd.notes)
    for words in ("float64", "fourth axis", "down to -2000", "labels stored as float32", "another affine"):
        assert words in said
    report = prepare(source, tmp_path / "s", 16, include="1,3", workers=1)
    assert any("volume-1: intensities stored as float64" in note for note in report.notes)
    assert "note: volume-1" in capsys.readouterr().out
    assert SliceStore.open(tmp_path / "s").info["case_notes"].keys() == {"volume-1"}
    assert "odd about 1 cases" in report.table


@pytest.mark.parametrize(
    "codes, suspected", [("LPS", ""), ("RPS", "liver lies on the patient's left"), ("LAS", "spine")]
)
def test_a_lying_header_is_suspected_and_never_turned(phantom, tmp_path, codes, suspected):
    source = shutil.copytree(phantom, tmp_path / "p")
    image = nib.load(source / "volume-1.nii.gz")
    spacing = image.header.get_zooms()
    signs = [-1 if c in "LP" else 1 for c in codes]
    for kind in ("volume", "segmentation"):
        data = np.asarray(nib.load(source / f"{kind}-1.nii.gz").dataobj)
        save(source / f"{kind}-1.nii.gz", data, np.diag([*(s * mm for s, mm in zip(signs, spacing, strict=True)), 1.0]))
    (source / "volumes.csv").unlink()
    volume = read_case(find_cases(source, include="volume-1")[0])
    assert (suspected in "; ".join(volume.notes)) and (bool(volume.notes) == bool(suspected))
    (source / "volumes.csv").write_text("volume,orientation\n1,LPS\n")
    assert read_case(find_cases(source)[0]).notes == []


def test_only_liver_slices_are_kept_whatever_the_axes(phantom, tmp_path):
    source = shutil.copytree(phantom, tmp_path / "p")
    case = find_cases(source)[0]
    whole = read_case(case)
    rows = np.flatnonzero(whole.labels.any(axis=(1, 2)))
    for codes in ("LPS", "SPL", "PIR"):
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(tuple(codes))
        )
        for path in (case.volume, case.segmentation):
            original = nib.load(phantom / path.name)
            turned = nib.Nifti1Image(np.asarray(original.dataobj), original.affine).as_reoriented(turn)
            nib.save(turned, path)
        small = read_case(find_cases(source, include="1")[0]) if codes == "LPS" else None
        cut = read_case(case.__class__(**{**case.__dict__, "orientation": None}), liver_only=True)
        assert np.array_equal(cut.z, rows) and np.array_equal(cut.hu, whole.hu[rows])
        assert np.array_equal(cut.labels, whole.labels[rows]) and (small is None or np.array_equal(small.hu, whole.hu))


def test_fixed_millimetres_need_a_known_spacing(phantom, tmp_path):
    source = shutil.copytree(phantom, tmp_path / "p")
    prepare(source, tmp_path / "a", 32, mm=24.0, include="1", workers=1, progress=False)
    wide = SliceStore.open(tmp_path / "a")
    prepare(source, tmp_path / "b", 32, mm=12.0, include="1", workers=1, progress=False)
    near = SliceStore.open(tmp_path / "b")
    share = [(store.labels > 0).sum() for store in (wide, near)]
    assert 3.5 < share[1] / share[0] < 4.5, "half the size of a pixel, four times as many of them"
    rows = (source / "volumes.csv").read_text().splitlines()
    (source / "volumes.csv").write_text("\n".join([rows[0] + ",spacing", *(row + ",unknown" for row in rows[1:])]))
    with pytest.raises(BadInput, match="does not say how large its voxels are"):
        prepare(source, tmp_path / "c", 32, mm=6.0, include="1", workers=1, progress=False)
    with pytest.raises(BadInput, match="between 0.05 and 50"):
        prepare(source, tmp_path / "c", 32, mm=0.0)


def test_layout_is_named(phantom):
    assert find_layout(phantom)[0] == "LiTS"
