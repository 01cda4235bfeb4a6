"""Imports run one way, light modules stay light, and no file names a registry or a folder of some machine."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

ORDER = [
    "errors",
    "provenance",
    "machine",
    "files",
    "statistics",
    "data",
    "phantom",
    "networks",
    "training",
    "latent",
    "evaluation",
    "display",
    "pretrained",
    "studies",
    "chapters",
    "book",
    "cli",
    "__main__",
]
# Files whose text is searched; what other projects wrote is left alone.
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".ipynb", ".cff", ".css", ".js", ".json", ""}
SKIPPED = {".git", ".venv", "_build", "vendor", "__pycache__", ".pytest_cache", ".ruff_cache", "data", "runs"}


def modules(root):
    return sorted((root / "stylemed").rglob("*.py"))


def room(root, file):
    """The part of the package a file belongs to: `data`, `cli`, …"""
    return file.relative_to(root / "stylemed").parts[0].removesuffix(".py")


def imported_rooms(tree, package):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "stylemed" and len(parts) > 1 and parts[1] in ORDER:
                yield parts[1]


def test_every_module_has_its_place_in_the_order(root):
    assert {room(root, file) for file in modules(root)} - {"__init__"} <= set(ORDER)


def test_imports_run_one_way(root):
    back = []
    for file in modules(root):
        here = room(root, file)
        if here == "__init__":
            continue
        package = list(file.relative_to(root).with_suffix("").parts[:-1])
        for there in imported_rooms(ast.parse(file.read_text()), package):
            if ORDER.index(there) > ORDER.index(here):
                back.append(f"{file.relative_to(root)} imports stylemed.{there}")
    assert back == []


def test_no_file_imports_itself_through_others(root):
    """As they are loaded: what a function imports comes when it is needed."""
    files = {".".join(f.relative_to(root).with_suffix("").parts): f for f in modules(root) if f.stem != "__init__"}
    graph = {}
    for name, file in files.items():
        loads = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
        named = {there for node in loads for there in (node.module, *(f"{node.module}.{a.name}" for a in node.names))}
        graph[name] = named & files.keys()
    assert len(list(TopologicalSorter(graph).static_order())) == len(files) > 90  # CycleError names a circle


def test_networks_know_nothing_of_data_and_training(root):
    for file in (root / "stylemed" / "networks").glob("*.py"):
        package = list(file.relative_to(root).with_suffix("").parts[:-1])
        assert set(imported_rooms(ast.parse(file.read_text()), package)) <= {"networks", "errors"}, file


def private(name):
    return name.startswith("_") and not name.startswith("__")


def own_names(tree):
    """Every name that a file gives: functions, classes, variables, attributes that it sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def borrowed_private_names(trees):
    """`file:line name` wherever a file imports or reads a private name that another file of the package gives itself."""
    given = {file: set(filter(private, own_names(tree))) for file, tree in trees.items()}
    for file, tree in trees.items():
        others = set().union(*(names for other, names in given.items() if other != file)) - given[file]
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("stylemed")):
                names = [alias.name for alias in node.names if private(alias.name)]
            elif isinstance(node, ast.Attribute) and node.attr in others:
                names = [node.attr]
            yield from (f"{file}:{node.lineno} {name}" for name in names)


def test_private_names_stay_in_their_file(root):
    trees = {str(file.relative_to(root)): ast.parse(file.read_text()) for file in modules(root)}
    assert list(borrowed_private_names(trees)) == []
    giver = "class Net:\n    def __init__(self):\n        self._inner = self._outer = 1\ndef _help(): ..."
    taker = "from stylemed.giver import _help\nprint(Net()._inner, self._own, numpy._theirs)\nself._own = 1"
    found = list(borrowed_private_names({"giver": ast.parse(giver), "taker": ast.parse(taker)}))
    assert found == ["taker:1 _help", "taker:2 _inner"]


@pytest.mark.parametrize(
    "module",
    ["cli", "files", "chapters", "data", "data.volumes", "phantom", "data.store", "book.execution", "book.regression"],
)
def test_light_modules_import_neither_torch_nor_monai(module, python_env):
    code = f"import sys, stylemed.{module}; print([m for m in ('torch', 'monai') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], env=python_env, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr


def test_tensors_and_locks_are_of_one_file(root):
    """A second writer would have a second header, and a second idea of what is whole."""
    words = re.compile(r"^\s*(?:from|import) (?:safetensors|filelock)\b", re.M)
    assert [f.name for f in modules(root) if words.search(f.read_text())] == ["files.py"]


def test_nothing_of_unix_alone_is_needed(root):
    """Windows has none of these; `filelock` locks there too."""
    words = re.compile(r"^(?:from|import) (?:fcntl|resource|pwd|grp|termios)\b", re.M)  # at the top: else nothing loads
    assert [f.name for f in modules(root) if words.search(f.read_text())] == []


def own_files(root):
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if SKIPPED & set(parts) or any(part.endswith(".egg-info") for part in parts):
            continue
        if path.is_file() and path.suffix in TEXT:
            yield path


def test_no_registry_and_no_machine_is_named(root):
    hosts = [
        "pypi" + ".org",
        "python" + "hosted",
        "pytorch.org" + "/whl",
        "conda.anaconda" + ".org",
        "registry.npm" + "js",
    ]
    words = re.compile("|".join(map(re.escape, hosts)) + r"|(?<![\w.])/(?:home|root|work|Users)/\w|/tmp/bash")
    found = []
    for path in own_files(root):
        if path.name == "test_layout.py":
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if words.search(line):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_every_idea_is_where_contributing_says(root):
    rows = re.findall(r"^\| (.+) \| `(\S+\.py)` \| `(\w+)` \|$", (root / "CONTRIBUTING.md").read_text(), re.M)
    assert len(rows) == 15
    for idea, file, name in rows:
        assert name in set(own_names(ast.parse((root / file).read_text()))), idea


def test_files_stay_readable(root):
    long = {str(file.relative_to(root)): n for file in modules(root) if (n := len(file.read_text().splitlines())) > 550}
    assert long == {}
