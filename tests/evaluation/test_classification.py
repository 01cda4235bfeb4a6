"""Classifiers whose quality is known."""

import numpy as np
import pytest

from stylemed.evaluation.classification import AUC, LARGE, agreement, differences, drawn_numbers, in_words, worth

Y = np.tile([0, 0, 1], 120)
PATIENTS = np.repeat([f"p{i}" for i in range(30)], 12)
LARGE_TUMOR = Y * (np.arange(360) % 5 > 0) > 0  # the others are small, and are not seen


def classifiers(strength: float, seeds: int = 5, seed: int = 0) -> np.ndarray:
    """Scores of classifiers that tell large tumors so well, and no small ones."""
    noise = np.random.default_rng(seed).standard_normal((seeds, len(Y)))
    return noise + strength * LARGE_TUMOR


def numbers(scores):
    return drawn_numbers(scores, Y, LARGE_TUMOR, PATIENTS, draws=400)


def test_better_classifiers_are_told_and_small_tumors_are_asked_apart():
    found = {
        "real": numbers(classifiers(1)),
        "same": numbers(classifiers(1, seed=1)),
        "better": numbers(classifiers(2)),
    }
    told = in_words(found["better"]).set_index(["tumors", "what"])
    row = told.loc[LARGE, AUC]
    assert row["low"] < row["value"] < row["high"] and row["lowest seed"] < row["value"] < row["highest seed"]
    assert row["value"] > told.loc[("all", AUC), "value"] + 0.03
    table = differences(found)
    assert table["arm"].drop_duplicates().tolist() == ["same", "better"]
    of = table[table["tumors"] == LARGE].set_index(["arm", "what"]).loc[(slice(None), AUC), :].droplevel("what")
    assert of.loc["better", "low"] > 0 and of.loc["better", "p_holm"] == pytest.approx(2 * of.loc["better", "p"])
    assert (
        of.loc["better", "p_holm"] < 0.05 < of.loc["same", "p"] and of.loc["same", "low"] < 0 < of.loc["same", "high"]
    )


def test_an_arm_is_worth_the_patients_whose_point_of_the_curve_it_lies_on():
    curve = [numbers(classifiers(strength)) for strength in (0.5, 1, 1, 2)]
    found = {"middle": curve[1], "last": curve[3], "worse": numbers(classifiers(0)), "best": numbers(classifiers(4))}
    table = worth(found, [4, 11, 30, 60], curve).query("tumors == @LARGE").set_index("arm")
    assert table["patients"].to_dict() == pytest.approx({"middle": 11, "last": 60, "worse": 4, "best": 60})
    assert table["beyond"].to_dict() == {"middle": 0, "last": 0, "worse": -1, "best": 1}
    between = worth({"arm": numbers(classifiers(1.4))}, [4, 11, 30, 60], curve).iloc[0]
    assert 11 < between["low"] < between["patients"] < between["high"] <= 60


def test_shared_errors_are_told_from_errors_of_ones_own():
    judge = classifiers(1, 1)[0]
    arms = {"same": judge[None].repeat(2, axis=0), "own": classifiers(1, seed=5)}
    table = agreement(judge, arms, Y, LARGE_TUMOR, PATIENTS).set_index(["arm", "among"])
    assert (table.loc["same", "kappa"] == 1).all() and (
        table.loc["same", "both wrong"] == table.loc["same", "judge wrong"]
    ).all()
    assert (
        (table.loc["own", "low"] < 0).all()
        and (table.loc["own", "high"] > 0).all()
        and table["kappa"]["own"].abs().max() < 0.15
    )
    assert table.loc[("own", "no tumor"), "judge wrong"] == pytest.approx(0.1, abs=0.01)
