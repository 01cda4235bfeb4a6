"""Studies on made-up numbers whose answer is known, and what is kept of a result."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from painted import LATENT, LIVER, Eye, Finder, Painter, painted

from stylemed.data import SliceStore
from stylemed.errors import BadInput
from stylemed.latent import Direction
from stylemed.networks import Encoder, Generator
from stylemed.studies import Result, edits
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


@pytest.fixture
def twins_store():
    """Six patients of `train` and six of `test`: two slices with a tumor, their twins, two without; one test tumor is too faint."""
    parts, rows = [], []
    for i in range(12):
        size = torch.tensor([8 + i % 3] * 2)
        own = dict(patient=f"p{i}", split="train" if i < 6 else "test", tumor_px=9, twin_of="", case=f"v{i}")
        free = dict(case=f"v{i}free", tumor_px=0, twin_of=f"v{i}")
        for has, told in ((1, {}), (0, free), (0, dict(case=f"v{i}other", tumor_px=0))):
            parts.append(painted([has] * 2, size))
            rows += [{**own, **told, "z": z, "liver_px": int(size[0]) ** 2} for z in range(2)]
    images = torch.cat(parts)[:, 0]
    images[36, 4:7, 4:7] = LIVER - 0.3  # the first of p6: neither encoder nor judge see it
    slices = pd.DataFrame(rows).assign(modality="CT", phase="portal", z_mm=0.0, tumor_known=1)
    labels = (images == LIVER).numpy().astype(np.uint8)
    labels[(slices["tumor_px"] > 0).to_numpy(), 4:7, 4:7] = 2
    hu = ((images + 1) * 175 - 100).round().numpy().astype(np.int16)
    info = {"resolution": 16, "windows": {"CT": [-100, 250]}, "digest": "d", "version": 1}
    return SliceStore("store", info, hu, labels, slices)


def axis(k, offset=0.0):
    vector = np.zeros(LATENT, np.float32)
    vector[k] = 1
    return Direction(vector, offset, 1.0, "tumor")


@pytest.mark.slow
def test_edits_by_the_right_axis_and_by_a_wrong_one(twins_store, tmp_path, monkeypatch):
    directions = {"right": axis(0), "wrong": axis(1, 1.0)}
    people = (twins_store, Painter(), Finder(), Eye("labeller"), Eye())
    settings = dict(count=20, few=10, randoms=9, work=tmp_path, progress=False)
    tables = edits.run(*people, directions, second=people[-1], **settings).tables
    counted = tables["counted"].set_index(["judge", "way"])
    assert counted.loc[("judge", "remove"), ["slices", "right", "patients"]].tolist() == [12, 11, 6]
    assert counted["right"].tolist() == [12, 11] * 2

    # The tumor appears above 0.5 of axis 0, so a walk to 0.5 is not enough, and one to -0.5 is.
    choice = tables["choice"].query("chosen and direction == 'right' and level == 'all'").set_index("way")
    assert choice["target"].to_dict() == {"add": 1.0, "remove": -0.5} and (choice["changed"] == 1).all()
    found = tables["effects"].set_index(["judge", "direction", "level", "way", "what"]).sort_index()
    assert set(tables["effects"]["level"]) == {"all", "coarse", "middle"}  # fine has no layers
    for way in ("add", "remove"):
        right = found.loc["judge", "right", "coarse", way]
        assert right["value"].drop(["tumor_share", "changed, corrected"]).tolist() == [1, 1, 1, 0, 0]
        second = found.loc["second judge", "right", "all", way]
        assert (second["value"] == right["value"]).all()
        assert found.loc[("judge", "right", "middle", way, "changed"), "value"] == 0
        wrong = found.loc["judge", "wrong", "all", way]["value"]
        assert wrong["changed"] == 0 and wrong["liver_dice"] < 0.99
    # One in twelve tumors is not seen in the slice either, and the judge calls no other one.
    assert found.loc[("judge", "right", "all", "add", "changed, corrected"), "value"] == 1

    curve = tables["curve"].query("direction == 'right'").set_index(["way", "target"])["changed"]
    assert curve["add"].tolist() == [0] + [1] * 7 and curve["remove"].tolist() == [1] * 8
    random = tables["random"].set_index(["direction", "way"])
    assert (random.loc["right", "own changed"] == 1).all() and (random.loc["right", "p"] == 0.1).all()
    assert (random.loc["right", "most changed"] < 0.5).all() and (random.loc["wrong", "p"] == 1).all()

    true = tables["truth"].set_index(["among", "way", "what"])["value"]["seen in the reconstruction"]
    assert true["unedited reconstruction", "tumor_hu"] == pytest.approx(157.5, abs=1)
    assert max(true["walk, right"]) < 1 and max(true["reconstruction of the twin"]) < 1  # rounded HU
    assert true["walk, wrong", "tumor_hu"] > 100 and true["walk, wrong", "liver_hu"] > 1
    assert 1 < true["inpainting of the true outline", "tumor_hu"] < 100
    assert true["nearest tumor-free training slice"].max() < 1
    delta = tables["delta"].set_index("what")["value"]
    seen = 11 / 12  # the encoder does not know the faint tumor for one
    assert delta["cosine, right"] == pytest.approx(seen) and delta["steps, right"] == pytest.approx(2 * seen)
    assert delta["cosine, mean true change of train (right)"] == pytest.approx(seen)
    assert delta["cosine, wrong"] == pytest.approx(seen - 1)  # which takes it for a smaller liver
    assert delta["cosine, random as right (size)"] < 0.3

    def no_more(*_):
        raise AssertionError("what is kept is not made again")

    monkeypatch.setattr(edits, "encode_store", no_more)
    monkeypatch.setattr(edits, "edit_effects", no_more)
    again = edits.run(*people, directions, second=people[-1], **settings).tables
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again[name], table, check_dtype=False)


def test_who_may_not_choose_or_measure_is_refused(twins_store, tmp_path):
    store, networks = twins_store, (Painter(), Finder())
    settings = dict(work=tmp_path, progress=False)
    with pytest.raises(BadInput, match="judge may not choose"):
        edits.run(store, *networks, Eye(), Eye(), {"a": axis(0)}, **settings)
    knows = Eye()
    knows.provenance = replace(store.learned_from(store.select("test")), kind="judge")
    with pytest.raises(BadInput, match=r"judge has learned from test patients of store \(p10, p11, p6\)"):
        edits.run(store, *networks, Eye("labeller"), knows, {"a": axis(0)}, **settings)
    on_test = replace(axis(0), info={"provenance": knows.provenance.to_dict()})
    with pytest.raises(BadInput, match="direction a has learned from test patients"):
        edits.run(store, *networks, Eye("labeller"), Eye(), {"a": on_test}, **settings)
    store.slices.loc[store.slices["split"] == "train", "tumor_px"] = 0
    with pytest.raises(BadInput, match="no CT slice of train to remove a tumor"):
        edits.run(store, *networks, Eye("labeller"), Eye(), {"a": axis(0)}, **settings)
    assert not list(tmp_path.glob("*.json"))
