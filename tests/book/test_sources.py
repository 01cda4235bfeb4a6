"""What every chapter's source has to look like."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from stylemed.book.execution import chapter_names, chapter_parameters, read_profile
from stylemed.book.rehearsal import rehearsed
from stylemed.chapters import RESOLUTIONS, colab_setup, repository
from stylemed.data.preparing import split_patients
from stylemed.training import GanConfig, encoder_config, gan_config

ROOT = Path(__file__).resolve().parents[2]
NAMES = chapter_names(ROOT)
PROFILES = sorted(file.stem for file in (ROOT / "book" / "profiles").glob("*.yaml"))


def cells(name, kind=None):
    found = json.loads((ROOT / "book" / f"{name}.ipynb").read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if kind is None or cell["cell_type"] == kind]


def tags(cell):
    return cell["metadata"].get("tags", [])


def text_of(name):
    return "\n".join(cell["source"] for cell in cells(name, "markdown"))


def defaults(name):
    scope = {}
    exec(cells(name, "code")[0]["source"], scope)
    return {key: value for key, value in scope.items() if not key.startswith("__")}


def test_toc_names_every_page():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [toc["root"]] + [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    there = {f"book/{file.stem}" for pattern in ("*.ipynb", "*.md") for file in (ROOT / "book").glob(pattern)}
    assert set(listed) == there


@pytest.mark.parametrize("name", NAMES)
def test_parameters_come_first(name):
    code = cells(name, "code")
    assert [i for i, cell in enumerate(code) if "parameters" in tags(cell)] == [0]
    for line in code[0]["source"].splitlines():
        assert re.fullmatch(r"\w+ = [^#]+  # type: .+", line), line
    assert defaults(name)["profile"] == "cpu"
    assert defaults(name)["seed"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_colab_cell_is_the_one(name):
    code = cells(name, "code")
    assert [i for i, cell in enumerate(code) if "colab" in tags(cell)] == [1]
    assert code[1]["source"] == colab_setup(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_clean(name):
    for cell in cells(name, "code"):
        assert len(cell["source"].splitlines()) <= 15, cell["source"]
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert not {"execution", "papermill"} & cell["metadata"].keys()
        assert "injected-parameters" not in tags(cell)


@pytest.mark.parametrize("name", NAMES)
def test_chapter_begins_with_a_contract(name):
    first = cells(name)[0]
    assert first["cell_type"] == "markdown" and first["source"].startswith("# ")
    opening = first["source"] + cells(name)[1]["source"]
    for word in ("Hardware", "Time", "Data"):
        assert word in opening, f"{name} does not say its {word.lower()}"
    assert any("chapters.inputs(profile" in cell["source"] for cell in cells(name, "code"))


@pytest.mark.parametrize("name", NAMES)
def test_figures_have_caption_and_alt_text(name):
    labels = []
    for cell in cells(name, "code"):
        rendering = cell["metadata"].get("mystnb", {})
        if "figure" in rendering or "image" in rendering:
            assert len(rendering["image"]["alt"]) > 20, cell["source"]
            assert len(rendering["figure"]["caption"]) > 20, cell["source"]
            labels.append(rendering["figure"]["name"])
    assert len(labels) == len(set(labels))


def test_labels_are_unique_in_the_book():
    labels = Counter()
    for name in NAMES:
        labels.update(re.findall(r"^:(?:label|name): (\S+)", text_of(name), re.MULTILINE))
        figures = [cell["metadata"].get("mystnb", {}).get("figure") for cell in cells(name, "code")]
        labels.update(figure["name"] for figure in figures if figure)
    assert [label for label, count in labels.items() if count > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_exercises_are_graded_and_solved_by_code(name):
    parts, grades = cells(name), []
    for cell, after in zip(parts, parts[1:], strict=False):
        for title, label in re.findall(r"```\{exercise\} ?(.*)\n:label: (\S+)", cell["source"]):
            assert f"```{{solution}} {label}\n:class: dropdown\n" in cell["source"], label
            assert after["cell_type"] == "code" and "hide-cell" in tags(after), label
            grades.append(title.split(":")[0])
    all_four = ["Predict", "Derive", "Break", "Extend"]
    assert grades == all_four or (len(grades) == 1 and grades[0] in ("", *all_four))


@pytest.mark.parametrize("name", NAMES)
def test_prose_holds_no_typed_result(name):
    """Numbers that the chapter measures come by glue; these are the ones a hurried author would type."""
    typed = re.compile(
        r"(AUC|accuracy|Dice|SSIM|PSNR|error|FID)\b[^.\n`{]{0,25}\b(is|of|was|=|:|reaches)\s*\d+[.,]\d"
        r"|\b(took|takes) \d+(\.\d+)? (seconds|minutes)",
        re.IGNORECASE,
    )
    for cell in cells(name, "markdown"):
        found = typed.search(cell["source"])
        assert found is None, found.group()


def test_no_result_is_glued_twice():
    """A name that is recorded is glued by that; glueing it again would be ambiguous."""
    for name in NAMES:
        text = "\n".join(cell["source"] for cell in cells(name, "code"))
        glued = re.findall(r'chapters\.glue\(\s*"(\w+)"', text)
        recorded = {key for call in re.findall(r"chapters\.record\((.*?)\)\n", text + "\n", re.S)
                    for key in re.findall(r"\b(\w+)=", call)}  # fmt: skip
        assert len(glued) == len(set(glued)), name
        assert not set(glued) & recorded, name


# ---- profiles -------------------------------------------------------------------------------------------


def test_profiles_are_the_agreed_ones():
    assert set(PROFILES) == {"smoke", "cpu", "colab", "gpu"} == set(RESOLUTIONS)


def misfits(profile, chapters):
    """Every parameter that a chapter does not have, or of another type than there: profile, chapter, parameter."""
    found = []
    for name, given in chapters.items():
        known = defaults(name) if name in NAMES else {}
        for key, value in (given or {}).items():
            wanted = known.get(key)
            if key not in known:
                found.append(f"{profile}: {name}: there is no '{key}' (but {', '.join(known) or 'no such chapter'})")
            elif not (value is None or type(value) is type(wanted) or (type(wanted), type(value)) == (float, int)):
                found.append(f"{profile}: {name}: {key} is {value!r}, the chapter has {wanted!r}")
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_every_parameter_exists(profile):
    settings = read_profile(profile, ROOT)
    assert settings.name == profile and settings.description and settings.hours
    assert misfits(profile, settings.chapters) == []
    for name in NAMES:
        assert chapter_parameters(name, settings, ROOT)["profile"] == profile


@pytest.mark.parametrize("profile", PROFILES)
def test_rehearsal_cuts_what_exists_and_keeps_the_sizes(profile):
    settings = read_profile(profile, ROOT)
    cut = rehearsed(settings, ROOT)
    assert misfits(f"{profile}, rehearsal", settings.rehearsal["parameters"]) == []
    for name, given in settings.rehearsal["parameters"].items():
        assert not {"preset", "resolution", "size", "folds", "data", "scans"} & set(given), "the sizes must stay"
        for key, value in given.items():
            assert value < settings.chapters[name][key], f"{profile}: {name}: {key} is not cut"
    for name, fields in settings.rehearsal["preset"].items():
        known = gan_config if name.startswith("03") else encoder_config
        known(cut.chapters[name]["preset"], **{"resolution": 32, **fields} if known is gan_config else fields)


def test_cpu_profile_is_what_the_chapters_say():
    settings = read_profile("cpu", ROOT)
    for name in NAMES:
        said = {key: value for key, value in defaults(name).items() if key not in ("profile", "seed")}
        assert settings.chapters.get(name, {}) == said, name


def test_scans_of_gpu_are_split_alike_under_both_names_and_chapter_8_says_so():
    """LiTS calls a scan volume-N and the Decathlon liver_N, and a split follows from the name; 28 to 48 hold 3D-IRCADb."""
    settings = read_profile("gpu", ROOT)
    scans = [int(number) for number in settings.chapters["01_volumes_to_slices"]["scans"].split(",")]
    free = set(settings.rehearsal["data"]["without_tumor"])
    assert len(set(scans)) == len(scans) and not set(scans) & set(range(27, 49)) and max(scans) <= 130
    for name in ("volume-", "liver_"):
        drawn = split_patients({f"{name}{number}": None for number in scans}, seed=0)
        assert Counter(drawn.values()) == {"train": 11, "judge": 3, "test": 3}
        assert {drawn[f"{name}{number}"] for number in free} == {"train", "judge", "test"}
    said = re.findall(r"(\d+) scans of LiTS, (\d+) of them in `train`", text_of("08_paper_scale"))
    assert said == [(str(len(scans)), "11")]


def test_every_field_that_chapter_3_explains_is_in_its_table():
    table = next(
        cell["source"] for cell in cells("03_training_the_generator", "code") if "gan_config(preset" in cell["source"]
    )
    rows = {word for word in re.findall(r'"(\w+)"', table)}
    explained = next(
        cell for cell in cells("03_training_the_generator", "markdown") if "What the rows mean" in cell["source"]
    )
    fields = {field.name for field in dataclasses.fields(GanConfig)}
    named = set(re.findall(r"`(\w+)`", explained["source"])) & fields
    assert named == rows & fields - {"style_mixing"}, "style_mixing is the row that is the same in both"


# ---- one source -----------------------------------------------------------------------------------------


def test_address_has_one_source():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["repository"]["url"] == repository(ROOT)
    assert repository(ROOT) in colab_setup(ROOT)


def test_configuration_keys_that_matter():
    """Unknown keys in _config.yml raise nothing, so a misspelt one would go unnoticed."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    sphinx = config["sphinx"]["config"]
    assert config["sphinx"]["recursive_update"] is True  # without it theme options delete the launch buttons
    assert config["only_build_toc_files"] is True
    assert {".venv", "_build", "README.md", ".git"} <= set(config["exclude_patterns"])
    assert config["launch_buttons"]["colab_url"].startswith("https://colab")
    assert not (ROOT / "_static").exists()
    static = ROOT / sphinx["html_static_path"][0]
    files = [sphinx["mathjax_path"], *sphinx["nb_ipywidgets_js"], *sphinx["html_css_files"], *sphinx["html_js_files"]]
    assert [name for name in files if not (static / name).is_file()] == []
    assert 'html[data-theme="dark"] .bd-content img { filter: none; }' in (static / "book.css").read_text()
