"""The judge: it learns, answers in the units it promises, keeps to its patients, and says how wrong it is."""

import numpy as np
import pytest
import torch

from stylemed.data import SliceStore, prepare
from stylemed.errors import BadInput
from stylemed.evaluation.judge import Judge, errors, truth
from stylemed.evaluation.judge_training import (
    JudgeConfig,
    _classes,
    _outline_loss,
    best_threshold,
    cross_validate,
    train_judge,
)
from stylemed.phantom import make_phantom

SMALL = JudgeConfig(width=8, batch=8, kimg=3.0, tick_kimg=0.2, snapshot_ticks=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    sizes = dict(size=64, slices=16, phase="mixed", mr=True, progress=False)
    make_phantom(folder / "p", 1, judge_patients=5, test_patients=4, **sizes)
    prepare(folder / "p", folder / "s", 32, progress=False)
    return SliceStore.open(folder / "s")


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    return train_judge(store, tmp_path_factory.mktemp("judge") / "run", progress=False, config=SMALL)


def test_it_learns_and_only_from_its_patients(store, trained):
    log = trained.log()
    assert log["outlines"].iloc[-1] < 0.7 * log["outlines"].iloc[0] and log["modality"].iloc[-1] < 0.3
    judge = Judge.load(trained.path)
    mine = set(store.slices["patient"][store.select("judge")])
    assert set(judge.provenance.patients) == mine and not mine & set(store.slices["patient"][store.select("test")])
    table = errors(judge, store).set_index("what")
    assert table.loc["modality, accuracy", "value"] > 0.75 and table.loc["liver, Dice", "value"] > 0.5
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert (table["patients"] <= 4).all() and "tumor, AUC" in table.index


def test_resumed_judge_is_the_same(store, trained, tmp_path):
    train_judge(store, tmp_path / "run", max_minutes=0.03, progress=False, config=SMALL)
    train_judge(store, tmp_path / "run", progress=False, config=SMALL)
    a, b = (Judge.load(path) for path in (trained.path, tmp_path / "run"))
    assert a.threshold == b.threshold
    assert all(torch.equal(x, y) for x, y in zip(a.network.parameters(), b.network.parameters(), strict=True))


def test_by_turns_no_judge_sees_whom_it_is_asked_about(store, tmp_path):
    patients = set(store.slices["patient"])
    config = JudgeConfig(width=8, batch=8, kimg=0.08, tick_kimg=0.04)
    table = cross_validate(store, tmp_path / "r", 2, progress=False, config=config).set_index("what")
    seen = [set(Judge.load(tmp_path / "r" / f"fold-{k}").provenance.patients) for k in (1, 2)]
    assert seen[0] | seen[1] == patients and not seen[0] & seen[1] and min(map(len, seen)) >= len(patients) // 2
    assert table.loc["liver, Dice", "patients"] == len(patients) and table.loc["liver, Dice", "slices"] == len(store)
    with pytest.raises(BadInput, match="not enough for 11 folds"):
        cross_validate(store, tmp_path / "x", 11, progress=False, config=config)


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
