"""Codes, mixing, direction and effects, on small random networks and on codes with a planted truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from stylemed.data import SliceStore, Window
from stylemed.errors import BadInput
from stylemed.latent import (
    Codes,
    Direction,
    blend,
    encode_store,
    find_direction,
    mix,
    mixing_effect,
    mixing_grid,
    random_direction,
    region_change,
    steps_to,
    traverse,
    walk,
)
from stylemed.latent import direction as direction_module
from stylemed.latent.direction import labels_of
from stylemed.latent.effects import band_split
from stylemed.latent.mixing import describe_level, layers_of
from stylemed.networks import Encoder, Generator
from stylemed.provenance import Provenance

torch.set_num_threads(1)

WINDOW = Window(-100.0, 250.0)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(resolution=32, latent_size=16, mapping_layers=2, fmap_base=128, fmap_max=16).eval()


@pytest.fixture(autouse=True)
def few_strengths(monkeypatch):
    monkeypatch.setattr(direction_module, "STRENGTHS", (0.01, 1.0))  # the choice is made all the same, and sooner


def planted(patients=30, slices=8, latent=24, layers=6, seed=0, effect=3.0):
    """Codes whose tumor slices are moved along one known direction; each patient has slices of both kinds."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(latent)
    truth /= np.linalg.norm(truth)
    patient = np.repeat(np.arange(patients), slices)
    tumor = rng.random(len(patient)) < 0.5
    w = rng.standard_normal((len(patient), latent)) + effect * np.where(tumor, 0.5, -0.5)[:, None] * truth
    return table_codes(w, tumor, patient, layers), truth


def table_codes(w, tumor, patient, layers=6):
    table = pd.DataFrame({"row": np.arange(len(w)), "case": [f"c{p:02}" for p in patient]})
    table["patient"] = [f"{p:03}" for p in patient]
    table["split"] = "train"
    table["phase"] = np.nan
    table["z_mm"] = np.arange(len(w)) * 2.5
    table["liver_px"] = 100
    table["tumor_px"] = np.where(tumor, 9, 0)
    table["tumor_known"] = 1
    return Codes(table, np.repeat(w[:, None], layers, axis=1), {"store": "s"})


# --- codes


def test_codes_survive_a_file_and_bad_files_are_named(tmp_path):
    codes, _ = planted(4)
    path = codes.save(tmp_path / "codes.safetensors")
    back = Codes.load(path)
    assert np.array_equal(back.w_plus, codes.w_plus) and back.w_plus.dtype == np.float32
    assert back.info == codes.info and list(back.table["patient"]) == list(codes.table["patient"])
    pd.testing.assert_frame_equal(back.table, codes.table, check_dtype=False)
    assert [p.name for p in tmp_path.iterdir()] == ["codes.safetensors"]

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:200])
    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(2)}, other)
    old = tmp_path / "old.safetensors"
    save_file({"w_plus": codes.w_plus}, old, {"kind": "stylemed codes", "format": "0"})
    for bad, word in [
        (tmp_path / "none", "no such file; make the codes first"),
        (cut, "damaged"),
        (other, "holds no stylemed codes"),
        (old, "format 0"),
    ]:
        with pytest.raises(BadInput, match=word):
            Codes.load(bad)
    with pytest.raises(BadInput, match="holds no stylemed direction"):
        Direction.load(path)


def test_encode_store_keeps_rows_and_codes_together():
    rng = np.random.default_rng(0)
    hu = rng.integers(-400, 300, (7, 32, 32)).astype(np.int16)
    split = np.array(["train", "test", "train", "test", "test", "judge", "test"])
    names = ["case", "patient", "modality", "phase", "z", "z_mm", "liver_px", "tumor_px", "tumor_known"]
    slices = pd.DataFrame({name: np.arange(7) for name in names}).assign(split=split)

    def images(rows):
        return (hu[rows].clip(-100, 250)[:, None] - 75).astype(np.float32) / 175

    info = {"resolution": 32, "windows": {"CT": [-100, 250]}, "digest": "d", "version": 1}
    store = SliceStore("store", info, hu, None, slices.assign(modality="CT", twin_of=""))
    torch.manual_seed(0)
    encoder = Encoder(32, latent_size=16, num_layers=8)
    codes = encode_store(store, encoder, split="test", batch=3, progress=False)
    assert list(codes.table["row"]) == [1, 3, 4, 6] == list(codes.table["z"])
    assert codes.table["body_px"][1] == (hu[3] > -300).sum()
    with torch.no_grad():
        alone = encoder.eval()(torch.from_numpy(images([4])))[0]
    np.testing.assert_allclose(codes.w_plus[2], alone.numpy(), atol=1e-5)
    assert codes.info["store"] == "d" and len(codes.info["encoder"]) == 16
    store.resolution = 64
    with pytest.raises(BadInput, match="--resolution 32"):
        encode_store(store, encoder)

    store.resolution = 32
    encoder.provenance = replace(store.provenance, kind="encoder", store="of other patients")
    assert np.array_equal(encode_store(store, encoder, split="test", batch=3, progress=False).w_plus, codes.w_plus)
    for change, says in (({"windows": {"CT": [0, 250]}}, "window of CT is"), ({"frame": "body"}, "frame is body")):
        encoder.provenance = replace(encoder.provenance, **change)
        with pytest.raises(BadInput, match=f"the encoder and the store .* {says}"):
            encode_store(store, encoder)
        encoder.provenance = store.provenance


def test_pick_takes_one_slice_of_each_patient_and_unknown_is_never_without():
    codes, _ = planted(6)
    codes.table.loc[codes.table["patient"] == "003", "tumor_known"] = 0
    for tumor in (True, False):
        chosen = codes.table.iloc[codes.pick(10, "train", tumor)]
        assert len(chosen) == 5 and chosen["patient"].is_unique and "003" not in set(chosen["patient"])
        assert ((chosen["tumor_px"] > 0) == tumor).all()
    assert not {"000", "003"} & set(codes.table["patient"].iloc[codes.pick(10, without=[0, 24])])


# --- mixing


def test_mix_keeps_a_and_takes_b_exactly():
    a, b = torch.randn(3, 10, 5), torch.randn(3, 10, 5)
    for level, layers in {"coarse": range(4), "middle": range(4, 8), "fine": range(8, 10)}.items():
        mixed = mix(a, b, level)
        others = [layer for layer in range(10) if layer not in layers]
        assert torch.equal(mixed[:, list(layers)], b[:, list(layers)])
        assert torch.equal(mixed[:, others], a[:, others])
    assert torch.equal(mix(a, b, [2, 9]), blend(a, b, {(2, 9): 1.0}))
    half = blend(a, b, {"coarse": 0.5, "fine": 0.0})
    torch.testing.assert_close(half[:, :4], (a + b)[:, :4] / 2)
    assert torch.equal(half[:, 4:], a[:, 4:])


def test_a_level_that_a_small_model_lacks_is_empty_and_said():
    a, b = torch.randn(8, 5), torch.randn(8, 5)  # 32²
    assert layers_of("fine", 8) == [] and torch.equal(mix(a, b, "fine"), a)
    assert layers_of("8", 8) == layers_of("8²", 8) == [2, 3] and describe_level("8", 8) == "8²"
    with pytest.raises(BadInput, match="'64': use coarse, .* a resolution .4, 8, 16, 32. or"):
        layers_of("64", 8)
    assert describe_level("fine", 8) == "fine: no layers at 32²"
    assert describe_level("middle", 16) == "middle 16²–32²" and describe_level("fine", 16) == "fine 64²–512²"
    assert describe_level("fine", 10) == "fine 64²"
    for wrong in ("tiny", [8]):
        with pytest.raises(BadInput):
            mix(a, b, wrong)


def test_grid_equals_single_images(generator):
    a, b = (generator.broadcast(generator.mapping(torch.randn(n, 16))).detach() for n in (2, 3))
    grid = mixing_grid(generator, a.numpy(), b, "coarse")
    assert grid.shape == (2, 3, 1, 32, 32)
    with torch.no_grad():
        one = generator.synthesis(mix(a[1:2], b[2:3], "coarse"))[0]
    torch.testing.assert_close(grid[1, 2], one, atol=1e-5, rtol=1e-5)
    assert (grid[0, 0] - grid[0, 1]).abs().max() > 1e-4


# --- direction


@pytest.mark.slow
def test_planted_direction_is_found_and_the_boundary_lies_on_it(tmp_path):
    codes, truth = planted()
    extra, _ = planted(20, seed=1)
    extra.w_plus[:] = 1e3  # test patients must not touch the fit
    extra.table["patient"] = "t" + extra.table["patient"]
    extra.table["split"] = "test"
    both = Codes(pd.concat([codes.table, extra.table]), np.concatenate([codes.w_plus, extra.w_plus]))
    direction, again = find_direction(codes, seed=0), find_direction(both, seed=0)
    assert direction.vector @ truth > 0.9 and abs(np.linalg.norm(direction.vector) - 1) < 1e-6
    assert np.array_equal(direction.vector, again.vector) and direction.cv == again.cv
    assert direction.test is None and again.test["patients"] == 20
    assert direction.cv["auc"] > 0.9 and direction.cv["low"] < direction.cv["auc"] < direction.cv["high"]
    score = direction.score(codes.w_plus)
    assert ((score > 0) == (codes.table["tumor_px"] > 0)).mean() > 0.85
    assert abs(np.std(score) - 1) < 1e-3
    loaded = Direction.load(direction.save(tmp_path / "d.safetensors"))
    assert np.array_equal(loaded.vector, direction.vector) and loaded.cv == direction.cv
    assert abs(random_direction(codes, direction).vector @ truth) < 0.7
    # Classes of unit variance, 3 apart: a length of 1 adds 3 to the log odds.
    assert direction.log_odds == loaded.log_odds == pytest.approx(3 * direction.step, rel=0.3)


@pytest.mark.parametrize("labelled_by", ["patient", "slice"])
def test_knowing_the_patient_does_not_help(labelled_by):
    # Each patient sits far from the others, so a split that leaks patients would tell them apart.
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(60), 6)
    w = rng.standard_normal((60, 12))[patient] * 5 + 0.1 * rng.standard_normal((360, 12))
    tumor = rng.permutation(np.arange(60) % 2 == 0)[patient] if labelled_by == "patient" else rng.random(360) < 0.5
    cv = find_direction(table_codes(w, tumor, patient), seed=0).cv
    assert abs(cv["auc"] - 0.5) < 0.15 and cv["low"] < 0.5 < cv["high"]


@pytest.mark.slow
def test_unknown_slices_are_never_used():
    codes, _ = planted()
    unknown = codes.table["patient"].astype(int) >= 20
    codes.table.loc[unknown, "tumor_known"] = 0
    with_them, without = find_direction(codes), find_direction(codes.select(~unknown.to_numpy()))
    assert np.array_equal(with_them.vector, without.vector) and with_them.cv == without.cv
    assert with_them.cv["patients"] == 20


def test_an_empty_place_of_a_label_is_unknown():
    """In memory it is NaN; in a column of slices.csv, which is read as it stands, it is an empty text."""
    for column in ([1, 0, None], ["1", "0", ""]):
        np.testing.assert_array_equal(labels_of(pd.DataFrame({"sharp": column}), "sharp"), [1, 0, np.nan])
    for wrong in (2, "yes", " "):
        with pytest.raises(BadInput, match="'sharp' holds other values than 0 and 1"):
            labels_of(pd.DataFrame({"sharp": [1, 0, wrong]}), "sharp")


@pytest.mark.slow
def test_orthogonal_direction_does_not_raise_the_column():
    codes, truth = planted(effect=3.0)
    other = np.roll(np.eye(24)[0], 5)
    tumor = (codes.table["tumor_px"] > 0).to_numpy()
    size = codes.w @ other + 2.0 * tumor  # a column that goes with the class
    codes.w_plus[:] += (2.0 * tumor[:, None] * other)[:, None]
    codes.table["body_px"] = size
    plain, free = find_direction(codes), find_direction(codes, orthogonal_to=["body_px"])
    slope = np.linalg.lstsq(codes.w - codes.w.mean(0), size - size.mean(), rcond=None)[0]
    assert plain.vector @ slope > 0.3 > abs(free.vector @ slope) * 6
    assert 0 < free.log_odds < plain.log_odds
    assert free.vector @ truth > 0.7 and free.orthogonal_to == ["body_px"]
    assert (free.score(codes.w_plus) > 0)[tumor].mean() > 0.7 > (free.score(codes.w_plus) > 0)[~tumor].mean()


def test_a_choice_on_some_slices_takes_whole_patients(monkeypatch):
    codes, truth = planted(40)
    monkeypatch.setattr(direction_module, "MOST_CHOICE", 100)
    asked, choose = [], direction_module._choose
    monkeypatch.setattr(direction_module, "_choose", lambda x, y, p, seed: asked.append(p) or choose(x, y, p, seed))
    direction = find_direction(codes, folds=2)
    assert [len(p) for p in asked] == [96] * 3 and all((np.unique(p, return_counts=True)[1] == 8).all() for p in asked)
    assert direction.vector @ truth > 0.9 and direction.cv["slices"] == 320


def test_three_patients_in_two_folds_are_enough():
    """One fold then leaves a single patient to learn from, on whom nothing can be chosen."""
    codes, _ = planted(3)
    cv = find_direction(codes, folds=2).cv
    assert (cv["patients"], cv["folds"]) == (3, 2) and 0 <= cv["auc"] <= 1


def test_impossible_requests_are_one_sentence():
    codes, _ = planted(6)
    one_class = codes.select(codes.find(tumor=True))
    with pytest.raises(BadInput, match="0 without"):
        find_direction(one_class)
    with pytest.raises(BadInput, match="2 patients with tumor"):
        find_direction(codes.select((codes.table["patient"] < "002").to_numpy()))
    with pytest.raises(BadInput, match="'test' has 0"):
        find_direction(codes, split="test")
    for wrong in ({"label": "colour"}, {"label": "z_mm"}, {"orthogonal_to": ["case"]}, {"layers": "fine"}):
        with pytest.raises(BadInput):
            find_direction(codes, **wrong)


def test_walk_is_linear_and_stands_still_at_zero(generator):
    codes, _ = planted(8, latent=16, layers=8)
    direction = find_direction(codes, layers="coarse")
    start = torch.from_numpy(codes.w_plus[:2])
    path = walk(start, direction, [-2.0, 0.0, 1.0, 2.0])
    assert path.shape == (2, 4, 8, 16) and torch.equal(path[:, 1], start)
    assert torch.equal(path[:, :, 4:], start[:, None, 4:].expand(-1, 4, -1, -1))
    torch.testing.assert_close(path[:, 3] - start, 2 * (path[:, 2] - start))
    rise = direction.score(path.numpy()) - direction.score(codes.w_plus[:2])[:, None]
    np.testing.assert_allclose(rise, [[-2, 0, 1, 2]] * 2, atol=1e-4)
    scores = direction.score(codes.w_plus[:2])
    for target in (scores.max() + 1, scores.min() - 1, scores.mean()):  # the last lies behind one of them
        own = steps_to(start, direction, target)
        reached = direction.score(walk(start, direction, own[:, None])[:, 0].numpy())
        np.testing.assert_allclose(
            reached, np.maximum(scores, target) if target > 0 else np.minimum(scores, target), atol=1e-4
        )
    images = traverse(generator, start, direction, [-2.0, 0.0, 1.0], layers="all")
    with torch.no_grad():
        torch.testing.assert_close(images[:, 1], generator.synthesis(start), atol=1e-5, rtol=1e-5)
    assert images.shape == (2, 3, 1, 32, 32)


def test_a_direction_of_other_weights_is_not_walked(generator, monkeypatch):
    vector, start = np.eye(16, dtype=np.float32)[0], torch.zeros(1, 8, 16)
    monkeypatch.setattr(generator, "provenance", Provenance(kind="generator", digest="mine"), raising=False)
    for digest in ("mine", "another"):
        made = Provenance(kind="direction", store="s", made_from={"generator": digest})
        direction = Direction(vector, 0.0, 1.0, "tumor", info={"provenance": made.to_dict()})
        if digest == "mine":
            traverse(generator, start, direction, [0.0])
        else:
            with pytest.raises(BadInput, match="the generator is mine .* another .* find the direction on codes"):
                traverse(generator, start, direction, [0.0])


# --- effects


def test_effects_tell_level_region_and_frequency():
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.1, 0.1, (5, 1, 32, 32))
    np.testing.assert_allclose(sum(band_split(images).values()), images, atol=1e-12)
    a, b = images[:2], images[2:]
    whole = band_split(b[None] - a[:, None])
    grid = a[:, None] + whole["up to 4"]  # low frequencies of B, the rest of A
    inside = np.zeros((2, 32, 32), bool)
    inside[:, :16] = True
    table = mixing_effect(a, b, {"coarse": grid, "none": np.repeat(a[:, None], 3, 1)}, inside, WINDOW)
    assert np.allclose(table.loc["coarse", ["share up to 4", "to B up to 4", "to B 4 to 16"]], [1, 1, 0])
    assert table.loc["none", "change"] == 0 and np.allclose(table.loc["all", "to B above 16"], 1)

    labels = np.zeros((2, 32, 32), int)
    labels[0, :8], labels[:, 8:16] = 2, 1
    steps = [-1.0, 0.0, 2.0]
    moved = a[:, None] + 0.1 * np.array(steps)[None, :, None, None, None] * (labels == 2)[:, None, None]
    change = region_change(moved, steps, labels, WINDOW).set_index(["region", "step"])
    assert np.allclose(change["mean"]["tumor"], [-17.5, 0, 35]) and change["slices"]["tumor"].iloc[0] == 1
    assert np.allclose(change["size"]["liver"], 0) and np.allclose(change["size"]["elsewhere"], 0)
