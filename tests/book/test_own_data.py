"""The book on volumes of one's own: what gives way to them, where a chapter ends, and the card."""

import json

import numpy as np
import pandas as pd
import pytest
from notebooks import code, notebook

from stylemed import chapters
from stylemed.book import execution, own_data, staleness
from stylemed.book.execution import read_profile, run_chapter
from stylemed.cli import app
from stylemed.data.volumes import write_pair
from stylemed.errors import BadInput
from stylemed.files import write_json
from stylemed.latent import Codes


def lits(folder, splits="train train train test test", known="known", seed=0):
    """Made-up pairs, a box in air with a liver and in every other slice a tumor, and their volumes.csv."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), []
    for number, split in enumerate(splits.split()):
        hu, labels = np.full((4, 32, 32), -1000, np.int16), np.zeros((4, 32, 32), np.uint8)
        hu[:, 6:26, 4:28] = rng.integers(0, 40, (4, 20, 24))
        hu[:, 10:20, 6:16], labels[:, 10:20, 6:16] = 110, 1
        hu[::2, 12:16, 8:12], labels[::2, 12:16, 8:12] = 60, 2
        write_pair(folder, str(number), hu, labels, (5.0, 10.0, 10.0))
        rows.append({"volume": number, "patient": f"p{number}", "split": split, "tumor_labels": known})
    pd.DataFrame(rows).to_csv(folder / "volumes.csv", index=False)
    return folder


def test_own_volumes_take_the_place_of_what_is_the_phantoms(root, tmp_path):
    data = lits(tmp_path / "my scans")
    for name in ("smoke", "cpu", "colab", "gpu"):
        own, build = own_data.own_book(name, data, root)
        assert build == root / "_build" / f"{name}-my-scans"
        given = {chapter: execution.chapter_parameters(chapter, own, root) for chapter in own.chapters}
        first, published = given["01_volumes_to_slices"], read_profile(name, root).chapters
        assert (first["data"], first["scans"]) == (str(data), "*")
        assert first["resolution"] == published["01_volumes_to_slices"]["resolution"]
        assert {p["weights"] for p in given.values() if "weights" in p} == {"fresh"}
        assert given["06_the_tumor_direction"]["judge_patients"] == 0
        assert "phantom" not in given["03_training_the_generator"]["preset"] + given["04_the_encoder"]["preset"]


@pytest.mark.parametrize(
    "splits, known, says",
    [
        ("", "known", "holds no volume-N"),
        ("train train test", "known", "1 of them in the split test, where the book needs 2"),
        ("train test test", "unknown", "volumes.csv calls the tumors of every volume unknown"),
    ],
)
def test_what_no_book_can_be_made_of_is_refused_before_anything_runs(tiny_book, monkeypatch, splits, known, says):
    monkeypatch.chdir(tiny_book)
    data = lits(tiny_book / "data", splits, known)
    for command in ("run", "html"):
        with pytest.raises(BadInput, match=says):
            app(["book", command, "--profile", "smoke", "--data", str(data)], standalone_mode=False)
    assert not (tiny_book / "_build").exists()


def test_two_folders_of_one_name_do_not_share_a_book(tiny_book):
    here, there = (lits(tiny_book / place / "scans", "train test test") for place in ("here", "there"))
    _, build = own_data.own_book("smoke", here, tiny_book)
    write_json(build / "runs" / "01_volumes_to_slices.json", {"parameters": {"data": str(here)}})
    assert own_data.own_book("smoke", here, tiny_book)[1] == build
    with pytest.raises(BadInput, match="smoke-scans holds the book of .*here.scans; rename one"):
        own_data.own_book("smoke", there, tiny_book)


def test_another_volume_makes_chapter_one_stale(tiny_book):
    data = lits(tiny_book / "data", "train test test")

    def made_from(folder):
        return staleness.chapter_made_from("01_one", {"data": str(folder)}, tiny_book, tiny_book)

    before = made_from(data)
    assert made_from(data) == before
    (data / "volume-9.nii.gz").write_bytes(b"")
    assert {what for what, digest in made_from(data).items() if digest != before[what]} == {"the data"}


@pytest.mark.slow
def test_a_chapter_that_ends_itself_is_published_up_to_there(tiny_book):
    """With its note in the place of the rest, and no path of this machine; any other exception is a failure still."""
    file = tiny_book / "book" / "01_one.ipynb"
    own = 'profile = "cpu"  # type: str\nsize = 2  # type: int\ndata = ""  # type: str'
    cells = [
        code(own, "parameters"),
        code("from stylemed import chapters\n\ninputs = chapters.inputs(profile, needs=[])"),
        code('print("seen")\nchapters.stop("Nobody is labelled.")'),
        code("print(no_such_name)"),
    ]
    file.write_text(notebook(*cells))
    build, profile = tiny_book / "_build" / "smoke-data", read_profile("smoke", tiny_book)
    profile.chapters["01_one"]["data"] = str(tiny_book / "data")
    facts = run_chapter("01_one", profile, build, root=tiny_book, quiet=True)
    assert facts["ended"] == "Nobody is labelled."
    text = (build / "executed" / "01_one.ipynb").read_text()
    published = json.loads(text)["cells"]
    assert len(published) == 4 and 'data = "data"' in "".join(published[0]["source"])
    assert published[2]["outputs"][0]["text"] == ["seen\n"] and len(published[2]["outputs"]) == 1
    assert "ends here. Nobody is labelled." in "".join(published[3]["source"])
    assert str(tiny_book) not in text and "no_such_name" not in text


def codes_of(splits, known=True):
    """Codes of two slices a patient, [2n, 4, 8]: what is in the first axis tells tumor from none."""
    table = pd.DataFrame({"patient": [f"p{i // 2}" for i in range(2 * len(splits))]})
    table["split"] = [split for split in splits for _ in range(2)]
    table["tumor_px"], table["tumor_known"] = [9, 0] * len(splits), int(known)
    w_plus = np.random.default_rng(0).standard_normal((len(table), 4, 8)).astype(np.float32)
    w_plus[..., 0] += 6 * (table["tumor_px"].to_numpy()[:, None] > 0)
    return Codes(table, w_plus, {})


@pytest.fixture
def in_build(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "_current", tmp_path)
    return tmp_path


def test_without_labels_in_train_all_splits_are_cross_validated_by_patient(in_build):
    with pytest.raises(
        chapters.ChapterEnds, match="split 'train' has 0 patients with tumor.* AUC is 1.00 .* 6 patients"
    ):
        chapters.need_labels(codes_of(["test"] * 6), folds=3, seed=0)
    numbers = json.loads((in_build / "metrics" / "06_the_tumor_direction.json").read_text())
    assert numbers["all_auc"] == 1 and numbers["all_patients"] == 6


def test_chapter_six_goes_on_only_where_there_is_something_to_measure(in_build):
    chapters.need_labels(codes_of(["train"] * 4 + ["test"]), folds=3, seed=0)
    with pytest.raises(chapters.ChapterEnds, match="all splits has 0 patients with tumor"):
        chapters.need_labels(codes_of(["train"] * 4 + ["test"], known=False), folds=3, seed=0)
    with pytest.raises(chapters.ChapterEnds, match="nobody to measure a walk on"):
        chapters.need_labels(codes_of(["train"] * 4), folds=3, seed=0)


def test_the_card_tells_what_was_odd_and_what_was_measured(tmp_path):
    """Of made-up files, one of them left out; no path of this machine, and the licence left to the owner."""
    from stylemed.data import SliceDataset, SliceStore, prepare
    from stylemed.evaluation.fidelity import FIRST_COLUMNS
    from stylemed.files import write_json
    from stylemed.machine import machine
    from stylemed.networks import Generator
    from stylemed.training.run import export

    data, build = lits(tmp_path / "scans", "train train train test test test"), tmp_path / "_build" / "smoke-scans"
    (data / "segmentation-5.nii.gz").unlink()
    prepare(data, build / "artifacts" / "store", 16, workers=1, progress=False)
    learned = SliceDataset(SliceStore.open(build / "artifacts" / "store")).metadata
    (build / "artifacts" / "gan").mkdir()
    generator = Generator(16, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=8)
    export(build / "artifacts" / "gan" / "generator.safetensors", generator, learned)
    distances = pd.DataFrame({name: [0.5, 1.0] for name in FIRST_COLUMNS}).assign(frechet=[9.0, 7.25])
    distances.to_csv(build / "artifacts" / "gan" / "distances.csv", index=False)
    write_json(build / "metrics" / "04_the_encoder.json", {"mae_test": 31.5, "psnr_wp": None})
    given = {"parameters": {"data": str(data), "seed": 3}, "minutes": 1.5, "threads": 1} | machine()
    for name, more in {"01_a": {}, "06_b": {"ended": "Nobody is labelled."}}.items():
        write_json(build / "runs" / f"{name}.json", {"chapter": name} | given | more)
    card = own_data.write_card(read_profile("smoke"), build).read_text()
    for told in (
        "| train | 3 | 3 | 12 | 6 | 6 | 0 |",
        "| test | 2 | 2 | 8 | 4 | 4 | 0 |",
        "left out: volume-5 (volume-5.nii.gz has no segmentation-5.nii.gz",
        "window CT [-100, 250]",
        "to be filled in by the owner",
        "Not for diagnosis",
        "3.0 minutes in all",
        "seed 3",
        "| frechet | 7.25 |",
        "`test` patients, HU | 31.5 |",
        "dB | not measured |",
        "Chapter 6 ends early. Nobody is labelled.",
    ):
        assert told in card
    assert str(tmp_path) not in card
