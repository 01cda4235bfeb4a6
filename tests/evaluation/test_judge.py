"""The judge: it learns, answers in the units it promises, keeps to its patients, and says how wrong it is; so does the labeller."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed.data import SliceStore, Window, prepare
from stylemed.data.truth import truth
from stylemed.errors import BadInput
from stylemed.evaluation.judge import cross_validate, error_table, errors
from stylemed.phantom import make_phantom
from stylemed.training.reader import (
    Findings,
    Judge,
    Labeller,
    ReaderTrainer,
    _body_known,
    _classes,
    _outline_loss,
    _reached,
    best_threshold,
    reader_config,
    train_judge,
    train_labeller,
)

pytestmark = pytest.mark.slow

SMALL = reader_config("smoke")
TINY = reader_config("smoke", kimg=0.08, tick_kimg=0.04)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    sizes = dict(size=64, slices=16, phase="mixed", mr=True, progress=False)
    make_phantom(folder / "p", 1, judge_patients=5, test_patients=4, **sizes)
    prepare(folder / "p", folder / "s", 32, progress=False)
    return SliceStore.open(folder / "s")


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    return train_judge(store, tmp_path_factory.mktemp("judge") / "run", SMALL, progress=False)


def test_it_learns_and_only_from_its_patients(store, trained):
    log = trained.log()
    assert log["outlines"].iloc[-1] < 0.7 * log["outlines"].iloc[0] and log["modality"].iloc[-1] < 0.3
    judge = Judge.load(trained.path)
    mine = set(store.slices["patient"][store.select("judge")])
    assert set(judge.provenance.patients) == mine and not mine & set(store.slices["patient"][store.select("test")])
    table = errors(judge, store).set_index("what")
    assert table.loc["modality, accuracy", "value"] > 0.75 and table.loc["liver, Dice", "value"] > 0.5
    assert (table["low"].isna() == (table["patients"] == 1)).all()  # one patient has no interval
    assert table["value"].between(table["low"], table["high"]).eq(table["patients"] > 1).all()
    assert (table["patients"] <= 4).all() and "tumor, AUC" in table.index


def test_resumed_judge_is_the_same(store, trained, tmp_path):
    train_judge(store, tmp_path / "run", SMALL, max_minutes=0.03, progress=False)
    train_judge(store, tmp_path / "run", SMALL, progress=False)
    a, b = (Judge.load(path) for path in (trained.path, tmp_path / "run"))
    assert a.threshold == b.threshold
    assert all(torch.equal(x, y) for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True))


def test_curve_has_a_row_a_snapshot(trained):
    curve = pd.read_csv(trained.path / "curve.csv")
    assert list(curve["kimg"].round(1)) == [0.6, 1.2, 1.8, 2.4, 3.0]
    assert curve["liver_dice"].iloc[-1] > max(0.5, curve["liver_dice"].iloc[0])
    assert {"auc", "auc_portal", "sensitivity"} < set(curve)
    # Planted: a tumor too small to be asked for is nowhere counted, and portal slices alone are in perfect order.
    phases = ["portal", "portal", "portal", "arterial", "arterial", "arterial"]
    true = pd.DataFrame({"tumor": [1, 0, 1, 1, 0, 1], "tumor_across": [4, 0, 2, 4, 0, 4.0], "phase": phases})
    found = Findings(np.zeros((6, 8, 8)), pd.DataFrame({"tumor_score": [3, 1, 0, 0, 2, 4.0]}))
    row = _reached(found, true, 2.5, np.array([0.5, np.nan]))
    assert row == {"auc": pytest.approx(4 / 6), "auc_portal": 1, "sensitivity": pytest.approx(2 / 3), "liver_dice": 0.5}


def test_labeller_learns_from_train_and_is_no_judge(store, trained, tmp_path):
    swapped = store.slices["split"].replace({"judge": "train", "train": "judge"})
    store = copy.copy(store)
    store.slices = store.slices.assign(split=swapped)
    run = train_labeller(store, tmp_path / "run", TINY, progress=False)
    labeller = Labeller.load(run.path)
    mine = set(store.slices["patient"][store.select("train")])
    made = labeller.provenance
    assert (made.kind, set(made.patients), made.split, made.nimg) == ("labeller", mine, "train", 80)
    trainer = ReaderTrainer(store, TINY, 0, reader=Labeller)
    shown = store.slices.iloc[trainer.rows[trainer.order]]
    assert made.prevalence == pytest.approx((shown["tumor_px"] > 0).mean(), abs=1e-4)
    assert len(labeller.findings(store.images([0, 1])).table) == 2
    with pytest.raises(BadInput, match="holds a labeller, not a judge"):
        Judge.load(run.path / "labeller.safetensors")
    with pytest.raises(BadInput, match="holds a judge, not a labeller"):
        Labeller.load(trained.path / "judge.safetensors")
    with pytest.raises(BadInput, match="labeller has learned from phantom"):
        errors(labeller, store, "train")


def test_a_judge_of_another_architecture_learns_and_comes_back(store, tmp_path):
    run = train_judge(store, tmp_path / "run", replace(TINY, trunk="residual", kimg=1.0), progress=False)
    log, judge = run.log(), Judge.load(run.path)
    assert judge.network.config["trunk"] == "residual" and not hasattr(judge.network, "unet")
    assert log["outlines"].iloc[-1] < 0.9 * log["outlines"].iloc[0]
    assert judge.findings(store.images([0, 1])).masks.shape == (2, 32, 32)
    with pytest.raises(BadInput, match="no trunk resnet of a reader; there are: unet, residual"):
        train_judge(store, tmp_path / "other", replace(TINY, trunk="resnet"), progress=False)


def test_patients_it_learned_from_are_refused_by_name(store, trained):
    judge = Judge.load(trained.path)
    with pytest.raises(
        BadInput, match=r"judge has learned from phantom\w+, phantom\w+, phantom\w+ and 2 more of .*--seen"
    ):
        errors(judge, store, "judge")
    table = errors(judge, store, "judge", draws=10, seen=True)
    assert (table["seen"] == 5).all() and "seen" not in errors(judge, store, draws=10)
    # Other patients of the same names, as in a phantom of another seed.
    other = copy.copy(store)
    other.info, other.digest = copy.deepcopy(store.info), "another store"
    for entry in other.info["inputs"]:
        entry["files"] = [file | {"sha256": file["sha256"][::-1]} for file in entry["files"]]
    assert len(errors(judge, other, "judge", draws=10))
    # A judge of before, which lists names only.
    judge.metadata = {"store": store.digest, "patients": sorted(judge.provenance.patients)}
    assert len(errors(judge, other, "judge", draws=10))
    with pytest.raises(BadInput, match="and 2 more"):
        errors(judge, store, "judge")


@pytest.mark.parametrize("change", [{"windows": {"CT": [0.0, 1.0]}}, {"frame": "body"}, {"resolution": 64}])
def test_slices_that_look_otherwise_than_those_it_learned_from_are_refused(store, change):
    its = replace(store.provenance, kind="judge", store="of its own", patients={}, **change)
    reader = SimpleNamespace(kind="judge", provenance=its, findings=None)
    with pytest.raises(BadInput, match=f"the judge and the store .*the {list(change)[0][:6]}.*prepare the store"):
        errors(reader, store)


def test_sensitivity_by_size():
    """Whoever sees tumors from 5 pixels on: the largest piece of a slice counts, from its lower bound on."""
    areas = [0, 4, 9, 16, 25, 36, 49, 64, 100]  # squares; 4.5, 5.6, 6.8, 7.9, 9.0, 11.3 across from 16 pixels on
    labels = np.zeros((len(areas), 32, 32), np.uint8)
    for mask, area in zip(labels, areas, strict=True):
        side = round(area**0.5)
        mask[2 : 2 + side, 2 : 2 + side] = mask[20:21, 20 : 20 + (area > 0)] = 2
    table = pd.DataFrame({name: range(len(areas)) for name in ("case", "patient", "z", "z_mm", "liver_px")})
    table = table.assign(modality="CT", phase="portal", tumor_known=1, tumor_px=labels.sum((1, 2)) // 2)
    info = {"resolution": 32, "windows": {"CT": [-100, 250]}, "digest": "d", "version": 1}
    store, rows = SliceStore("store", info, None, labels, table), np.arange(len(areas))
    true = truth(store, rows)
    sees = true.assign(tumor=(true["tumor_across"] >= 5).astype(int), tumor_score=true["tumor_across"])
    by_size = error_table(Findings(labels, sees), store, rows, draws=10).set_index("what")
    for name, value, slices in (
        ("tumor under 3 pixels", 0, 1),
        ("tumor of 3 to 5 pixels", 0, 2),
        ("tumor of 5 to 8 pixels", 1, 3),
        ("tumor of 8 pixels or more", 1, 2),
        ("tumor", 5 / 7, 7),
    ):
        assert tuple(by_size.loc[f"{name}, sensitivity", ["value", "slices"]]) == (pytest.approx(value), slices), name


def test_cut_off_intensities_leave_the_body_unknown_and_can_be_learned(store):
    """Cut at 0 HU, said or not, or shown from 0 HU on: fat is air's colour, so neither is asked for; MR keeps its body."""
    rows = np.arange(len(store))
    mr = (store.slices["modality"] == "MR").to_numpy()
    assert _body_known(store, rows).all() and 0 < mr.sum() < len(mr)
    said, cut, shown = (copy.copy(store) for _ in range(3))
    said.info = store.info | {"inputs": [entry | {"hu_min": 0} for entry in store.info["inputs"]]}
    cut.hu = np.clip(store.hu, 0, 255)
    shown.windows = store.windows | {"CT": Window(0, 255)}
    for other in (said, cut, shown):
        assert (_body_known(other, rows) == mr).all()
    cut.windows = shown.windows
    trainer = ReaderTrainer(cut, SMALL, 0)
    assert all(math.isfinite(value) for _ in range(3) for value in trainer.step().values())


def test_by_turns_no_judge_sees_whom_it_is_asked_about(store, tmp_path):
    patients = set(store.slices["patient"])
    table = cross_validate(store, tmp_path / "r", 2, TINY, progress=False).set_index("what")
    seen = [set(Judge.load(tmp_path / "r" / f"fold-{k}").provenance.patients) for k in (1, 2)]
    assert seen[0] | seen[1] == patients and not seen[0] & seen[1] and min(map(len, seen)) >= len(patients) // 2
    assert table.loc["liver, Dice", "patients"] == len(patients) and table.loc["liver, Dice", "slices"] == len(store)
    with pytest.raises(BadInput, match="not enough for 11 folds"):
        cross_validate(store, tmp_path / "x", 11, TINY, progress=False)


def test_findings_have_the_promised_shape(store, trained):
    judge = Judge.load(trained.path)
    rows = store.select("test")[:5]
    found = judge.findings(store.images(rows))
    assert found.masks.shape == (5, 32, 32) and found.masks.max() <= 3 and len(found.table) == 5
    assert set(truth(store, rows).columns) - {"tumor_across"} <= set(found.table.columns)
    again = judge.findings(store.images(rows)[:1])
    assert np.array_equal(again.masks[0], found.masks[0]), "an answer does not depend on the other slices"
    for wrong in (np.zeros((2, 3, 32, 32)), np.zeros((2, 1, 20, 20)), np.zeros((32, 32))):
        with pytest.raises(BadInput, match="multiple of 16"):
            judge.findings(wrong)


def test_what_is_unknown_is_not_asked(store):
    """Unknown tumors count as liver; where air and body cannot be told apart neither is wrong."""
    classes = torch.zeros(1, 8, 8, dtype=torch.long)
    classes[0, :4] = 2
    says_tumor, says_liver = torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)
    says_tumor[0, 3, :4], says_liver[0, 2, :4] = 9.0, 9.0
    says_tumor[0, 0, 4:], says_liver[0, 1, 4:] = 9.0, 9.0
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert torch.allclose(
        _outline_loss(says_tumor, classes, no, no), _outline_loss(says_liver, classes, no, no), atol=1e-4
    )
    assert _outline_loss(says_tumor, classes, yes, yes) > _outline_loss(says_tumor, classes, no, yes) + 1


def test_body_is_the_patient_without_the_table(store):
    rows = store.select("judge")
    classes = _classes(store, rows)
    share = (classes > 0).mean(axis=(1, 2))
    assert (share > 0.2).all() and (share < 0.85).all()
    assert (classes[:, :1] == 0).mean() > 0.95 and ((classes >= 2) == (store.labels[rows] > 0)).all()


def test_threshold_divides_what_can_be_divided():
    assert 2 < best_threshold(np.array([0.0, 1, 2, 3, 4]), np.array([0, 0, 0, 1, 1.0])) < 3
    assert 2 < best_threshold(np.array([0.0, 1, 9, 2, 3, 4]), np.array([0, 0, np.nan, 0, 1, 1.0])) < 3
    assert best_threshold(np.array([0.0, 1]), np.array([1.0, 1])) == 0


def test_too_few_patients_and_files_that_are_no_judge(store, trained, tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        Judge.load(tmp_path)
    (tmp_path / "judge.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="damaged or not a judge"):
        Judge.load(tmp_path)
    few = make_phantom(tmp_path / "p", 2, judge_patients=1, size=32, slices=8, progress=False)
    prepare(few, tmp_path / "s", 32, progress=False)
    with pytest.raises(BadInput, match="at least 3"):
        train_judge(SliceStore.open(tmp_path / "s"), tmp_path / "r", progress=False)
