"""A rehearsal replaces what its profile says, and nothing outside of its own folder."""

import copy
import json
from pathlib import Path

import pytest

from stylemed.book.execution import read_profile
from stylemed.book.rehearsal import made_up_volumes, rehearse, rehearsed
from stylemed.data import SliceStore, prepare
from stylemed.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


def test_it_runs_apart_and_says_what_it_replaced(large_book, monkeypatch, capsys):
    from stylemed.training import schedule

    monkeypatch.setattr(schedule, "PRESETS", copy.deepcopy(schedule.PRESETS))  # a kernel would take its changes with it
    before = {file: file.read_bytes() for file in large_book.rglob("*") if file.is_file()}
    rehearse("gpu", root=large_book)
    said = capsys.readouterr().out
    for words in ("01_one: size 3 (the profile has 300)", "03_two: tick_kimg 0.25 in its preset", "made-up volumes"):
        assert words in said
    assert "REHEARSAL: the numbers" in said
    own = large_book / "_build" / "gpu-rehearsal"
    after = {f: f.read_bytes() for f in large_book.rglob("*") if f.is_file() and not f.is_relative_to(own)}
    assert after == before
    one, two = (json.loads((own / "metrics" / f"{name}.json").read_text()) for name in ("01_one", "03_two"))
    assert one == {"size": 3, "volumes": 3}
    assert two == {"kimg": 0.5, "tick": 0.25, "widest": 512, "batch": 2}
    facts = json.loads((own / "runs" / "03_two.json").read_text())
    assert facts["parameters"]["preset"] == "paper"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("01_one: {size: 3}", "01_one: {sise: 3}", "'sise' for 01_one.*size"),
        ("03_two: {kimg: 0.5}", "09_none: {kimg: 0.5}", "'gpu' names the chapter '09_none'"),
        ("  data: {size", "  date: {size", "part 'date'; there are: parameters, preset, data"),
        ("03_two: {tick", "01_one: {tick", "01_one trains nothing"),
        ("../data/lits", "../../lits", "leads out of the rehearsal"),
        ("rehearsal:", "", "no `rehearsal:`"),
    ],
)
def test_what_does_not_exist_is_named_before_anything_runs(large_book, old, new, said):
    file = large_book / "book" / "profiles" / "gpu.yaml"
    text = file.read_text()
    old = text[text.index("rehearsal:") :] if old == "rehearsal:" else old
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(BadInput, match=said):
        rehearse("gpu", root=large_book, quiet=True)
    assert not (large_book / "_build" / "gpu-rehearsal" / "runs").exists()


@pytest.mark.slow
def test_made_up_volumes_are_as_hard_as_real_ones(tmp_path):
    """The scans of the profile gpu, by number, without a table, with tumors where LiTS has them: all splits are there."""
    settings = read_profile("gpu", ROOT)
    scans = settings.chapters["01_volumes_to_slices"]["scans"]
    wanted = settings.rehearsal["data"] | {"size": 48}
    folder = made_up_volumes(tmp_path / "lits", scans, **wanted)
    first = (folder / "made-up.json").stat().st_mtime_ns
    assert (made_up_volumes(folder, scans, **wanted) / "made-up.json").stat().st_mtime_ns == first
    assert {f.name for f in folder.glob("volume*")} == {f"volume-{number}.nii.gz" for number in scans.split(",")}
    prepare(folder, tmp_path / "store", 64, include=scans, workers=1, progress=False)
    table = SliceStore.open(tmp_path / "store").slices
    patients = table.drop_duplicates("patient")["split"].value_counts().to_dict()
    assert patients == {"train": 11, "judge": 3, "test": 3}
    tumors = table.groupby("patient")["tumor_px"].max()
    assert {int(p.split("-")[1]) for p in tumors.index[tumors == 0]} == set(wanted["without_tumor"])
    assert rehearsed(settings, ROOT).chapters["01_volumes_to_slices"]["scans"] == scans
