"""Studies on made-up numbers whose answer is known, and what is kept of a result."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stylemed.data import SliceStore
from stylemed.errors import BadInput
from stylemed.networks import Encoder, Generator
from stylemed.studies import Result, attribution, translation
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
