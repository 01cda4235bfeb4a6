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
from stylemed.latent.direction import walk
from stylemed.networks import Encoder, Generator
from stylemed.provenance import Provenance
from stylemed.studies import (
    Result,
    attribution,
    augmentation,
    classes,
    classifier,
    draws,
    edits,
    few_patients,
    translation,
    turns,
)
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


class Painted(Generator):
    """Draws what each level holds into a corner of its own; w is z."""

    def __init__(self):
        super().__init__(16, latent_size=4, mapping_layers=1, fmap_base=16, fmap_max=4)

    def mapping(self, z):
        return z

    def synthesis(self, w_plus, noise=None, lod=None):
        image = torch.zeros(len(w_plus), 1, 16, 16)
        image[:, 0, :8, :8] = torch.tanh(w_plus[:, 0, 0])[:, None, None]
        image[:, 0, :8, 8:] = 0.1 * (0.75 * w_plus[:, 2, 1] + 0.25 * w_plus[:, 4, 1])[:, None, None]
        image[:, 0, 8:, :8] = 0.1 * self.noise_maps(noise)[5].mean(dim=(1, 2, 3))[:, None, None]
        image[:, 0, 8:, 8:] = torch.tanh(w_plus[:, 5, 2])[:, None, None]
        return image


class Corners:
    """Stands in for a judge that reads what `Painted` draws, exactly."""

    network = torch.nn.Linear(1, 1)

    def findings(self, images):
        a, b, c, d = (images[:, 0, y, x].numpy() for y, x in ((0, 0), (0, 8), (8, 0), (8, 8)))
        table = pd.DataFrame({"tumor": (a > 0).astype(int), "tumor_x": np.nan, "tumor_y": np.nan, "height": b})
        table = table.assign(modality_mr=d > 0, phase="portal", kernel_sharp=0.0, noise_hu=c)
        masks = np.zeros((len(images), 16, 16), np.uint8)
        masks[a > 0, 2:6, :4] = 2  # half of the liver moves with the tumor, half with the modality
        masks[a <= 0, 2:6, 4:8] = 2
        masks[d > 0, 10:14, :4] = 3
        masks[d <= 0, 10:14, 4:8] = 3
        return SimpleNamespace(masks=masks, table=table.assign(liver_px=16))


def test_a_factor_is_attributed_to_the_level_that_holds_it():
    result = attribution.run(Painted(), Corners(), pairs=120, seed=1)
    table = result.tables["attribution"].set_index(["factor", "level"])
    levels = ["coarse", "middle", "4²", "8²", "16²", "all styles", "noise"]  # a model of 16² has no fine ones
    assert list(table.loc["height"].index) == levels
    follow = table["value"].unstack()[levels]
    np.testing.assert_allclose(follow.loc["tumor present"], [1, 0, 1, 0, 0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(follow.loc["modality"], [0, 1, 0, 0, 1, 1, 0], atol=1e-9)
    np.testing.assert_allclose(follow.loc["height"], [0.75, 0.25, 0, 0.75, 0.25, 1, 0], atol=0.06)
    np.testing.assert_allclose(follow.loc["noise"], [0, 0, 0, 0, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(follow.loc["liver shape"], [0.5, 0.5, 0.5, 0, 0.5, 1, 0], atol=0.08)
    assert follow.loc[["phase", "kernel", "tumor place", "liver area"]].isna().all(axis=None)
    height = table.loc["height", "coarse"]
    assert height["low"] < 0.75 < height["high"] and abs(height["neither"]) < 0.02 and height["pairs"] == 120
    assert 40 < table.loc[("tumor present", "8²"), "pairs"] < 80  # those that differ
    again = attribution.run(Painted(), Corners(), pairs=120, seed=1)
    pd.testing.assert_frame_equal(again.tables["attribution"], result.tables["attribution"])


class OfTwoParts(torch.nn.Module):
    """A generator and an encoder of 64²: coarse and middle styles are the anatomy (4 x 4), the fine one its sign."""

    resolution, num_layers, latent_size, channels = 64, 10, 16, 1

    def __init__(self):
        super().__init__()
        self.sign = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("w_avg", torch.zeros(16))

    def forward(self, images):
        sign = images[:, 0, 0, 0].sign()  # the corner is bright in CT
        anatomy = images[:, 0, 8::16, 8::16].flatten(1) * sign[:, None]
        codes = anatomy[:, None].repeat(1, 10, 1)
        codes[:, 8:] = sign[:, None, None]
        return codes

    def synthesis(self, w_plus, noise=None):
        return (w_plus[:, 0] * w_plus[:, 8, :1]).reshape(-1, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)


class Dark:
    """Stands in for a judge: liver is what is far from grey, MR what has a dark corner."""

    network = torch.nn.Linear(1, 1)

    def findings(self, images):
        images = np.asarray(images)[:, 0]
        table = pd.DataFrame({"modality_mr": (images[:, 0, 0] < 0).astype(float)})
        return SimpleNamespace(masks=np.where(np.abs(images) > 0.5, 2, 0), table=table)


@pytest.mark.slow
def test_translation_is_measured_against_the_other_look_of_the_same_patient():
    rng, rows, images = np.random.default_rng(0), [], []
    for p in range(8):
        for z in range(3):
            anatomy = rng.uniform(-0.9, 0.9, (4, 4))
            anatomy[0, 0] = 0.9
            whole = np.kron(anatomy, np.ones((16, 16)))
            for modality, sign in (("CT", 1), ("MR", -1)):
                case = f"volume-{p}{'mr' * (modality == 'MR')}"
                rows.append(
                    {"case": case, "patient": f"p{p}", "z": z, "modality": modality, "phase": "", "twin_of": ""}
                )
                images.append((sign * whole, np.abs(whole) > 0.5))
    slices = pd.DataFrame(rows).assign(z_mm=0.0, liver_px=9, tumor_px=0, tumor_known=1)
    slices["split"] = np.where(slices["patient"] < "p5", "train", "test")
    windows = {"CT": [-1000, 1000], "MR": [0, 2000]}
    hu = np.stack([1000 * image + (slices["modality"][i] == "MR") * 1000 for i, (image, _) in enumerate(images)])
    labels = np.stack([mask for _, mask in images]).astype(np.uint8)
    info = {"resolution": 64, "windows": windows, "digest": "d", "version": 1}
    store = SliceStore("store", info, np.rint(hu).astype(np.int16), labels, slices)
    assert translation.counterparts(store, [0, 1, 5]).tolist() == [1, 0, 4]

    net = OfTwoParts()
    result = translation.run(store, net, net, Dark(), shown=9, progress=False)
    table = result.tables["translation"].set_index(["source", "target", "way", "what"])
    for source, target in (("CT", "MR"), ("MR", "CT")):
        found = table.loc[(source, target)]
        for way in ("fine, mean style", "fine, style of a slice", "reconstruction of the truth"):
            assert found.loc[(way, "psnr"), "value"] > 55 and found.loc[(way, "liver, Dice"), "value"] > 0.98
            assert found.loc[(way, "judged as target"), "value"] == 1
        for way in ("histogram matching", "nearest training slice", "slice as it is", "reconstruction"):
            assert found.loc[(way, "psnr"), "value"] < 20, way
        assert found.loc[("slice as it is", "judged as target"), "value"] == 0
        assert (found["patients"] == 3).all() and (found.loc["fine, mean style", "slices"] == 9).all()
    only = SliceStore("ct", info, store.hu[::2], store.labels[::2], slices[::2].reset_index(drop=True))
    with pytest.raises(BadInput, match=r"ct lacks slices to go from CT to MR; .*--mr"):
        translation.run(only, net, net, Dark(), progress=False)


def test_matched_histograms_are_those_of_the_reference():
    rng = np.random.default_rng(0)
    wanted = np.sort(rng.uniform(-1, 1, 64))
    image = rng.permutation(64).astype(np.float32)
    matched = translation.match_histogram(image.reshape(1, 1, 8, 8), wanted.reshape(1, 1, 8, 8))
    assert np.corrcoef(matched.ravel(), wanted[image.astype(int)])[0, 1] > 0.999 and matched.dtype == np.float32
    assert (matched.ravel().argsort() == image.argsort()).all()
    air = np.where(np.arange(64) < 40, -1.0, rng.uniform(0, 1, 64)).reshape(1, 1, 8, 8)
    again = translation.match_histogram(air, np.where(air < 0, -1.0, 0.5 * air))
    assert len(np.unique(again[air < 0])) == 1 and np.abs(again - np.where(air < 0, -1.0, 0.5 * air)).max() < 1e-6


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

    monkeypatch.setattr(edits, "codes_by", no_more)
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


@pytest.fixture
def few_store():
    """Eight patients of `train`, of whom the last has most tumors, and five of `test`; one small tumor, one unknown slice."""
    parts, rows = [], []
    for i in range(13):
        split = "train" if i < 8 else "test"
        has = np.arange(8) < (6 if i == 7 else 3)
        parts.append(painted(has, torch.full((8,), 8 + i % 3)))
        own = {"patient": f"p{i:02d}", "split": split, "case": f"v{i}", "liver_px": (8 + i % 3) ** 2, "tumor_known": 1}
        rows += [{**own, "z": z, "tumor_px": 9 * has[z]} for z in range(8)]
    images = torch.cat(parts)[:, 0]
    slices = pd.DataFrame(rows).assign(modality="CT", phase="portal", z_mm=0.0, twin_of="")
    labels = (images == LIVER).numpy().astype(np.uint8)
    labels[(slices["tumor_px"] > 0).to_numpy(), 4:7, 4:7] = 2
    labels[0, 4:7, 4:6], slices.loc[0, "tumor_px"], slices.loc[1, "tumor_known"] = 1, 3, 0
    info = {"resolution": 16, "windows": {"CT": [-100, 250]}, "digest": "d", "version": 1}
    info["inputs"] = [{"case": f"v{i}", "files": [{"sha256": f"{i:064d}"[::-1]}]} for i in range(13)]
    return SliceStore("store", info, ((images + 1) * 175 - 100).round().numpy().astype(np.int16), labels, slices)


@pytest.mark.slow
def test_a_class_that_the_codes_hold_is_told_and_permuted_labels_are_not(few_store):
    """Axis 0 of the codes is the tumor; the liver is as large in all slices of a patient, and all lie at one height."""
    result = classifier.run(few_store, Painter(), Finder(), permutations=3, folds=2, progress=False)
    auc = result.tables["auc"].set_index("what")
    assert auc.loc["encoder", "auc"] == 1 and auc.loc["encoder, orthogonal to liver area", "auc"] == 1
    assert 0.4 < auc.loc["liver area alone", "auc"] < 0.6 and auc.loc["height alone", "auc"] == 0.5
    told = ["slices", "slices_with", "patients_with", "patients_without"]
    assert auc.loc["encoder", told].tolist() == [103, 41, 13, 13]  # one slice of a tumor is not known
    permuted = result.tables["permuted"].set_index("what").loc["encoder"]
    assert permuted["auc"] == 1 and 0.3 < permuted["mean"] < 0.7 and permuted["largest"] < 1 and permuted["p"] == 0.25
    assert set(result.made_from) == {"generator", "encoder"} and result.settings["label"] == "tumor"

    knows = Finder()
    knows.provenance = replace(few_store.learned_from([8]), kind="encoder")
    with pytest.raises(BadInput, match=r"encoder has learned from patients of store \(p01\)"):
        classifier.run(few_store, Painter(), knows, progress=False)
    few_store.slices["tumor_known"] = 0
    with pytest.raises(BadInput, match="store has no slice whose tumor is known"):
        classifier.run(few_store, Painter(), Finder(), progress=False)


def test_slices_are_left_out_by_patient(few_store):
    names = [f"p{i:02d}" for i in range(8)]
    kept = {ratio: few_patients.few_rows(few_store, names, ratio) for ratio in (1, 2, 4)}
    table = few_store.slices.assign(ill=few_store.slices["tumor_px"] > 0)
    for ratio, rows in kept.items():
        ill = table["ill"].iloc[rows]
        assert (
            (~ill).sum() == ratio * ill.sum()
            and not {0, 1} & set(rows)
            and (table["split"].iloc[rows] == "train").all()
        )
    by_patient = table.iloc[kept[4]].query("ill")["patient"].value_counts().reindex(names, fill_value=0)
    assert by_patient.max() == by_patient.min() + 1 == 2  # though one patient has more tumors than the others have
    tumors = {ratio: set(rows[table["ill"].iloc[rows]]) for ratio, rows in kept.items()}
    assert tumors[4] < tumors[2] < tumors[1]
    with pytest.raises(BadInput, match="1 patients of store .* do not make 1 to 20"):
        few_patients.few_rows(few_store, ["p07"], 20)


def test_a_painted_disc_is_as_wide_and_as_dark_as_it_should_be_and_inside_the_liver():
    liver = np.zeros((40, 32, 32), bool)
    liver[:, 4:26, 6:28] = True
    images, rng = np.where(liver, 0.4, -1.0)[:, None], np.random.default_rng(0)
    made = few_patients.paint_discs(images, liver, np.full(40, 6.0), np.full(40, -0.5), rng)[:, 0]
    assert (made[~liver] == -1).all() and made.min() == -1 and np.allclose(made[liver].min(), -0.1)
    half = ((made < 0.15) & liver).sum(axis=(1, 2))
    assert np.abs(half - np.pi * 9).max() < 4  # none was cut off at the liver's edge
    assert len({tuple(np.argwhere((made[i] < -0.05) & liver[i])[0]) for i in range(40)}) > 20
    labels = np.where(liver, 1, 0) + ((made < 0.15) & liver)
    found = few_patients.tumors_of(made[:, None], labels)
    assert found["across"].mean() == pytest.approx(6, abs=0.5) and found["contrast"].mean() == pytest.approx(
        -0.4, abs=0.1
    )
    thin = np.zeros((1, 32, 32), bool)
    thin[0, :2, :9] = True  # no room: at the edge of the image, and only within the liver
    cut = few_patients.paint_discs(np.full((1, 1, 32, 32), 0.4), thin, [9.0], [-0.5], rng)[0, 0]
    assert (cut[~thin[0]] == np.float32(0.4)).all() and cut.min() < 0


def pipeline_of(store, patients, labelled=None) -> augmentation.Pipeline:
    """`Painter`, `Finder`, `Eye` and the axis of tumors, learned from these patients; labelled: of whom labels were known."""
    rows = {
        who: np.flatnonzero(store.slices["patient"].isin(who)) for who in {tuple(patients), tuple(labelled or patients)}
    }
    made = augmentation.Pipeline(Painter(), Finder(), Eye("labeller"), axis(0, 0.5))
    for name, part in made.parts.items():
        who = tuple((labelled or patients) if name in ("labeller", "direction") else patients)
        its = replace(store.learned_from(rows[who], "train"), kind=name)
        if name == "direction":
            part.info = {"provenance": its.to_dict()}
        else:
            part.provenance = its
    findings = made.labeller.findings

    def more(images):
        found = findings(images)
        found.table = found.table.assign(modality_mr=0.0, phase="portal", tumor_score=found.table["tumor_px"])
        return found

    made.labeller.findings = more
    return made


def test_what_a_pipeline_has_learned_from_is_told(few_store):
    own, others = ["p00", "p01"], ["p00", "p01", "p02"]
    few = few_store.learned_from(np.flatnonzero(few_store.slices["patient"].isin(own)))
    told = [pipeline_of(few_store, *who).learned_from(few) for who in ((own,), (others, own), (others,), (own, others))]
    assert told == ["own", "larger unlabelled set", "labels of more patients", "labels of more patients"]
    unknown = pipeline_of(few_store, own)
    unknown.encoder.provenance = Provenance(kind="encoder")
    assert unknown.learned_from(few) == "not known"


class Linear:
    """Stands in for a classifier: logistic regression on grey values; keeps the classes of what it was shown."""

    shown: list = []

    def __init__(self, images, y, **how):
        from sklearn.linear_model import LogisticRegression

        self.shown.append((len(y), int(np.sum(y))))
        self.model = LogisticRegression(C=how["rate"]).fit(images.flatten(1).numpy(), y)

    def score(self, images):
        return self.model.decision_function(images.flatten(1).numpy())


def asked_edit(generator, labeller, w_plus, wanted, *, radius, **how):
    """Stands in for `guided_edit`: the walk far along the axis of tumors; radius: of the training tumors, 3 pixels across."""
    assert wanted == 1 and how["per_unit"] == 175 and np.allclose(radius, 1.5, atol=0.5)
    asked = np.zeros((len(w_plus), 16, 16), bool)
    asked[:, 4:7, 4:7] = True
    return SimpleNamespace(w_plus=walk(w_plus, axis(0, 0.5), np.full((len(w_plus), 1), 9.0))[:, 0], asked=asked)


@pytest.mark.slow
def test_augmentation_adds_what_each_arm_says_and_nothing_of_patients_held_out(few_store, tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation, "train_classifier", Linear)
    monkeypatch.setattr(augmentation, "tumor_scores", Linear.score)
    monkeypatch.setattr(Linear, "shown", [])
    monkeypatch.setattr(augmentation, "guided_edit", asked_edit)
    own = pipeline_of(few_store, ["p00", "p01", "p02", "p03"])
    judge = Eye()
    judge.findings = own.labeller.findings
    how = dict(patients=4, ratio=3, curve=(2, 4, 9), seeds=2, steps=9, descent=0, work=tmp_path, progress=False)
    how["grids"] = {"alone": ((1.0, 1.0), (9.0, 1.0)), "beside": ((1.0, 0.5), (1.0, 1.0))}
    result = augmentation.run(few_store, {"own": own}, judge, **how)

    told = result.tables["training"].set_index("arm")
    assert list(told.index) == [*augmentation.REAL, *(f"{arm}, own" for arm in augmentation.MADE)]
    assert (told["learned from"] == np.where(told["pipeline"] == "own", "own", "")).all()
    ill, real = told.loc["real", ["with tumor", "real"]]
    grid = result.tables["tuning"].assign(n=lambda t: t["with tumor"] + t["without"]).set_index(["arm", "share"])
    assert (told["real"].drop("more patients") == real).all() and told.loc["more patients", "patients"] == 8
    for arm in ("oversampled", "painted", "coarse, own", "direction, own", "walked, own", "guided, own", "spot, own"):
        full, half = grid.loc[(arm, 1.0)], grid.loc[(arm, 0.5)]
        assert full["with tumor"] == full["without"] == real - ill and half["with tumor"] == ill + (real - 2 * ill) // 2
    for arm in ("duplicated", "generated, own"):
        assert grid.loc[(arm, 1.0), ["with tumor", "n"]].tolist() == [ill + real, 3 * real]
    assert grid.loc[("generated only, own", 1.0), "n"].eq(2 * real).all()
    assert (told.loc[told["pipeline"] == "own", "labelled alike"] == 1).all()
    assert (result.tables["tuning"].groupby("arm")["chosen"].sum() == 1).all()

    few = few_patients.Few(few_store, [f"p{i:02d}" for i in range(4)], 3, "CT", 0)
    for arm in (*augmentation.REAL, *augmentation.MADE):
        pool = augmentation.Arm(arm, arm, few, "own", own, times=2.0).pool(1.0, {"p00", "p03"})
        assert set(pool.patients) <= {"p01", "p02", ""}, arm

    tables = result.tables
    arms = tables["arms"].query("what == 'AUC' and tumors != 'all'").set_index("arm")["value"]
    assert len(arms) == 12 and (arms > 0.95).all()  # grey values tell these tumors
    assert set(tables["curve"]["patients"]) == {2, 4} and len(tables["differences"]) == 11 * 4
    held_out = tables["contrasts"].groupby(["tumors", "what"])
    assert (held_out["p_holm"].max() >= held_out["p"].min().mul(2).clip(upper=1)).all()  # of two rivals
    assert tables["contrasts"].groupby(["arm", "rival"]).size().to_dict() == {
        ("spot, own", "guided, own"): 4,
        ("spot, own", "painted"): 4,
    }
    assert tables["test"]["slices"].tolist() == [15, 0, 25] and set(tables["agreement"]["arm"]) == set(told.index)
    trained = len(Linear.shown)
    # 12 arms and one more point of the curve; two points of the grid by two folds, two seeds. Four patients: at most three folds.
    assert trained <= 13 * (2 * 3 + 2)
    again = augmentation.run(few_store, {"own": own}, judge, **how)
    assert len(Linear.shown) == trained
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_dtype=False)
    other = augmentation.run(few_store, {"own": own}, **how | {"arms": ("painted", "spot"), "ratio": 1.0})
    assert other.settings["left out"] == ["painted", "spot"] and list(other.tables["training"]["arm"]) == ["real"]


def test_patients_without_labels_are_none_of_the_few(few_store):
    few_store.slices.loc[few_store.slices["patient"] == "p03", "tumor_known"] = 0
    free = (few_store.slices["patient"] == "p03") & (few_store.slices["tumor_px"] > 0)
    few_store.slices.loc[free, "tumor_px"] = 0
    assert few_patients.labelled_patients(few_store) == [f"p{i:02d}" for i in range(8) if i != 3]


def test_augmentation_refuses_what_has_seen_test_patients(few_store, tmp_path):
    how = dict(work=tmp_path, patients=4, progress=False)
    with pytest.raises(BadInput, match=r"generator of own has learned from test patients of store \(p08\)"):
        augmentation.run(few_store, {"own": pipeline_of(few_store, ["p00", "p08"])}, **how)
    with pytest.raises(BadInput, match="walked come from a pipeline; give one with --pipeline"):
        augmentation.run(few_store, {}, **how | {"arms": ("walked",)})
    with pytest.raises(BadInput, match="8 labelled patients of train with CT, not 9"):
        augmentation.run(few_store, {}, **how | {"patients": 9})
    with pytest.raises(BadInput, match="no arm magic"):
        augmentation.run(few_store, {}, arms=("magic",), **how)
    with pytest.raises(BadInput, match="differ in size"):
        augmentation.run(few_store, {}, grids={"alone": [(1, 1)], "beside": []}, **how)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_patients_take_turns_and_none_is_known_to_what_measures_them(few_store, tmp_path, monkeypatch):
    monkeypatch.setattr(augmentation, "train_classifier", Linear)
    monkeypatch.setattr(augmentation, "tumor_scores", Linear.score)
    monkeypatch.setattr(Linear, "shown", [])
    seen = []
    monkeypatch.setattr(turns.Turn, "train", lambda job, *how: (seen.append(job), augmentation.Arm.train(job, *how)))
    how = dict(turns=3, seeds=2, steps=9, descent=0, work=tmp_path, progress=False)
    how["grids"] = {"alone": ((1.0, 1.0), (9.0, 1.0)), "beside": ((1.0, 0.5), (1.0, 1.0))}
    result = turns.run(few_store, Painter(), Finder(), **how)
    assert len(seen) == 3 * len(turns.ARMS)
    held = [{f"p{i:02d}" for i in range(13)} - set(job.few.names) for job in seen[:: len(turns.ARMS)]]
    assert set.union(*held) == {f"p{i:02d}" for i in range(13)} and sum(map(len, held)) == 13
    for number, job in enumerate(seen):
        out = held[number // len(turns.ARMS)]
        assert not out & (set(job.pool(1.0).patients) | set(job.parts.codes.table["patient"])), job.arm
        if job.arm != "real":
            assert job.pool(1.0).y.mean() == 0.5
    tables = result.tables
    auc = tables["arms"].query("tumors != 'all'").set_index("arm")["value"]
    assert list(auc.index) == list(turns.ARMS) and (auc > 0.95).all() and set(tables["arms"]["what"]) == {"AUC"}
    assert tables["direction"]["value"].iloc[0] == 1 and set(tables["differences"]["arm"]) == set(turns.ARMS) - {"real"}
    assert tables["slices"]["slices"].tolist() == [40, 1, 62]
    trained = len(Linear.shown)
    again = turns.run(few_store, Painter(), Finder(), **how)
    assert len(Linear.shown) == trained
    for name, table in tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_dtype=False)
    knows = Finder()
    knows.provenance = replace(few_store.learned_from([8]), kind="encoder")
    with pytest.raises(BadInput, match=r"encoder has learned from patients of store \(p01\)"):
        turns.run(few_store, Painter(), knows, **how)
    with pytest.raises(BadInput, match="too few patients with and without tumors for 14 turns"):
        turns.run(few_store, Painter(), Finder(), **how | {"turns": 14})
    ill = few_store.select(tumor=False)[:30]
    few_store.slices.loc[ill, "tumor_px"], few_store.labels[ill, 4:7, 4:7] = 9, 2
    with pytest.raises(BadInput, match="nothing to balance"):
        turns.run(few_store, Painter(), Finder(), **how)


@pytest.mark.slow
def test_each_judge_measures_edits_of_all_slices_it_reads_right(twins_store, tmp_path, monkeypatch):
    """The first judge overlooks some tumors that the second one sees, and that have to be edited for it."""

    def edit(generator, labeller, w_plus, wanted, **how):
        return SimpleNamespace(
            w_plus=walk(w_plus, axis(0, 0.5), np.full((len(w_plus), 1), 9.0 * (2 * wanted - 1)))[:, 0]
        )

    monkeypatch.setattr(edits, "guided_edit", edit)
    people = (twins_store, Painter(), Finder(), Eye("labeller"), Short())
    settings = dict(count=20, few=10, randoms=9, guided=5, work=tmp_path, progress=False)
    tables = edits.run(*people, {}, second=Eye(), **settings).tables
    right = tables["counted"].set_index(["judge", "way"])["right"]
    assert right["judge", "remove"] < right["second judge", "remove"] == 11
    changed = tables["effects"].query("what == 'changed'").set_index(["judge", "way"])["value"]
    assert changed["second judge", "remove"] == changed["judge", "remove"] == 1


class Short(Eye):
    """A judge that overlooks tumors in livers of 8 pixels, as in 2 of the 5 patients of `test`."""

    def findings(self, images):
        found = super().findings(images)
        seen = found.table["tumor"] * (found.table["liver_px"] != 64)
        return replace(found, table=found.table.assign(tumor=seen, tumor_score=seen + 0.01 * found.table["height"]))


def test_a_set_of_a_class_is_measured_beside_slices_that_the_judge_reads_too(few_store):
    people = pipeline_of(few_store, ["p00"])
    parts = people.generator, people.labeller, Short("judge"), {"axis": axis(0, 0.5)}
    result = classes.run(few_store, *parts, count=60, psi=1.0, progress=False)
    tables = result.tables
    told = tables["agreement"].set_index(["way", "asked"])
    for way in ("coarse", "direction, axis"):
        assert (told.loc[(way, "none"), "value"], told.loc[(way, "none"), "corrected"]) == (1, 1)
        tumor = told.loc[(way, "tumor")]
        assert 0.3 < tumor["low"] < tumor["value"] < tumor["high"] < 1 and tumor["images"] == 30
        assert tumor["corrected"] == pytest.approx(min(1, tumor["value"] / 0.6))  # 3 of 5 patients are read right
        assert told.loc[(way, "tumor or none"), "value"] == pytest.approx(0.5 + tumor["value"] / 2)
    assert told.loc[(classes.SLICES, "tumor"), "value"] == pytest.approx(0.6)
    assert told.loc[(classes.SLICES, "tumor"), "corrected"] == pytest.approx(1)
    made = tables["made"].set_index(["way", "asked"])
    assert (made["images"] == 30).all() and (made[["read", "read with tumor", "read without"]] == [60, 30, 30]).all(
        None
    )
    assert (
        made.loc[("coarse", "tumor"), "draws an image"] > made.loc[("direction, axis", "tumor"), "draws an image"] >= 1
    )
    outlines = tables["outlines"].set_index(["way", "what"])["value"]
    assert (outlines.xs("tumor as written, pixels, median", level="what") == 9).all()
    assert (outlines.xs("tumor, Dice", level="what") == 1).all()
    spread = tables["spread"].set_index(["way", "asked", "what"])["value"]
    assert spread["coarse", "tumor", "nearest train slice, least"] < 1e-3 < spread["coarse", "none", "recall"]
    with pytest.raises(BadInput, match="labeller has a part in making the images"):
        classes.run(few_store, *parts[:2], Eye("labeller"), {}, progress=False)


@pytest.mark.parametrize(("size", "by_heart"), [(0.0, True), (3.0, False)])
def test_what_is_drawn_by_heart_is_told(few_store, size, by_heart, tmp_path):
    """Livers of 8 pixels are in `train`, of 11 they are not."""
    people = pipeline_of(few_store, ["p00"])
    two = lambda z: torch.stack([z[:, 0], torch.full((len(z),), size)], dim=1)  # noqa: E731
    people.generator.mapping = lambda z: two(z).repeat(1, LATENT // 2)
    judge = Eye()
    judge.findings = people.labeller.findings
    result, pictures = draws.run(few_store, people.generator, judge, count=60, samples=200, pairs=3)
    tables = {name: table.set_index("set") for name, table in result.tables.items() if "set" in table}
    away = tables["distances"].loc[draws.GENERATED]
    assert (away["1"] < 0.01) if by_heart else (away["0"] > 0.05)
    assert tables["distances"].loc[draws.HELD_OUT, "1"] < 0.01  # these patients have livers of the same sizes
    # Not closer than held-out slices, which are copies as well.
    assert tables["closer"].loc[draws.GENERATED, "share"] == 0
    apart = (pictures["generated"] - pictures["nearest"]).abs().max()
    assert len(result.tables["pairs"]) == 3 and (apart < 0.01) == by_heart
    told = tables["tumors"].loc[draws.GENERATED]
    assert told["found"] == pytest.approx(told["corrected"]) and told["sensitivity"] == told["specificity"] == 1
    paths = draws.write_pictures(tmp_path, pictures, few_store.windows["CT"])
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG"] * 2
