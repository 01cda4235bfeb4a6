"""What the workflows call is there: they run elsewhere, where nobody looks until they fail.

Their make and stylemed commands are parsed in test_commands.py; after an edit, run actionlint by hand.
"""

import re
import subprocess

import pytest
import yaml

MAJOR = {"checkout": 4, "setup-python": 5, "cache": 4, "upload-pages-artifact": 3, "deploy-pages": 4}  # at least


def workflows(root):
    return {file.stem: yaml.safe_load(file.read_text()) for file in (root / ".github" / "workflows").glob("*.yml")}


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_what_they_call_is_there(root):
    assert workflows(root).keys() == {"tests", "book", "newest"}
    for name, workflow in workflows(root).items():
        assert True in workflow, f"{name}: no `on:`"  # which YAML reads as a truth value
        for step in steps(workflow):
            if "uses" in step:
                action, version = re.fullmatch(r"actions/([\w-]+)@v(\d+)", step["uses"]).groups()
                assert int(version) >= MAJOR[action], f"{name}: {step['uses']}"
            elif step["run"].startswith(".ci/"):
                assert (root / step["run"]).stat().st_mode & 0o100, f"{name}: {step['run']}"


def test_the_pages_that_are_published_are_those_that_make_builds(root):
    (path,) = [
        s["with"]["path"] for s in steps(workflows(root)["book"]) if "upload-pages-artifact" in s.get("uses", "")
    ]
    dry = subprocess.run(["make", "-n", "book"], cwd=root, capture_output=True, text=True).stdout
    profile = re.search(r"book html --profile (\w+)", dry)[1]
    assert path == f"_build/{profile}/html"


@pytest.mark.parametrize(("given", "pinned"), [([], True), (["PINS="], False)])
def test_make_installs_the_pins_or_the_newest(root, given, pinned):
    dry = subprocess.run(
        ["make", "-n", "-W", "constraints.txt", "test", *given], cwd=root, capture_output=True, text=True
    )
    line = next(line for line in dry.stdout.splitlines() if "uv pip install" in line)
    assert ("-c constraints.txt" in line) == pinned
