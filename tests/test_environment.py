"""One list of pins, read by make and by conda; no host names; the lists install."""

import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml


def pins(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pip_part(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    return next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))


def test_constraints_are_exact_and_bare(root):
    assert len(pins(root)) > 100
    assert [line for line in pins(root) if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_every_direct_dependency_is_pinned(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    names = {re.split(r"[=<>\[;]", entry)[0].lower().replace("_", "-") for entry in asked}
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in pins(root)}
    assert names - pinned == set()


def test_environment_reads_the_same_pins(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    assert pip_part(root) == ["-c constraints.txt", "-e .[book,dev]"]
    others = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert [name.split("=")[0] for name in others] == ["python", "pip"]
    assert "==" not in (root / "environment.yml").read_text()


def test_versions_agree(root):
    from stylemed import __version__

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert project["version"] == citation["version"] == __version__
    assert citation["repository-code"] == project["urls"]["Repository"]


@pytest.mark.slow
def test_pip_part_installs(root, tmp_path):
    """What conda hands to pip really installs, into an environment of its own."""
    uv = shutil.which("uv", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if uv is None:
        pytest.skip("uv is not installed in this environment")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    shutil.copytree(root / "stylemed", copy / "stylemed", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "requirements.txt").write_text("\n".join(pip_part(root)) + "\n")

    def run(*command):
        return subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=900)

    made = run(uv, "venv", "--python", sys.executable, "env")
    assert made.returncode == 0, made.stderr
    python = copy / "env" / "bin" / "python"
    installed = run(uv, "pip", "install", "--python", str(python), "-r", "requirements.txt")
    said = installed.stderr.lower()
    if installed.returncode and any(word in said for word in ("failed to fetch", "error sending request", "dns error")):
        pytest.skip("the package registry cannot be reached, so nothing can be installed")
    assert installed.returncode == 0, installed.stderr
    frozen = set(run(uv, "pip", "freeze", "--python", str(python)).stdout.lower().replace("_", "-").splitlines())
    wanted = {line.lower().replace("_", "-") for line in pins(root)}
    assert {line for line in frozen if "==" in line} <= wanted
    answer = run(str(copy / "env" / "bin" / "stylemed"), "--version")
    assert answer.returncode == 0 and answer.stdout.startswith("stylemed ")
