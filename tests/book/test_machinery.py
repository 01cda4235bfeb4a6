"""Execution on a book of one tiny chapter, and what a chapter calls."""

import json
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from stylemed import chapters
from stylemed.book.execution import ChapterFailed, in_turn, read_profile, run_chapter, with_values
from stylemed.book.staleness import Digests
from stylemed.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


def test_unknown_parameter_is_named_with_its_chapter(tiny_book):
    file = tiny_book / "book" / "profiles" / "smoke.yaml"
    file.write_text(file.read_text().replace("size: 3", "sise: 3"))
    with pytest.raises(BadInput, match="'sise' for 01_one.*size"):
        run_chapter("01_one", read_profile("smoke", tiny_book), tiny_book / "_build" / "smoke", root=tiny_book)
    file.write_text(file.read_text().replace("01_one", "09_none"))
    with pytest.raises(BadInput, match="09_none"):
        read_profile("smoke", tiny_book)
    with pytest.raises(BadInput, match="Unknown profile 'none'; there are: smoke"):
        read_profile("none", tiny_book)


@pytest.mark.slow
def test_a_failing_cell_is_told_in_short_and_kept(tiny_book, python_env):
    file = tiny_book / "book" / "01_one.ipynb"
    file.write_text(file.read_text().replace("print(size)", "print(no_such_name)"))
    build = tiny_book / "_build" / "smoke"
    command = [sys.executable, "-m", "stylemed", "book", "run", "--profile", "smoke"]
    answer = subprocess.run(command, cwd=tiny_book, env=python_env, capture_output=True, text=True)
    assert answer.returncode == 1 and "Traceback" not in answer.stderr
    assert re.search(r"01_one, cell 4 .*NameError: name 'no_such_name'", answer.stderr)
    assert (build / "failed" / "01_one.failed.ipynb").is_file()
    assert not (build / "executed" / "01_one.ipynb").exists() and not (build / "runs" / "01_one.json").exists()


def test_chapters_run_beside_each_other_and_none_before_what_it_reads():
    """02 and 03 meet at a barrier, so neither could run alone; 03 and what comes after it read chapter 1, or each other."""
    met, lock, events = threading.Barrier(2, timeout=30), threading.Lock(), []

    def run(name, fails=()):
        with lock:
            events.append(("begins", name))
        if name in ("02_b", "03_c"):
            met.wait()
        with lock:
            events.append(("ends", name))
        if name in fails:
            raise ChapterFailed(name)

    names = ["01_a", "03_c", "02_b", "04_d", "05_e", "10_f"]
    in_turn(names, run, 2, quiet=True)
    at = {event: number for number, event in enumerate(events)}
    assert len(events) == 2 * len(names)
    for name, reads in {"03_c": "01_a", "04_d": "03_c", "05_e": "04_d", "10_f": "01_a"}.items():
        assert at["ends", reads] < at["begins", name]
    events.clear()
    with pytest.raises(ChapterFailed, match="03_c"):
        in_turn(names, partial(run, fails=["03_c"]), 2, quiet=True)
    assert ("ends", "02_b") in events and ("begins", "04_d") not in events


def test_chapters_beside_each_other_have_one_file_of_digests(tmp_path):
    files = [tmp_path / f"{i}.txt" for i in range(60)]
    for file in files:
        file.write_text(file.stem)
    parts = [files[i::4] for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda part: [Digests(tmp_path).of([file]) for file in part], parts))
    assert sum(len(one) for part in told for one in part) == 60
    assert len(json.loads((tmp_path / "digests.json").read_text())) == 60


@pytest.mark.parametrize("broken", ["{", '{"cells": [1]}', "{}", "size = ="])
def test_a_file_that_is_no_notebook_is_named(tiny_book, broken):
    file = tiny_book / "book" / "01_one.ipynb"
    file.write_text(file.read_text().replace("size = 2", broken) if "size" in broken else broken)
    with pytest.raises(BadInput, match="01_one.ipynb is no notebook"):
        run_chapter("01_one", read_profile("smoke", tiny_book), tiny_book / "_build" / "smoke", root=tiny_book)


def test_values_are_put_into_the_parameters_cell():
    source = 'profile = "cpu"  # type: str\nkimg = 8.0  # type: float\nsource: str = ""'
    changed = with_values(source, {"profile": "smoke", "kimg": 0.5, "source": "a b", "other": 1})
    assert changed == 'profile = "smoke"  # type: str\nkimg = 0.5  # type: float\nsource: str = "a b"'


# ---- what a chapter calls -------------------------------------------------------------------------------


def test_inputs_refuse_nonsense(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="Unknown profile 'huge'; there are: smoke"):
        chapters.inputs("huge", needs=[])
    with pytest.raises(BadInput, match="Unknown input 'judge'"):
        chapters.inputs("smoke", needs=["judge"])


def test_a_study_is_read_from_the_checkout_or_from_the_repository(tiny_book, tmp_path, monkeypatch, capsys):
    import pandas as pd

    from stylemed.studies import Result

    results = tiny_book / "book" / "results"
    results.mkdir()
    Result("one", {"t": pd.DataFrame({"n": [3]})}, "s", {}, 0, {}, 2.0, "stylemed study one").save(
        results / "one-64.json"
    )
    monkeypatch.chdir(tiny_book)
    assert chapters.study("one-64").tables["t"]["n"].tolist() == [3]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chapters, "project_root", lambda: None)  # Colab has the package alone
    assert chapters.study("one-64", results.as_uri()).tables["t"]["n"].tolist() == [3]
    assert capsys.readouterr().out.count("stylemed study one") == 2
    with pytest.raises(BadInput, match="none.json cannot be read.*run the chapter in a checkout"):
        chapters.study("none", results.as_uri())


@pytest.mark.slow
def test_inputs_that_were_made_from_others_are_refused(phantom, tmp_path, monkeypatch):
    """Chapter 1 with another seed, then chapter 5: the old generator has seen patients that are `test` now."""
    from stylemed.data import SliceStore, prepare
    from stylemed.files import digest_of_weights
    from stylemed.networks import Encoder, Generator
    from stylemed.training.run import export

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chapters, "_current", None)
    made = tmp_path / "_build" / "smoke" / "artifacts"
    prepare(phantom, made / "store", 32, workers=1, progress=False)
    learned = SliceStore.open(made / "store").learned_from([0], "train").to_dict()
    generator = Generator(32, latent_size=16, mapping_layers=2, fmap_base=64, fmap_max=8)
    for name in ("gan", "encoder"):
        (made / name).mkdir()
    export(made / "gan" / "generator.safetensors", generator, {"provenance": learned})

    def write_encoder(of: str):
        network = Encoder(32, latent_size=16, num_layers=8)
        metadata = {"provenance": learned | {"made_from": {"generator": of}}}
        export(made / "encoder" / "encoder.safetensors", network, metadata)

    digest = digest_of_weights(generator.state_dict())
    write_encoder(digest)
    assert not chapters.inputs("smoke").small
    write_encoder("another")
    with pytest.raises(
        BadInput, match=f"the encoder in .*encoder and the generator in .*gan .*another .*{digest}.* run 4 "
    ):
        chapters.inputs("smoke")
    info = json.loads((made / "store" / "store.json").read_text())
    (made / "store" / "store.json").write_text(json.dumps(info | {"digest": "of another seed"}))
    with pytest.raises(BadInput, match="the generator in .* of another seed .*stylemed book run 3 4 --profile smoke"):
        chapters.inputs("smoke", needs=["store", "generator"])


def test_record_takes_numbers_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chapters.inputs("smoke", needs=[])
    chapters.record("01_x", a=1, b=float("nan"))
    chapters.record("01_x", c=2.5)
    kept = json.loads((tmp_path / "_build" / "smoke" / "metrics" / "01_x.json").read_text())
    assert kept == {"a": 1, "b": None, "c": 2.5}
    with pytest.raises(BadInput, match="'name' is a str"):
        chapters.record("01_x", name="three")
