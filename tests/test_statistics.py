"""Numbers about patients, against scikit-learn and against what must not move them."""

import numpy as np

from stylemed.statistics import by_chance, mean_interval, patient_auc


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


def test_order_by_chance_does_not_move_for_a_newcomer():
    names = [f"p{i}" for i in range(20)]
    before, after = by_chance(names, seed=3), by_chance([*names, "new"], seed=3)
    assert [name for name in after if name != "new"] == before != sorted(names)
    assert by_chance(names, seed=4) != before


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
