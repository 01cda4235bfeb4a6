"""Execution on a book of one tiny chapter, what a chapter calls, and what make runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stylemed import chapters
from stylemed.book.execution import ChapterFailed, read_profile, run_chapter, with_values
from stylemed.book.publishing import html
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


def test_a_failing_cell_is_told_in_short_and_kept(tiny_book):
    file = tiny_book / "book" / "01_one.ipynb"
    file.write_text(file.read_text().replace("print(size)", "print(no_such_name)"))
    build = tiny_book / "_build" / "smoke"
    with pytest.raises(ChapterFailed, match=r"01_one, cell 4 .*NameError: name 'no_such_name'"):
        run_chapter("01_one", read_profile("smoke", tiny_book), build, root=tiny_book, quiet=True)
    assert (build / "failed" / "01_one.failed.ipynb").is_file()
    assert not (build / "executed" / "01_one.ipynb").exists() and not (build / "runs" / "01_one.json").exists()
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stylemed", "book", "run", "--profile", "smoke"]
    answer = subprocess.run(command, cwd=tiny_book, env=env, capture_output=True, text=True)
    assert answer.returncode == 1 and "NameError" in answer.stderr and "Traceback" not in answer.stderr


def test_published_copy_and_page(tiny_book):
    build = tiny_book / "_build" / "smoke"
    profile = read_profile("smoke", tiny_book)
    run = run_chapter("01_one", profile, build, root=tiny_book, quiet=True)
    assert run["parameters"] == {"size": 3, "profile": "smoke"} and run["peak_memory_mb"] > 20
    text = (build / "executed" / "01_one.ipynb").read_text()
    assert "size = 3  # type: int" in text and "papermill" not in text.replace("application/papermill.record", "")
    page = html("smoke", tiny_book)
    built = (page.parent / "book" / "01_one.html").read_text()
    assert "It is 3.00." in re.sub(r"<[^>]+>", "", built)
    assert "01_one" in (page.parent / "book" / "status.html").read_text()


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


# ---- make -----------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """A copy in which everything looks freshly made; `outdated()` asks make what it would do."""
    copy = tmp_path / "copy"
    (copy / "book").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "book" / "profiles", copy / "book" / "profiles")
    (copy / "book" / "_static").mkdir()
    (copy / "stylemed" / "data").mkdir(parents=True)
    (copy / "stylemed" / "data" / "a.py").write_text("")
    (copy / "book" / "intro.md").write_text("# x\n")
    clock = iter(range(1, 100))

    def touch(path, content=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None or not path.exists():
            path.write_text(content or "")
        at = 1_700_000_000 + 10 * next(clock)
        os.utime(path, (at, at))

    numbers = [f"0{i}_x" for i in range(1, 8)]
    for name in numbers:
        (copy / "book" / f"{name}.ipynb").write_text("{}")
    for path in copy.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    touch(copy / ".venv" / ".installed")
    build = copy / "_build" / "smoke"
    artifacts = {"01": "store/store.json", "03": "gan/generator.safetensors", "04": "encoder/encoder.safetensors"}

    def outdated():
        answer = subprocess.run(["make", "-n", "book", "PROFILE=smoke"], cwd=copy, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        lines = [line.split() for line in answer.stdout.splitlines() if "book run" in line]
        return sorted(line[-1][:2] for line in lines), "book html" in answer.stdout

    outdated()  # writes the lists
    for path in (copy / "_build").rglob("*.list"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    for name in numbers:
        touch(build / "executed" / f"{name}.ipynb")
        if name[:2] in artifacts:
            touch(build / "artifacts" / artifacts[name[:2]])
        touch(build / "runs" / f"{name}.json")
    touch(build / "html" / "index.html")
    return copy, outdated


def test_make_reuses_what_is_done(made):
    assert made[1]() == ([], False)


@pytest.mark.parametrize(
    ("edited", "runs"),
    [
        ("book/01_x.ipynb", ["01", "03", "04", "05", "06"]),
        ("book/03_x.ipynb", ["03", "04", "05", "06"]),
        ("book/06_x.ipynb", ["06"]),
        ("book/02_x.ipynb", ["02"]),
        ("book/intro.md", []),
        ("stylemed/data/a.py", ["01", "02", "03", "04", "05", "06", "07"]),
        ("book/profiles/smoke.yaml", ["01", "02", "03", "04", "05", "06", "07"]),
    ],
)
def test_make_runs_what_an_edit_touches(made, edited, runs):
    os.utime(made[0] / edited)
    assert made[1]() == (runs, True)


def test_make_notices_deleted_files_and_artifacts(made):
    copy, outdated = made
    (copy / "_build" / "smoke" / "artifacts" / "gan" / "generator.safetensors").unlink()
    assert outdated() == (["03", "04", "05", "06"], True)
    (copy / "stylemed" / "data" / "b.py").write_text("")
    outdated()
    (copy / "stylemed" / "data" / "b.py").unlink()
    assert outdated()[0] == ["01", "02", "03", "04", "05", "06", "07"]


def test_make_names_the_profiles(made):
    answer = subprocess.run(["make", "book", "PROFILE=none"], cwd=made[0], capture_output=True, text=True)
    assert answer.returncode == 2 and 'unknown profile "none"' in answer.stderr and "smoke" in answer.stderr
