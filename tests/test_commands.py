"""Every command in words is one that can be typed: README, chapters, docstrings, model cards, Makefile, the log of long runs."""

import ast
import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from stylemed.cli import app
from stylemed.training import EncoderConfig, GanConfig
from stylemed.training.encoder import ENCODER_PRESETS
from stylemed.training.schedule import PRESETS

ROOT = Path(__file__).resolve().parents[1]
UsageError = typer.BadParameter.__base__
STYLEMED = typer.main.get_command(app)
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*$")  # a word the reader replaces, such as STORE
CUT = re.compile(r"(…|\.\.\.)$")  # the rest is left out
SHELLS = {"bash", "sh", "shell", "console"}
VALUES = {  # where a name has to exist
    "profile": {file.stem for file in (ROOT / "book" / "profiles").glob("*.yaml")},
    "preset": {*PRESETS, *ENCODER_PRESETS},
}


# ---- one command ----------------------------------------------------------------------------------------


def complaint(words: list[str], whole: bool) -> str | None:
    """What is wrong with a command, None if nothing is. whole: all that it needs has to stand there."""
    cut = any(CUT.match(word) for word in words)
    words = [word for word in words if not CUT.match(word)]
    whole = whole and not cut
    name, *rest = words
    if name == "torchrun" or re.fullmatch(r"(\S*/)?python3?", name):
        if "-m" in rest:
            module = rest.index("-m") + 1
            return wrong_stylemed(rest[module + 1 :], whole) if rest[module] == "stylemed" else None
        return wrong_script(rest)
    known = {"stylemed": wrong_stylemed, "make": wrong_make}
    return known[name](rest, whole) if name in known else None


def wrong_stylemed(words: list[str], whole: bool) -> str | None:
    """Parsed by the command line itself, which stops before it would run anything."""
    command, path = STYLEMED, ["stylemed"]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        path.append(words[0])
        if words[0] not in command.commands:
            return f"no command {' '.join(path)}"
        command, words = command.commands[words[0]], words[1:]
    if hasattr(command, "commands"):
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        wrong = set(words) - options
        if wrong or (whole and not words):
            return f"{' '.join(path)}: {wrong or 'a command is missing'}"
        return None
    if {"--help", "-h"} & set(words):
        words, whole = [word for word in words if word not in ("--help", "-h")], False
    words = ["2" if PLACEHOLDER.match(word) else word for word in words]
    try:
        given = command.make_context(" ".join(path), list(words)).params
    except UsageError as error:
        kind = type(error).__name__
        if not whole and kind == "MissingParameter":
            # What is there has to be right all the same: all the rest is supplied.
            missing = error.param
            supplied = [missing.opts[0], "2"] if missing.param_type_name == "option" else ["2"]
            return wrong_stylemed([*path[1:], *words, *supplied], whole)
        if not whole and kind == "BadOptionUsage":
            return wrong_stylemed([*path[1:], *words, "2"], whole)
        return f"{' '.join(path)}: {error.format_message()}"
    return wrong_values(path, given)


def wrong_values(path: list[str], given: dict) -> str | None:
    """Names that are strings to the parser, and have to exist all the same."""
    for name, known in VALUES.items():
        value = given.get(name)
        if isinstance(value, str) and value != "2" and value not in known:
            return f"{' '.join(path)}: no {name} {value}"
    config = GanConfig if path[-1] == "gan" else EncoderConfig
    fields = {field.name for field in dataclasses.fields(config)}
    for change in given.get("change") or ():
        field = change.partition("=")[0]
        if field not in fields and not PLACEHOLDER.match(field):
            return f"{' '.join(path)}: no field {field}"
    return None


def wrong_make(words: list[str], whole: bool) -> str | None:
    text = (ROOT / "Makefile").read_text()
    targets = {name for line in re.findall(r"^([a-z][\w \-]*):(?!=)", text, re.M) for name in line.split()}
    variables = set(re.findall(r"^([A-Z_]+) \??=", text, re.M))
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name not in variables:
            return f"make has no variable {name}"
        if name == "PROFILE" and value not in VALUES["profile"] and not CUT.match(value):
            return f"no profile {value}"
        if not equals and name not in targets and not name.startswith(".venv"):
            return f"make has no target {name}"
    return None


def wrong_script(words: list[str]) -> str | None:
    if not words or not words[0].endswith(".py"):
        return None
    if not (ROOT / words[0]).is_file():
        return f"no script {words[0]}"
    options = options_of_script(ROOT / words[0])
    wrong = [word for word in words[1:] if word.startswith("--") and word.partition("=")[0] not in options]
    return f"{words[0]} has no {', '.join(wrong)}" if wrong else None


def options_of_script(script: Path) -> set[str]:
    """What its add_argument calls name; where one names f"--{name}" in a loop, the keys of its dicts may be meant."""
    nodes = list(ast.walk(ast.parse(script.read_text())))
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    named = [word for call in calls if call.func.attr == "add_argument" for word in call.args]
    found = {word.value for word in named if isinstance(word, ast.Constant)}
    if any(isinstance(word, ast.JoinedStr) for word in named):
        keys = [
            key for node in nodes if isinstance(node, ast.Dict) for key in node.keys if isinstance(key, ast.Constant)
        ]
        found |= {f"--{key.value}" for key in keys}
    return found | {"--help"}


def options_of(command) -> set[str]:
    below = [options_of(inner) for inner in getattr(command, "commands", {}).values()]
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)}.union(*below) | {"--help"}


# ---- where they stand -----------------------------------------------------------------------------------


def split(text: str) -> list[list[str]]:
    """The commands of a piece of shell text, each as its words; comments are left out."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ").removeprefix("!").removeprefix("@")
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a lone quote: prose, or a here-document
            continue
        part: list[str] = []
        for word in [*words, ";"]:
            if word in (";", "&&", "||", "|", "&"):
                found += [part] if part else []
                part = []
            elif part or not re.match(r"[A-Z_]+=", word):  # NAME=value before a command
                part.append(word.rstrip(";"))
                if word.endswith(";"):
                    found.append(part)
                    part = []
    return found


def spans(text: str) -> list[list[str]]:
    """Commands between backticks, those without `stylemed` before them too: `prepare --clip LO HI`."""
    found = []
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text):
        for words in split(span):
            if words[0] in STYLEMED.commands and any(word.startswith("--") for word in words):
                words = ["stylemed", *words]
            if words[0] in ("torchrun", "stylemed", "make") or words[0].startswith("python"):
                found.append(words)
    return found


def of_markdown(text: str, whole_spans: bool = False) -> list[tuple[list[str], bool]]:
    """Commands of a page with whether each has to be whole: those of a code block, and where told those in a sentence."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    whole = [(words, True) for shell, block in blocks if shell in SHELLS for words in split(block)]
    return whole + [(words, whole_spans) for words in spans(prose)]


def of_notebook(text: str) -> list[tuple[list[str], bool]]:
    found = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found += of_markdown(source)
        elif source.startswith(("%%bash", "%%sh")):
            found += [(words, True) for words in split(source.partition("\n")[2])]
        else:
            lines = [line.strip() for line in source.splitlines() if line.strip().startswith("!")]
            found += [(words, True) for words in split("\n".join(lines))]
    return found


def strings(text: str) -> list[str]:
    """Every string of a module, f-strings with X in the place of what they insert."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values))
    return found


def of_module(text: str) -> list[tuple[list[str], bool]]:
    """Commands in docstrings, help and messages: between backticks, or a line that starts torchrun, the book or a script."""
    found = []
    for string in strings(text):
        bare = re.findall(r"(?<!`)\b(?:torchrun \S+ \S+ -m stylemed|stylemed book \w+)[^`\n;]*", string)
        scripts = re.findall(r"^ *(python \S+\.py.*)$", string, re.M)
        bare += [re.sub(r"[][|]", " ", line) for line in scripts]  # what may be left out, and one of two
        found += [(words, False) for words in [*spans(string), *(w for line in bare for w in split(line))]]
    return found


def of_makefile(text: str) -> list[tuple[list[str], bool]]:
    recipes = [
        re.sub(r"\$[(](\w+)[)]|\$[*@<]", lambda m: m[1] or "X", line) for line in re.findall(r"^\t(.*)", text, re.M)
    ]
    words = [words for line in recipes if "-m stylemed" in line for words in split(line)]
    return [(["python", *words[1:]], True) for words in words if words[:1] == ["@PY"] or words[:1] == ["PY"]]


def of_workflow(text: str) -> list[tuple[list[str], bool]]:
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    return [(words, True) for step in steps for words in split(step.get("run", ""))]


def sources() -> list[Path]:
    patterns = (
        "*.md",
        "Makefile",
        "book/*.md",
        "book/*.ipynb",
        "benchmarks/*.md",
        "benchmarks/*.py",
        "stylemed/**/*.py",
        "stylemed/pretrained/*/*.md",
        ".github/workflows/*.yml",
    )
    return sorted(file for pattern in patterns for file in ROOT.glob(pattern))


def commands_of(file: Path) -> list[tuple[list[str], bool]]:
    text = file.read_text()
    if file.name == "Makefile":
        return of_makefile(text)
    if file.suffix == ".md":
        return of_markdown(text, whole_spans=file.name == "RUNS.md")  # there each is the whole command of a run
    return {".ipynb": of_notebook, ".py": of_module, ".yml": of_workflow}[file.suffix](text)


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_can_be_typed(file):
    wrong = [
        f"{shlex.join(words)}\n  {said}" for words, whole in commands_of(file) if (said := complaint(words, whole))
    ]
    assert not wrong, "\n".join(wrong)


def test_options_that_words_speak_of_exist():
    """`--name` in a sentence, without its command: some command has it."""
    known = options_of(STYLEMED).union(*(options_of_script(script) for script in (ROOT / "benchmarks").glob("*.py")))
    for file in sources():
        texts = strings(file.read_text()) if file.suffix == ".py" else [file.read_text()]
        texts = [
            text for text in texts if " " in text
        ]  # alone it is an argument that the package gives another program
        for text in texts:
            named = (
                re.findall(r"`(--[a-z][\w-]*)", text)
                if file.suffix != ".py"
                else re.findall(r"(?<!\S)(--[a-z][\w-]*)", text)
            )
            wrong = {name.rstrip("-") for name in named} - known - {"--no-deps", "--quiet", "--nproc-per-node"}
            assert not wrong, f"{file.relative_to(ROOT)}: {wrong}"


# ---- the test itself ------------------------------------------------------------------------------------


def test_the_texts_hold_commands():
    """None would pass all of the above."""
    count = {file.name: len(commands_of(file)) for file in sources()}
    assert count["README.md"] > 20 and count["RUNS.md"] > 8 and count["RESULTS.md"] > 8 and count["Makefile"] >= 3
    assert count["card.md"] == 1 and count["two_processes.py"] == 1
    assert count["08_paper_scale.ipynb"] > 10 and count["training.py"] >= 1 and count["intro.md"] >= 3


@pytest.mark.parametrize(
    "line, says",
    [
        ("stylemed prepair LITS --out store", "no command stylemed prepair"),
        ("stylemed train gun --store store", "no command stylemed train gun"),
        ("stylemed prepare LITS --out store --resolutoin 64", "No such option"),
        ("stylemed prepare LITS --resolution 64", "Missing option"),
        ("stylemed prepare --out store", "Missing argument"),
        ("stylemed prepare LITS --out", "requires an argument"),
        ("stylemed prepare LITS --out store --window 5", "2 arguments"),
        ("stylemed prepare LITS --out store --resolution large", "integer"),
        ("stylemed generate runs/gan tumor.safetensors --codes codes --out images", "unexpected extra argument"),
        ("stylemed inspect store sheet.png", "unexpected extra argument"),
        ("stylemed train", "a command is missing"),
        ("stylemed --verison", "--verison"),
        ("stylemed book run --profile tiny", "no profile tiny"),
        ("stylemed train gan --store s --run r --preset ct-65 --kimg 1", "no preset ct-65"),
        ("stylemed train gan --store s --run r --preset smoke --kimg 1 --set gamma=1", "no field gamma"),
        ("python -m stylemed inspekt store", "no command stylemed inspekt"),
        (
            "OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m stylemed train gan --store s --run r --kimg 1",
            "'--preset'",
        ),
        ("make boook", "no target boook"),
        ("make book PROFIL=cpu", "no variable PROFIL"),
        ("make book PROFILE=large", "no profile large"),
        ("python benchmarks/kill_prepare.py --killings 2", "has no --killings"),
        ("python benchmarks/no_such.py", "no script"),
    ],
)
def test_a_wrong_line_is_found(line, says):
    """In a code block, between other lines, and after another command of the same line."""
    page = f"Text.\n\n```bash\nmake book  # a comment; with more\nstylemed inspect store && \\\n  {line}\n```\n"
    said = [complaint(words, whole) for words, whole in of_markdown(page)]
    assert [bool(text) for text in said] == [False, False, True] and says in said[2]


@pytest.mark.parametrize(
    "line",
    [
        "stylemed train gan …",
        "torchrun --nproc-per-node N -m stylemed train gan ...",
        "prepare --clip LO HI",
        "stylemed inspect --out",
        "stylemed prepare --help",
        "make book PROFILE=…",
    ],
)
def test_a_mention_need_not_be_whole_but_right(line):
    assert [complaint(words, whole) for words, whole in of_markdown(f"See `{line}`.")] == [None]
    start = line.removesuffix("...").rstrip().removesuffix(" --out")
    wrong = f"`{start} --nonsense 1`"  # no option of that command, no target of make
    assert [complaint(words, whole) is None for words, whole in of_markdown(wrong)] == [False]
    assert of_markdown("`Run`, `train`, `psi`, `direction` and `w = f(z)` are no commands.") == []
