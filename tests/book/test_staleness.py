"""What runs again after an edit, on a book whose chapters are plain lines of Python: only content decides."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from notebooks import code, notebook
from typer.testing import CliRunner

from stylemed import chapters
from stylemed.book import publishing
from stylemed.book.execution import read_profile, run_stale
from stylemed.cli import app

ROOT = Path(__file__).resolve().parents[2]
MAKES = {"01": "store/hu.npy", "03": "gan/generator.safetensors", "04": "encoder/encoder.safetensors"}
READS = {"03": "01", "04": "03", "06": "04"}
NAMES = ["01_x", "02_x", "03_x", "04_x", "06_x"]


def chapter(number):
    """It reads the artifact of the chapter before it, and its own holds that and its size."""
    reads, makes = READS.get(number), MAKES.get(number)
    lines = [
        "from stylemed import chapters",
        "from pathlib import Path",
        "",
        "folder = chapters.inputs(profile, needs=[]).folder",
    ]
    lines += [f'text = f"of {number}, size {{size}}"']
    if reads:
        lines += [f'text += (folder / "{MAKES[reads]}").read_text()']
    if makes:
        lines += [f'file = folder / "{makes}"', "file.parent.mkdir(exist_ok=True)", "file.write_text(text)"]
    prose = {"cell_type": "markdown", "id": "prose", "metadata": {}, "source": "# A title"}
    parameters = code('profile = "cpu"  # type: str\nsize = 2  # type: int', "parameters")
    record = code(f'chapters.record("{number}_x", length=len(text))')
    return notebook(prose, parameters, code("\n".join(lines)), record)


@pytest.fixture
def book(tmp_path, monkeypatch, without_kernel):
    """Its root, where all chapters ran; `without_kernel` is empty again. It has a package of its own."""
    root = tmp_path / "root"
    for name in ("profiles", "results", "_static", "_extra"):
        (root / "book" / name).mkdir(parents=True)
    for name in NAMES:
        (root / "book" / f"{name}.ipynb").write_text(chapter(name[:2]))
    profile = "description: tiny.\nhours: none\nthreads: 1\nchapters:\n  03_x: {size: 3}\n"
    (root / "book" / "profiles" / "smoke.yaml").write_text(profile)
    for name in ("_toc.yml", "_config.yml", "constraints.txt", "book/intro.md", "book/results/survival.json"):
        (root / name).write_text("x: 1\n")
    (root / "package" / "data").mkdir(parents=True)
    (root / "package" / "data" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(chapters, "PACKAGE", root / "package")
    monkeypatch.setattr(chapters, "_current", None)
    assert run(root) == NAMES
    without_kernel.clear()
    return root


def run(root, **given):
    return run_stale(read_profile("smoke", root), root / "_build" / "smoke", root=root, quiet=True, **given)


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def numbers(names):
    return [name[:2] for name in names]


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("book/01_x.ipynb", "of 01", "of 1", "01 03 04 06"),
        ("book/01_x.ipynb", "A title", "Another", "01"),  # its store is what it was
        ("book/03_x.ipynb", "of 03", "of 3", "03 04 06"),
        ("book/04_x.ipynb", "of 04", "of 4", "04 06"),
        ("book/06_x.ipynb", "of 06", "of 6", "06"),
        ("book/02_x.ipynb", "of 02", "survival", "02"),
        ("book/profiles/smoke.yaml", "size: 3", "size: 4", "03 04 06"),
        ("book/profiles/smoke.yaml", "threads: 1", "threads: 2", "01 02 03 04 06"),
        ("book/profiles/smoke.yaml", "tiny", "tinier", ""),
        ("book/intro.md", "1", "2", ""),
        ("book/results/survival.json", "1", "2", ""),
        ("package/data/a.py", "1", "2", "01 02 03 04 06"),
        ("constraints.txt", "1", "2", "01 02 03 04 06"),
        ("_build/smoke/artifacts/gan/generator.safetensors", "of 03", "of 05", "03"),  # made anew as it was
        ("_build/smoke/metrics/02_x.json", "length", "width", "02"),
    ],
)
def test_what_runs_after_an_edit(book, without_kernel, file, old, new, again):
    edit(book / file, old, new)
    assert numbers(run(book)) == again.split()
    assert run(book) == [] and numbers(without_kernel) == again.split()


def test_a_file_that_was_only_touched_is_the_same(book):
    for file in book.rglob("*"):
        os.utime(file, (1, 1))
    assert run(book) == []


@pytest.mark.parametrize("deleted", ["artifacts/gan/generator.safetensors", "executed/03_x.ipynb", "runs/03_x.json"])
def test_what_was_deleted_is_made_again(book, deleted):
    (book / "_build" / "smoke" / deleted).unlink()
    assert run(book) == ["03_x"]
    assert (book / "_build" / "smoke" / deleted).is_file()


def test_files_of_the_package_come_and_go(book):
    (book / "package" / "weights.safetensors").write_bytes(b"0")
    assert run(book) == NAMES
    (book / "package" / "weights.safetensors").unlink()
    (book / "package" / "__pycache__").mkdir()
    (book / "package" / "__pycache__" / "a.pyc").write_bytes(b"0")
    assert run(book) == NAMES and run(book) == []


def test_a_study_belongs_to_the_chapter_that_shows_it(book):
    edit(book / "book" / "02_x.ipynb", "of 02", "survival")
    assert run(book) == ["02_x"]
    edit(book / "book" / "results" / "survival.json", "1", "2")
    assert run(book) == ["02_x"]


def test_a_broken_run_leaves_its_chapter_stale_and_goes_on_where_it_was(book, without_kernel):
    source, gan = book / "book" / "03_x.ipynb", book / "_build" / "smoke" / "artifacts" / "gan"
    whole = source.read_text()
    # Cut off once: the first run writes a checkpoint and is interrupted, the second finds the checkpoint.
    broken = (
        "mark = file.with_name('checkpoint.pt')\\nif not mark.is_file():\\n    mark.touch()\\n    raise RuntimeError\\n"
    )
    source.write_text(whole.replace("file.write_text", broken + "file.write_text"))
    with pytest.raises(RuntimeError):
        run(book)
    assert (gan / "checkpoint.pt").is_file() and not (book / "_build" / "smoke" / "runs" / "03_x.json").exists()
    assert run(book) == ["03_x"]  # and those after it have what they had
    assert run(book) == []
    without_kernel.clear()
    edit(book / "package" / "data" / "a.py", "1", "2")  # now nothing that it began may be left
    with pytest.raises(RuntimeError):
        run(book)
    assert without_kernel == ["01_x", "02_x", "03_x"]
    edit(book / "package" / "data" / "a.py", "2", "3")
    with pytest.raises(RuntimeError):
        run(book)


def test_an_edit_while_a_chapter_runs_makes_it_stale(book):
    source = book / "book" / "02_x.ipynb"
    edit(source, "of 02", "of 2")
    edit(source, "chapters.record", f"Path({str(book / 'constraints.txt')!r}).write_text('new')\\nchapters.record")
    assert run(book) == ["02_x", "03_x", "04_x", "06_x"]  # those after it see the new pins already
    assert run(book) == ["01_x", "02_x"]
    assert run(book) == []


def test_named_chapters_and_all_of_them_by_force(book):
    assert run(book, names=["02_x", "02_x"], force=True) == ["02_x"]
    edit(book / "package" / "data" / "a.py", "1", "2")
    assert run(book, names=["04_x"]) == ["04_x"]
    assert run(book) == ["01_x", "02_x", "03_x", "06_x"]
    assert run(book, force=True) == NAMES


def test_what_a_chapter_reads_through_others_counts_too(book):
    edit(book / "book" / "01_x.ipynb", "of 01", "of 1")
    assert run(book, names=["01_x", "06_x"]) == ["01_x", "06_x"]


def test_large_artifacts_are_read_once(book, monkeypatch):
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind))
    assert run(book) == [] and read == []
    (book / "_build" / "smoke" / "digests.json").write_text("{")
    assert run(book) == [] and len(read) == len(NAMES) * 2 + len(MAKES)


# ---- the pages, and what is said ------------------------------------------------------------------------


@pytest.fixture
def page_of(book, monkeypatch):
    """`stylemed book run` and `html` as make calls them; Sphinx is left out."""

    def sphinx(source, log):
        (source / "_build" / "html").mkdir(parents=True)
        (source / "_build" / "html" / "index.html").write_text("page")

    monkeypatch.setattr(publishing, "_sphinx", sphinx)
    monkeypatch.chdir(book)

    def make(*more):
        said = ""
        for command in ("run", "html"):
            answer = CliRunner().invoke(app, ["book", command, "--profile", "smoke", *more])
            assert answer.exit_code == 0, answer.output + str(answer.exception)
            said += answer.output
        return said

    return make


def test_make_says_what_it_did(book, page_of):
    page = f"== open {book / '_build' / 'smoke' / 'html' / 'index.html'}\n"
    said = page_of()
    assert (
        "nothing was out of date: all 5 chapters were re-used" in said
        and "== building the pages (not made yet)" in said
    )
    assert said.endswith(page)
    assert page_of() == f"== nothing was out of date: all 5 chapters were re-used\n== the pages were re-used\n{page}"
    edit(book / "book" / "03_x.ipynb", "of 03", "of 3")
    said = page_of()
    assert "== 03_x (smoke; changed: its source)" in said and "== 04_x (smoke; changed: artifacts of chapter 3)" in said
    assert "== executed: 03_x 04_x 06_x\n" in said and "== building the pages (changed: an executed chapter)" in said
    assert "== executed: 01_x" in page_of("--force")


@pytest.mark.parametrize("file", ["book/intro.md", "_toc.yml", "package/data/a.py", "_build/smoke/html/index.html"])
def test_pages_are_built_again_after_an_edit_only(book, page_of, file):
    page_of()
    os.utime(book / file, (1, 1))
    assert "the pages were re-used" in page_of()
    (book / file).write_text("other")
    assert "== building the pages" in page_of()
    assert "the pages were re-used" in page_of()


def test_nothing_is_slow_when_nothing_is_stale(python_env):
    """Deciding imports neither papermill (2 s) nor torch."""
    code = "import sys; from stylemed.book import execution, publishing, staleness\n"
    code += f"from pathlib import Path\nroot = Path({str(ROOT)!r})\nprofile = execution.read_profile('smoke', root)\n"
    code += "for name in execution.chapter_names(root):\n"
    code += "    staleness.chapter_made_from(name, execution.chapter_parameters(name, profile, root), root, root)\n"
    code += "print([m for m in ('papermill', 'torch', 'pandas', 'nbformat') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], env=python_env, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


def test_makefile_only_calls(root):
    """Every target that `make help` names is there, and book asks `stylemed book`."""
    for target in re.findall(r"^#   make (\w+)", (root / "Makefile").read_text(), re.M):
        # -o: as if the environment were there and new
        command = ["make", "-n", "-o", ".venv/.installed", target]
        outside = {
            k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))
        }  # make runs this test too
        answer = subprocess.run(command, cwd=root, env=outside, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        if target == "book":
            assert [line.split(" -m ")[1] for line in answer.stdout.splitlines()] == [
                "stylemed book run --profile cpu --data ''",
                "stylemed book html --profile cpu --data ''",
            ]
