"""Reading LiTS pairs: every orientation ends in the same array, and the table is believed."""

import itertools
import shutil

import nibabel as nib
import numpy as np
import pytest

from stylemed.data import find_cases, read_case
from stylemed.data.layouts import Case


@pytest.fixture(scope="module")
def original(phantom):
    return read_case(find_cases(phantom)[0])


def write_as(volume, codes, folder, lie=False, **header):
    """Write a canonical volume with its axes turned to `codes`; `lie` leaves the header at LPS."""
    start = nib.orientations.axcodes2ornt("LPS")
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
    spacing = volume.spacing_mm[::-1]
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    shape = volume.hu.shape[::-1]
    turned = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    paths = []
    for kind, array in (("volume", volume.hu), ("segmentation", volume.labels)):
        data = nib.orientations.apply_orientation(array.transpose(2, 1, 0), turn)
        image = nib.Nifti1Image(np.ascontiguousarray(data), affine if lie else turned)
        if kind == "volume" and header:
            image.header.set_slope_inter(header["slope"], header["inter"])
        paths.append(folder / f"{kind}-{''.join(codes)}.nii")
        nib.save(image, paths[-1])
    return paths


CODES = ["".join(c) for axes in itertools.permutations(("LR", "PA", "SI")) for c in itertools.product(*axes)][::4]


@pytest.mark.parametrize("codes", CODES)
def test_every_orientation_is_the_same_patient(original, codes, tmp_path):
    volume, segmentation = write_as(original, tuple(codes), tmp_path)
    again = read_case(Case(codes, volume, segmentation, "p"))
    np.testing.assert_array_equal(again.hu, original.hu)
    np.testing.assert_array_equal(again.labels, original.labels)
    np.testing.assert_allclose(again.spacing_mm, original.spacing_mm, rtol=1e-5)


def test_the_table_corrects_a_lying_header(original, tmp_path):
    volume, segmentation = write_as(original, ("R", "A", "S"), tmp_path, lie=True)
    wrong = read_case(Case("x", volume, segmentation, "p"))
    assert not np.array_equal(wrong.hu, original.hu)
    right = read_case(Case("x", volume, segmentation, "p", orientation="RAS"))
    np.testing.assert_array_equal(right.hu, original.hu)


def test_stored_types_do_not_matter(original, tmp_path):
    """Labels as float, HU with slope and intercept or as float64, padding below -1024, a fourth axis of length 1."""
    volume, segmentation = write_as(original, ("L", "P", "S"), tmp_path)
    image, mask = nib.load(volume), nib.load(segmentation)
    case = Case("x", volume, segmentation, "p")
    data = np.array(image.dataobj)
    nib.save(nib.Nifti1Image(np.array(mask.dataobj).astype(np.float32), mask.affine), segmentation)
    variants = {
        "float": data.astype(np.float64) + 0.2,
        "four axes": data[..., None],
        "padding": np.where(data == data.min(), -3000, data).astype(np.int16),
    }
    for name, array in variants.items():
        nib.save(nib.Nifti1Image(array, image.affine), volume)
        again = read_case(case)
        assert again.hu.dtype == np.int16 and again.hu.min() >= -1024, name
        kept = original.hu > original.hu.min()
        np.testing.assert_array_equal(again.hu[kept], original.hu[kept], err_msg=name)
        np.testing.assert_array_equal(again.labels, original.labels)
    stored = nib.Nifti1Image((data + 1024).astype(np.uint16), image.affine)
    stored.header.set_slope_inter(1, -1024)
    stored.to_filename(volume)  # set_slope_inter keeps the numbers, the header says what they mean
    raw = nib.load(volume)
    assert raw.dataobj.inter == -1024 or raw.dataobj.inter == 0
    np.testing.assert_array_equal(read_case(case).hu, np.array(raw.dataobj).astype(np.int16).transpose(2, 1, 0))


def test_table_and_subfolders(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "all" / "batch 1")
    (tmp_path / "all" / "batch 1" / "volumes.csv").unlink()
    plain = find_cases(tmp_path / "all")
    assert [c.name for c in plain] == [f"volume-{i}" for i in range(1, 7)]
    assert len({c.patient for c in plain}) == 6 and all(c.tumor_known and c.modality == "CT" for c in plain)
    (tmp_path / "all" / "volumes.csv").write_text(
        "volume,patient,tumor_labels,hu_min,nobody knows this\n1,ann,unknown,0,x\n2,ann,,,y\n"
    )
    first, second, *_ = find_cases(tmp_path / "all")
    assert (first.patient, second.patient, first.hu_min, second.hu_min) == ("ann", "ann", 0.0, None)
    assert not first.tumor_known and second.tumor_known
