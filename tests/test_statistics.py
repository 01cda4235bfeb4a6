"""Numbers about patients, against scikit-learn and against what must not move them."""

import numpy as np

from stylemed.statistics import (
    auc_draws,
    by_chance,
    holm,
    mean_interval,
    patient_auc,
    sensitivity_draws,
    within_patient_auc,
)


def test_patient_auc_agrees_with_scikit_learn_and_keeps_to_its_folds():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    y, patients = rng.random(80) < 0.4, np.repeat(np.arange(16), 5)
    scores = np.round(rng.standard_normal(80) + y, 1)  # with ties
    auc, low, high = patient_auc(scores, y, patients)
    assert abs(auc - roc_auc_score(y, scores)) < 1e-12 and low < auc < high
    folds = patients % 2
    shifted = patient_auc(scores + 100 * folds, y, patients, folds)
    np.testing.assert_allclose(shifted, patient_auc(scores, y, patients, folds))
    assert np.isnan(patient_auc(scores, np.zeros(80), patients)).all()


def test_within_patients_only_pairs_of_one_patient_count():
    """Two patients with one right of two pairs and two of two; a third and a fourth have one kind of slices, and do not count."""
    patients = np.array(["a", "a", "a", "b", "b", "b", "c", "d"])
    y = np.array([1, 0, 0, 1, 1, 0, 1, 0])
    scores = np.array([2.0, 1.0, 3.0, 6.0, 7.0, 5.0, -9.0, 99.0])
    auc, low, high = within_patient_auc(scores, y, patients)
    assert auc == 0.75 and low == 0.5 and high == 1
    far = scores + np.array([100, 100, 100, -100, -100, -100, 7, 7])  # other classifiers for other patients
    assert within_patient_auc(far, y, patients) == (auc, low, high)
    assert within_patient_auc(np.zeros(8), y, patients)[0] == 0.5  # equal scores are half right
    # Who knows the patient only is right between patients, and within them no better than chance.
    y, patients = np.array([1, 1, 0, 1, 0, 0]), np.repeat(["a", "b"], 3)
    knows = (patients == "a").astype(float)
    assert patient_auc(knows, y, patients)[0] > 0.6 and within_patient_auc(knows, y, patients)[0] == 0.5
    assert np.isnan(within_patient_auc([1, 2], [1, 0], ["a", "b"])).all()


def test_sensitivity_is_that_of_the_roc_curve_and_samples_are_of_the_same_patients():
    from sklearn.metrics import roc_curve

    rng = np.random.default_rng(1)
    y, patients = rng.random(200) < 0.4, np.repeat(np.arange(20), 10)
    scores = np.round(rng.standard_normal(200) + y, 1)  # with ties
    false, true, _ = roc_curve(y, scores, drop_intermediate=False)
    found = sensitivity_draws(scores, y, patients, 0.9, draws=300)
    assert found[0] == true[false <= 0.1].max() and found[1:].min() < found[0] < found[1:].max()
    twice = np.repeat(np.arange(200), 2)  # a patient who is drawn twice counts as two
    assert sensitivity_draws(scores[twice], y[twice], patients[twice], draws=0) == found[0]
    # Made better for every patient alike, a classifier is better in every sample.
    better = auc_draws(scores + 0.4 * y, y, patients, draws=300) - auc_draws(scores, y, patients, draws=300)
    assert (better > 0).all() and np.isnan(sensitivity_draws(scores, np.ones(200), patients, draws=3)).all()


def test_holm_corrects_for_the_number_of_questions():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, np.nan]), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])


def test_order_by_chance_does_not_move_for_a_newcomer():
    names = [f"p{i}" for i in range(20)]
    before, after = by_chance(names, seed=3), by_chance([*names, "new"], seed=3)
    assert [name for name in after if name != "new"] == before != sorted(names)
    assert by_chance(names, seed=4) != before


def test_one_patient_has_no_interval():
    scores, y, one = np.array([0.1, 0.4, 0.3, 0.9]), np.array([0, 0, 1, 1]), np.full(4, "p")
    for found in (patient_auc(scores, y, one), within_patient_auc(scores, y, one)):
        assert found[0] == 0.75 and np.isnan(found[1:]).all()
    low, high, mean = mean_interval(scores, one)
    assert np.isnan([low, high]).all() and mean == scores.mean()


def test_interval_is_wider_when_patients_differ():
    patients = np.repeat(np.arange(10), 8)
    rng = np.random.default_rng(0)
    alike, apart = rng.standard_normal(80), np.repeat(rng.standard_normal(10), 8)
    widths = []
    for values in (alike, apart):
        low, high, mean = mean_interval(values, patients)
        assert low < mean < high and np.isclose(mean, values.mean())
        widths.append((high - low) / values.std())
    assert widths[1] > 1.5 * widths[0]
