"""Studies on made-up numbers whose answer is known, and what is kept of a result."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed.data import SliceStore
from stylemed.errors import BadInput
from stylemed.networks import Encoder, Generator
from stylemed.studies import Result
from stylemed.studies.factors import run, separability


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


class Brightness:
    """Stands in for a judge: calls an image's mean its height, and whatever is bright a tumor."""

    network = torch.nn.Linear(1, 1)

    def findings(self, images):
        mean = torch.as_tensor(images).mean(dim=(1, 2, 3)).numpy()
        table = pd.DataFrame({"tumor": (mean > np.median(mean)).astype(int), "height": mean, "liver_px": 5})
        return SimpleNamespace(table=table.assign(modality_mr=0.1, kernel_sharp=0.9))


@pytest.mark.slow
def test_factors_are_told_of_generated_images_and_of_slices(tmp_path):
    patients, z = np.repeat([f"p{i}" for i in range(12)], 6), np.tile(np.arange(6), 12)
    hu = (np.random.default_rng(0).normal(0, 5, (72, 16, 16)) + 60 * z[:, None, None] - 100).astype(np.int16)
    slices = pd.DataFrame({"case": [f"volume-{p[1:]}" for p in patients], "patient": patients, "z": z, "z_mm": 5.0 * z})
    slices = slices.assign(
        split="test", modality="CT", phase="portal", twin_of="", liver_px=9, tumor_px=z == 3, tumor_known=1
    )
    info = {"resolution": 16, "windows": {"CT": [-100, 250]}, "digest": "d", "version": 1}
    store = SliceStore("store", info, hu, np.zeros_like(hu, dtype=np.uint8), slices)
    torch.manual_seed(0)
    generator = Generator(16, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=16).eval()
    encoder = Encoder(16, latent_size=16, num_layers=6, space="w", trunk="resnet18", shortcut=8).eval()
    encoder.linear.weight.data.normal_()  # untrained, it would answer every slice alike
    truth = pd.DataFrame({"volume": slices["case"].str.removeprefix("volume-"), "z": z, "scale_x": 1.0})
    truth.assign(fat_mm=np.repeat(np.arange(12.0), 6)).to_csv(tmp_path / "truth.csv", index=False)
    settings = dict(drawn=60, progress=False)
    result = run(store, generator, {"pairs": encoder}, Brightness(), truth=tmp_path / "truth.csv", **settings)
    table = result.tables["factors"].set_index(["space", "factor"])["value"]
    assert set(result.made_from) == {"generator", "judge", "encoder, pairs"} and result.settings["slices"] == 72
    assert table["encoded w, pairs", "height"] > 0.9 > 0.2 > table["encoded w, pairs", "fat"]
    assert {("z", "height"), ("w", "tumor")} <= set(table.index) and ("w", "liver area") not in table.index
    with pytest.raises(BadInput, match=r"store.json.* is no truth.csv"):
        (tmp_path / "store.json").write_text("{}")
        run(store, generator, {"pairs": encoder}, Brightness(), truth=tmp_path / "store.json", **settings)
