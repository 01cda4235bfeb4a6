"""Distances against closed forms and direct formulas; what features see; the callback leaves training as it was."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from made_up import TINY
from scipy.linalg import sqrtm

from stylemed.errors import BadInput
from stylemed.evaluation import (
    Distances,
    Reference,
    features,
    frechet_distance,
    kernel_distance,
    nearest_other_patient,
    read_distances,
    verdict,
)
from stylemed.evaluation.fidelity import COLUMNS, FIRST_COLUMNS
from stylemed.evaluation.inception import Inception
from stylemed.evaluation.reference import _half
from stylemed.provenance import Provenance
from stylemed.training import train_gan
from stylemed.training.run import Run


class Blobs:
    """A data set of bright discs with texture."""

    channels = 1

    def __init__(self, n: int = 20, side: int = 16, seed: int = 0):
        stream = torch.Generator().manual_seed(seed)
        self.resolution = side
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        centre = (torch.rand(n, 2, generator=stream) * 0.4 + 0.3) * side
        away = ((y[None] - centre[:, :1, None]) ** 2 + (x[None] - centre[:, 1:, None]) ** 2) * (16 / side) ** 2
        texture = 0.1 * torch.randn(n, side, side, generator=stream)
        self.all = (1 - away / 8 + texture).clamp(-1, 1)[:, None].float()

    def __len__(self):
        return len(self.all)

    def images(self, positions):
        return self.all[positions]


def normal(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d))


def exactly(mean, deviation, n=200):
    """n rows whose sample mean and standard deviations are exactly these, with no correlation."""
    x = normal(n, len(mean), 0)
    x -= x.mean(axis=0)
    x = np.linalg.qr(x)[0] * np.sqrt(n - 1)
    return np.asarray(mean) + x * deviation


# -- distances


def test_frechet_of_uncorrelated_normals_is_the_closed_form():
    a, b = exactly([0, 0, 0], [1, 2, 0.5]), exactly([1, -2, 0], [3, 2, 0])
    assert np.isclose(frechet_distance(a, b), 1 + 4 + (3 - 1) ** 2 + 0.5**2)


def test_frechet_is_the_direct_formula_symmetric_and_blind_to_rotation():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((60, 8)) @ rng.standard_normal((8, 8)), rng.standard_normal((40, 8)) * 2 + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    direct = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    assert np.allclose([frechet_distance(a, b), frechet_distance(b, a), frechet_distance(a @ turn, b @ turn)], direct)
    few = normal(5, 30, 2)  # a singular covariance is no obstacle
    assert 0 <= frechet_distance(few, few) < 1e-5


def test_kernel_distance_is_the_direct_sum():
    a, b = normal(6, 3, 0), normal(4, 3, 1) + 1

    def mean(x, y, others):
        values = [(x[i] @ y[j] / 3 + 1) ** 3 for i in range(len(x)) for j in range(len(y)) if not (others and i == j)]
        return np.mean(values)

    assert np.isclose(kernel_distance(a, b), mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False))


def test_kernel_distance_has_no_bias_and_grows_with_a_shift():
    null = [kernel_distance(normal(12, 5, 2 * i), normal(9, 5, 2 * i + 1)) for i in range(400)]
    assert abs(np.mean(null)) < 3 * np.std(null) / np.sqrt(len(null)) and min(null) < 0
    a, b = normal(300, 5, 0), normal(300, 5, 1)
    shifted = [kernel_distance(a, b + shift) for shift in (0, 0.5, 1, 2)]
    assert shifted == sorted(shifted) and shifted[1] > 10 * abs(shifted[0])


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_unusable_features_are_refused(distance):
    a = normal(5, 3, 0)
    for bad, sentence in ((a * np.nan, "not finite"), (a[:1], "at least two"), (a[:, :2], "same features")):
        with pytest.raises(BadInput, match=sentence):
            distance(a, bad)


# -- features


@pytest.mark.parametrize("side", [16, 32, 64, 128, 512])
def test_features_are_fixed_and_128(side):
    images = Blobs(5, side).all
    found = features(images)
    assert found.shape == (5, 128) and found.dtype == np.float64 and np.isfinite(found).all()
    assert np.array_equal(found[3:4], features(images[3:4])) and np.array_equal(found, features(images, batch=2))
    assert np.allclose(found, features(images.repeat(1, 3, 1, 1)), atol=1e-4)  # grey in three channels
    layout = F.adaptive_avg_pool2d(images, 8).flatten(1)
    assert np.allclose(found[:, :64], layout, atol=1e-6)


def test_a_known_texture_lies_in_its_own_band():
    """A chequerboard of ±0.5 is all in the finest octave; doubled in size, all in the next."""
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 - 0.5
    for band, size in enumerate((1, 2, 4, 8)):
        image = board[: 64 // size, : 64 // size].repeat_interleave(size, 0).repeat_interleave(size, 1)[None, None]
        detail = np.exp(features(image)[0, 64:].reshape(4, 16)) - 0.01
        expected = np.zeros((4, 16))
        expected[band] = 0.5
        assert np.allclose(detail, expected, atol=1e-6)


def test_blur_changes_detail_and_a_shift_changes_layout():
    train = Blobs(100, 64).all
    reference = Reference(features(train))
    blurred = F.interpolate(F.avg_pool2d(train, 4), scale_factor=4)
    shifted = train.roll(8, dims=3)

    def moved(images):
        """Mean change of the layout and of each band, in standard deviations of train."""
        change = np.abs(reference.standardise(features(images)) - reference.standardised).mean(axis=0)
        return np.array([change[:64].mean(), *change[64:].reshape(4, 16).mean(axis=1)])

    by_blur, by_shift = moved(blurred), moved(shifted)
    assert by_blur[1:3].min() > 1  # 64² and 32² are gone …
    assert by_blur[[0, 3, 4]].max() < 1e-4  # … and nothing else
    assert by_shift[0] > 0.3 and by_shift[1] < by_blur[1]


def test_distances_grow_with_every_damage():
    train, fresh = Blobs(200, 64).all, Blobs(120, 64, seed=1).all
    reference = Reference(features(train))
    noise = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))

    def blur(images, sigma):
        taps = torch.exp(-(torch.arange(-6, 7) ** 2) / (2 * sigma**2))
        kernel = (taps[:, None] * taps) / (taps.sum() ** 2)
        return F.conv2d(F.pad(images, (6, 6, 6, 6), mode="replicate"), kernel[None, None])

    damages = {
        "blur": [fresh, *(blur(fresh, s) for s in (0.5, 1, 2))],
        "noise": [fresh, *((fresh + s * noise).clamp(-1, 1) for s in (0.1, 0.2, 0.4))],
        "collapse": [fresh, *(fresh[:n].repeat(120 // n, 1, 1, 1) for n in (20, 8, 2))],
    }
    for name, steps in damages.items():
        found = [features(images) for images in steps]
        for distance in (reference.frechet, reference.kernel):
            values = [distance(f) for f in found]
            assert values == sorted(values) and values[-1] > 1.3 * values[0], (name, distance, values)


def test_a_constant_feature_does_not_outweigh_all_others():
    train = Blobs(50, 32).all
    train[..., :4, :4] = -1  # plain air in a corner
    faint = train.clone()
    faint[..., :4, :4] += 0.01
    reference = Reference(features(train))
    assert reference.scale.min() == 0.05 and reference.frechet(features(faint)) < 1.05 * reference.floor()


def people(patients, slices, seed, shift=0.0):
    """Features [patients * slices, 12] and labels: patients differ more than slices of one patient do."""
    labels = np.repeat(np.arange(patients), slices)
    return normal(patients * slices, 12, seed) + 1.5 * normal(patients, 12, 100 + seed)[labels] + shift, labels


def test_halves_keep_patients_whole():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
    for _ in range(20):
        first = _half(patients, rng)
        assert all(len(set(first[patients == p])) == 1 for p in range(12)) and 0.3 < first.mean() < 0.7


@pytest.mark.parametrize("count", [60, 400])  # a small sample, and all of the same slices
def test_other_slices_of_the_same_patients_score_at_the_floor(count):
    x, labels = people(40, 40, 1)
    first = np.arange(len(x)) % 40 < 20  # of each patient's slices; the others are as good as these
    fresh = np.random.default_rng(2).permutation(x[~first])
    reference = Reference(x[first], labels[first], count)
    assert reference.size == count
    floor, spread = reference.floor(), np.std([frechet_distance(*sides) for sides in reference.by_slice])
    assert abs(reference.frechet(fresh[:count]) - floor) < 2 * spread
    one_patient = x[labels == 0][np.arange(count) % 40]
    for worse in (people(40, 10, 1, shift=2.0)[0], one_patient):
        assert reference.frechet(worse) > floor + 10 * spread


def test_new_patients_score_as_patients_do_among_themselves():
    train, labels = people(40, 20, 1)
    test, _ = people(40, 20, 2)
    reference = Reference(train, labels, 400, test=test)
    assert reference.floor() < 0.3 * reference.between_patients()
    half = [people(20, 20, seed)[0] for seed in range(3, 9)]  # as many patients as in half of train
    assert np.isclose(np.mean([reference.frechet(x) for x in half]), reference.between_patients(), rtol=0.25)
    assert np.isclose(np.mean([reference.recall(x) for x in half]), reference.recall_between_patients(), rtol=0.25)
    assert np.isclose(reference.frechet_test(train[::2]), reference.floor_test(), rtol=0.1)
    assert reference.frechet_test(test[::2]) < 0.5 * reference.floor_test()
    assert np.isnan(
        [Reference(train).between_patients(), Reference(train).floor_test(), Reference(train).frechet_test(test)]
    ).all()


def test_recall_is_lost_by_one_slice_and_precision_by_a_shift():
    train, labels = people(40, 20, 1)
    reference = Reference(train, labels, 200)
    level = reference.recall_between_patients()
    copies, shifted = np.repeat(train[:1], 200, axis=0), train[:200] + 9
    assert reference.recall(copies) < 0.01 < 0.2 < level < reference.precision(copies)
    assert reference.precision(shifted) < 0.01 and reference.recall(train[::2]) > level
    with pytest.raises(BadInput, match="200 images are needed"):
        reference.frechet(train[:100])


# -- the callback


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_training_with_and_without_the_callback_is_the_same(tmp_path):
    final = {}

    def keep(name, then=None):
        def callback(run, trainer):
            if then is not None:
                before = torch.get_rng_state(), np.random.get_state()[1].copy()
                then(run, trainer)
                assert torch.equal(before[0], torch.get_rng_state())
                assert np.array_equal(before[1], np.random.get_state()[1])
            final[name] = {
                f"{part} {key}": value.clone()
                for part in ("generator", "discriminator", "averaged")
                for key, value in getattr(trainer, part).state_dict().items()
            }

        return callback

    distances = Distances(Blobs(), count=12, batch=5)
    for name, then in (("without", None), ("with", distances)):
        train_gan(Blobs(), tmp_path / name, "smoke", kimg=0.32, progress=False, on_snapshot=keep(name, then), **TINY)
    assert same(final["without"], final["with"])

    table = read_distances(tmp_path / "with")
    assert list(table.columns) == COLUMNS and len(table) == 2 and table.kimg.is_monotonic_increasing
    empty = ["frechet_patients", "frechet_test", "frechet_test_floor", "liver_dice", "liver_dice_train"]
    empty += ["tumor_share", "tumor_share_train", "tumor_px", "tumor_px_train", "inception"]
    assert sorted(table.columns[table.isna().all()]) == sorted(empty)
    assert np.isfinite(table.drop(columns=empty).to_numpy()).all() and table.kimg.iloc[-1] == 0.32
    train = Blobs().all
    assert np.allclose(table.nearest_train, np.median(nearest_other_patient(train)))
    assert np.allclose(table.spread_train, train.std(dim=0, unbiased=False).mean(), rtol=1e-5)

    from PIL import Image

    picture = Image.open(tmp_path / "with" / "neighbours.png")
    assert picture.size == (8 * 16, 2 * 16) and picture.mode == "L"


@pytest.mark.slow
def test_stopped_and_resumed_the_table_is_the_same(tmp_path):
    def train(name, kimg):
        distances = Distances(Blobs(), count=8)
        return train_gan(Blobs(), tmp_path / name, "smoke", kimg=kimg, progress=False, on_snapshot=distances, **TINY)

    whole = (train("whole", 0.32).path / "distances.csv").read_bytes()
    run = train("parts", 0.16)
    train("parts", 0.32)
    assert (run.path / "distances.csv").read_bytes() == whole
    for file in run.checkpoints()[1:]:  # as if killed after the first that is left
        file.unlink()
    train("parts", 0.32)
    assert (run.path / "distances.csv").read_bytes() == whole


class Drawn:
    """Stands for a generator: every latent z is the position of an image."""

    latent_size = 1

    def __init__(self, images):
        self.all = images

    def mapping(self, z):
        return (z[:, 0] * 1000).long() % len(self.all)

    def broadcast(self, w):
        return w

    def synthesis(self, w_plus, lod):
        return self.all[w_plus] * 1.0


def measured(folder, dataset, images, nimg=1000, distances=None):
    trainer = SimpleNamespace(averaged=Drawn(images), device="cpu", now=SimpleNamespace(lod=0.0), nimg=nimg)
    (distances or Distances(dataset, count=100))(Run(folder), trainer)
    return read_distances(folder).iloc[-1]


def test_rows_tell_fresh_images_from_copies_and_from_collapse(tmp_path):
    train = Blobs(200, 32)
    fresh = measured(tmp_path, train, Blobs(400, 32, seed=1).all)
    copied = measured(tmp_path, train, train.all)
    collapsed = measured(tmp_path, train, train.all[:3])
    assert copied.nearest == 0 < 0.5 * fresh.nearest_train < fresh.nearest
    assert collapsed.spread < 0.9 * fresh.spread and abs(fresh.spread / fresh.spread_train - 1) < 0.1
    assert collapsed.frechet > 3 * fresh.frechet and collapsed.kernel > 3 * abs(fresh.kernel)
    assert collapsed.recall < 0.05 and fresh.recall > 0.5 * fresh.recall_train > 10 * collapsed.recall
    assert collapsed.nearest_distinct == 0.03 < 0.3 < fresh.nearest_distinct


class BrightDiscs:
    """A reader: where it is bright there is liver, and where that is most of the middle a tumor of one pixel."""

    def findings(self, images):
        bright = images[:, 0].numpy() > 0
        masks = np.where(bright, 2, 0).astype(np.uint8)
        tumor = bright[:, 16, 16].astype(int)
        masks[:, 16, 16] = np.where(tumor == 1, 3, masks[:, 16, 16])
        liver = (masks >= 2).sum(axis=(1, 2))
        return SimpleNamespace(masks=masks, table=pd.DataFrame({"tumor": tumor, "tumor_px": tumor, "liver_px": liver}))


def test_a_reader_fills_its_columns_on_both_sides(tmp_path):
    train, test = Blobs(200, 32), Blobs(40, 32, seed=5)
    train.rows, patients = np.arange(200), np.repeat(np.arange(50), 4)
    labels = (train.all[:, 0] > 0).numpy().astype(np.uint8)
    train.store = SimpleNamespace(labels=labels, slices={"patient": SimpleNamespace(to_numpy=lambda: patients)})
    distances = Distances(train, count=100, reader=BrightDiscs(), test=test)
    varied = measured(tmp_path, train, Blobs(400, 32, seed=1).all, distances=distances)
    assert varied.drop("inception").notna().all()
    assert np.isclose(varied.tumor_share_train, (train.all[:, 0, 16, 16] > 0).float().mean())
    assert abs(varied.tumor_share - varied.tumor_share_train) < 0.2 and varied.tumor_px == varied.tumor_px_train == 1
    assert abs(varied.liver_dice - varied.liver_dice_train) < 0.05
    alike = measured(tmp_path, train, train.all[:1], distances=distances)
    assert alike.liver_dice == 1 and alike.tumor_share in (0, 1) and alike.nearest_distinct == 0.01


def test_a_reader_of_larger_slices_is_asked_at_its_side():
    class Sides(BrightDiscs):
        provenance, asked = Provenance(kind="labeller", resolution=64), set()

        def findings(self, images):
            self.asked.add(images.shape[-1])
            return super().findings(images)

    assert np.isnan(Distances(Blobs(20, 32), count=10, reader=Sides()).yardsticks["liver_dice_train"])
    assert Sides.asked == {64}


# -- the verdict


def rows(kimg=(10, 20, 30), **columns):
    usual = {"recall": 0.3, "recall_train": 0.4, "precision": 0.3, "liver_dice": np.nan, "liver_dice_train": 0.55}
    return pd.DataFrame({"kimg": kimg, **usual, **columns})


def test_the_verdict_tells_one_anatomy_from_variety():
    for table in (
        rows(recall=0.03, liver_dice=0.81),
        rows(recall=0.3, liver_dice=0.81),  # different textures on one anatomy
        rows(recall=0.03, precision=0.02, liver_dice=0.81),  # blurred
        rows(recall=0.03),  # no reader
        rows(recall=[0.3, 0.04, 0.03], kimg=[4, 10, 20]),  # what was before 5 kimg does not count
    ):
        assert "settled on one anatomy" in verdict(table)
    assert "0.81 where those of different patients have 0.55, recall 0.03" in verdict(
        rows(recall=0.03, liver_dice=0.81)
    )
    for table in (rows(), rows(liver_dice=0.57), rows(recall=0.9)):
        assert "healthy" in verdict(table) and "settled" not in verdict(table)
    assert "do not look like slices" in verdict(rows(recall=1.0, precision=0.0))  # noise
    for table in (rows(recall=0.15), rows(liver_dice=0.62)):
        assert "do not reach the variety" in verdict(table)
    assert "Dice" not in verdict(rows()) and "at 30 thousand" in verdict(rows())


def test_the_verdict_is_silent_where_it_knows_nothing():
    assert verdict(rows(kimg=[1, 2, 4.9], recall=0.0)) is None
    assert verdict(rows(recall=np.nan)) is verdict(rows(recall_train=0.0)) is None
    assert verdict(pd.DataFrame({"kimg": [10.0], "frechet": [5.0]})) is verdict(rows().iloc[:0]) is None


def test_a_changed_verdict_is_printed_once(tmp_path, capsys):
    data = Blobs(200, 32)
    distances = Distances(data, count=100)
    for nimg, images in ((1000, data.all), (6000, data.all), (7000, data.all)):
        measured(tmp_path, data, images, nimg, distances)
    for nimg in range(8000, 13000, 1000):
        measured(tmp_path, data, data.all[:3], nimg, distances)
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert "healthy" in said[0] and "settled" in said[-1] and len(said) <= 3
    assert said[-1].endswith("thousand images).") and said[-1].startswith(tmp_path.name)


def test_tables_of_before_are_read_and_gone_on_with(tmp_path):
    old = pd.DataFrame([[1.0, 50, 20, 3, 0.2, 0.3, 0.2, 0.25]], columns=FIRST_COLUMNS)
    old.to_csv(tmp_path / "distances.csv", index=False)
    table = read_distances(tmp_path)
    assert list(table.columns) == COLUMNS and table.frechet.tolist() == [50] and table.recall.isna().all()
    assert verdict(table) is None
    measured(tmp_path, Blobs(20, 32), Blobs(20, 32).all, 2000, Distances(Blobs(20, 32), count=8))
    table = read_distances(tmp_path)
    assert table.kimg.tolist() == [1, 2] and table.recall.notna().tolist() == [False, True]


def test_a_row_replaces_those_of_the_same_kimg_and_later(tmp_path):
    data = Blobs(20, 32)
    distances = Distances(data, count=8)
    for nimg in (1000, 2000, 3123):
        measured(tmp_path, data, data.all, nimg, distances)
    before = (tmp_path / "distances.csv").read_bytes()
    measured(tmp_path, data, data.all, 3123, distances)
    assert (tmp_path / "distances.csv").read_bytes() == before
    measured(tmp_path, data, data.all, 1500, distances)
    assert read_distances(tmp_path).kimg.tolist() == [1.0, 1.5]


def test_patients_come_from_the_dataset_or_its_store():
    data = Blobs(20, 32)
    unknown = Distances(data, count=8).yardsticks["nearest_train"]
    data.rows, labels = np.arange(20)[::-1], np.repeat(["a", "b"], 10)
    data.store = SimpleNamespace(slices={"patient": SimpleNamespace(to_numpy=lambda: labels)})
    stored = Distances(data, count=8).yardsticks["nearest_train"]
    assert stored == np.median(nearest_other_patient(data.all, labels[::-1])) > unknown
    data.patients = ["a"] * 20  # one patient only: as good as unknown
    assert Distances(data, count=8).yardsticks["nearest_train"] == unknown


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(BadInput, match="at least four training slices"):
        Distances(Blobs(3))
    with pytest.raises(BadInput, match="at least four test slices"):
        Distances(Blobs(), test=Blobs(3))
    with pytest.raises(BadInput, match="at least two images"):
        Distances(Blobs(), count=1)
    with pytest.raises(BadInput, match="no distances.csv"):
        read_distances(tmp_path)
    for text in ("", "kimg,frechet\n1,2\n"):
        (tmp_path / "distances.csv").write_text(text)
        with pytest.raises(BadInput, match="damaged"):
            read_distances(tmp_path)
    with pytest.raises(BadInput, match="not finite"):
        measured(tmp_path, Blobs(), Blobs().all * float("nan"))


def test_slices_are_read_at_the_first_call_and_mistakes_told_before():
    class Unread(Blobs):
        def images(self, positions):
            raise AssertionError("read")

    data = Unread()
    measure = Distances(data, test=Unread())
    with pytest.raises(AssertionError, match="read"):
        measure.yardsticks  # noqa: B018
    data.store = SimpleNamespace(provenance=Provenance(windows={"CT": [-100.0, 250.0]}))
    reader = BrightDiscs()
    reader.provenance = Provenance(kind="labeller", windows={"CT": [0.0, 250.0]})
    with pytest.raises(BadInput, match="the labeller and the store .*window of CT"):
        Distances(data, reader=reader)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Random, of a size that keeps the signal alive through all layers, so that features differ where images do."""
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    network = inception_v3(weights=None, init_weights=False)
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    file = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(network.state_dict(), file)
    return file


@pytest.mark.slow
def test_inception_reads_images_as_its_weights_were_trained(inception_weights):
    """Against torchvision's own way: its preprocessing, and the network as it is built with the released weights."""
    from torchvision.models import Inception_V3_Weights, inception_v3

    network = inception_v3(weights=None, init_weights=False, transform_input=True)
    network.load_state_dict(torch.load(inception_weights))
    network.fc = torch.nn.Identity()
    images = torch.rand(2, 1, 299, 299, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prepare = Inception_V3_Weights.IMAGENET1K_V1.transforms(resize_size=299)
    with torch.no_grad():
        usual = network.eval()(prepare(((images + 1) / 2).expand(-1, 3, -1, -1))).double().numpy()
    inception = Inception(inception_weights)

    def away(features):
        return np.linalg.norm(features - usual) / np.linalg.norm(usual)

    assert usual.std() > 0.1 and away(inception(images)) < 1e-4 < 0.1 < away(inception((images + 1) / 2))


@pytest.mark.slow
def test_inception_is_used_where_its_weights_are_given(tmp_path, inception_weights):
    measure = Distances(Blobs(8), count=4, inception=inception_weights)
    train_gan(Blobs(8), tmp_path / "run", "smoke", kimg=0.008, progress=False, on_snapshot=measure, **TINY)
    table = read_distances(tmp_path / "run")
    assert table.columns[-1] == "inception" and (table.inception >= 0).all()
    (tmp_path / "other.pth").write_bytes(b"nonsense")
    for name in ("other.pth", "missing.pth"):
        with pytest.raises(BadInput, match=name):
            Distances(Blobs(8), inception=tmp_path / name)
