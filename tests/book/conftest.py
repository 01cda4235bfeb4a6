"""The chapters at smoke scale, each executed once for the whole session, and tiny books for the machinery."""

import json
import shutil
from pathlib import Path

import pytest
from browser import browser
from notebooks import code, needs, notebook

from stylemed import chapters
from stylemed.book import execution
from stylemed.book.execution import chapter_names, read_profile, run_chapter

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"store": "store", "generator": "gan", "encoder": "encoder"}  # of the artifacts, by need


@pytest.fixture
def tab(tmp_path):
    """A tab of a headless Chromium."""
    pytest.importorskip("websocket")
    with browser(tmp_path / "profile") as tab:
        yield tab


@pytest.fixture(scope="session")
def sequence(tmp_path_factory):
    """Build folder after every chapter ran once, in order, in the profile smoke.

    Each ran as if it were alone: outside of the checkout, in a build folder that held what it asks for and nothing else.
    """
    folder = tmp_path_factory.mktemp("sequence")
    build, profile = folder / "smoke", read_profile("smoke", ROOT)
    (folder / "elsewhere").mkdir()
    for name in chapter_names(ROOT):
        own = folder / name
        for need in needs(ROOT / "book" / f"{name}.ipynb"):
            part = Path("artifacts") / FOLDERS[need]
            shutil.copytree(build / part, own / part)
        run_chapter(name, profile, own, root=ROOT, quiet=True, cwd=folder / "elsewhere")
        shutil.copytree(own, build, dirs_exist_ok=True)
    return build


@pytest.fixture(autouse=True)
def without_kernel(request, monkeypatch):
    """Only tests marked slow start a kernel; in all others a chapter is plain code in this process, without outputs.

    Returns the names of what ran, which grows.
    """
    ran = []
    if request.node.get_closest_marker("slow"):
        return ran

    def run(spec, env):
        source = Path(spec["input_path"])
        content, scope = json.loads(source.read_text()), {}
        ran.append(source.stem)
        with monkeypatch.context() as inside:
            inside.setenv("STYLEMED_BUILD", env["STYLEMED_BUILD"])
            inside.chdir(spec["cwd"])
            for cell in content["cells"]:
                if cell["cell_type"] == "code":
                    exec(cell["source"], scope)
                    if "parameters" in cell["metadata"].get("tags", []):
                        scope |= spec["parameters"]
        Path(spec["output_path"]).write_text(json.dumps(content))
        return 0, 50 * 2**20

    monkeypatch.setattr(execution, "_run_watched", run)  # the process of a chapter
    return ran


TITLE = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# One\n\nIt is {glue:text}`answer:.2f`."}


@pytest.fixture
def tiny_book(tmp_path):
    """A book of one quick chapter, with everything the machinery looks for."""
    root = tmp_path / "book-root"
    (root / "book" / "profiles").mkdir(parents=True)
    for folder in ("_static", "_extra"):
        shutil.copytree(ROOT / "book" / folder, root / "book" / folder)
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/01_one\nchapters:\n- file: book/status\n")
    (root / "book" / "status.md").write_text("# Status\n")
    (root / "book" / "references.bib").write_text("")
    (root / "book" / "profiles" / "smoke.yaml").write_text(
        "name: smoke\ndescription: tiny.\nhours: none\nthreads: 1\nchapters:\n  01_one: {size: 3}\n"
    )
    (root / "book" / "01_one.ipynb").write_text(
        notebook(
            TITLE,
            code('profile = "cpu"  # type: str\nseed = 0  # type: int\nsize = 2  # type: int', "parameters"),
            code("from stylemed import chapters\n\ninputs = chapters.inputs(profile, needs=[])"),
            code('print(size)\nchapters.record("01_one", answer=size + seed / 10, fixed=7)'),
        )
    )
    chapters._current = None
    return root


OWN = 'profile = "cpu"  # type: str\nseed = 0  # type: int\n'
LARGE = """\
name: gpu
description: tiny.
hours: none
threads: 1
chapters:
  01_one: {size: 300, data: ../data/lits, scans: "5,6,7"}
  03_two: {preset: paper, kimg: 25000.0}
rehearsal:
  parameters:
    01_one: {size: 3}
    03_two: {kimg: 0.5}
  preset:
    03_two: {tick_kimg: 0.25, batch: {8: 2}}
  data: {size: 32, slices: 8, without_tumor: [6]}
"""


@pytest.fixture
def large_book(tiny_book):
    """A book whose profile wants what no test has: volumes of its own, and days."""
    (tiny_book / "book" / "profiles" / "gpu.yaml").write_text(LARGE)
    start = code("from stylemed import chapters\n\ninputs = chapters.inputs(profile, needs=[])")
    (tiny_book / "book" / "01_one.ipynb").write_text(
        notebook(
            TITLE,
            code(OWN + 'size = 2  # type: int\ndata = ""  # type: str\nscans = "*"  # type: str', "parameters"),
            start,
            code("from pathlib import Path\n\nn = len(list(Path(data).glob('volume-*.nii.gz')))"),
            code('chapters.record("01_one", size=size, volumes=n)'),
        )
    )
    (tiny_book / "book" / "03_two.ipynb").write_text(
        notebook(
            TITLE,
            code(OWN + 'preset = "smoke"  # type: str\nkimg = 1.0  # type: float', "parameters"),
            start,
            code("from stylemed.training import gan_config\n\nconfig = gan_config(preset, 512)"),
            code('chapters.record("03_two", kimg=kimg, tick=config.tick_kimg, widest=config.fmap_max)'),
            code('chapters.record("03_two", batch=config.batch[8])'),
        )
    )
    return tiny_book
