"""Studies on made-up numbers whose answer is known, and what is kept of a result."""

import numpy as np
import pandas as pd
import pytest

from stylemed.errors import BadInput
from stylemed.studies import Result
from stylemed.studies.factors import separability


def test_separability_finds_what_is_linear_and_leaves_out_what_does_not_vary():
    rng = np.random.default_rng(0)
    codes, patients = rng.standard_normal((600, 12)), np.repeat(np.arange(30), 20)
    labels = {
        "straight": codes[:, 0] + 0.1 * rng.standard_normal(600),
        "bent": codes[:, 1] ** 2,
        "class": (codes[:, 2] > 0.3).astype(float),
        "chance": (rng.random(600) > 0.5).astype(float),
        "constant": np.ones(600),
        "of the patient": rng.standard_normal(30)[patients],  # can be learned by heart, but not for new patients
    }
    labels["class"][:50] = np.nan
    table = separability(codes + 0.3 * rng.standard_normal((30, 12))[patients], labels, patients, "w").set_index(
        "factor"
    )
    assert table.loc["straight", "value"] > 0.8 and table.loc["bent", "value"] < 0.2
    assert table.loc["class", "value"] > 0.9 and table.loc["class", "images"] == 550
    assert abs(table.loc["chance", "value"] - 0.5) < 0.1 and table.loc["of the patient", "value"] < 0.2
    assert "constant" not in table.index and table.loc["class", "measure"] == "AUC"


def test_a_result_comes_back_and_says_where_it_is_from(tmp_path):
    table = pd.DataFrame({"what": ["a", "b"], "value": [0.5, np.nan], "n": [3, 4]})
    result = Result("study", {"t": table}, "store", {"encoder": "e"}, 7, {"drawn": 2}, 1.5, "stylemed study")
    again = Result.load(result.save(tmp_path / "one.json"))
    pd.testing.assert_frame_equal(again.tables["t"], table)
    assert (again.made_from, again.seed, again.command) == ({"encoder": "e"}, 7, "stylemed study")
    assert {"commit", "date", "cpu", "versions"} <= set(again.made)
    assert "NaN" not in (tmp_path / "one.json").read_text()
    (tmp_path / "two.json").write_text("{}")
    for name in ("two.json", "none.json"):
        with pytest.raises(BadInput, match=name):
            Result.load(tmp_path / name)
