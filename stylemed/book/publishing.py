"""From executed chapters to the HTML: a source tree of its own, built with warnings as errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from stylemed import __version__
from stylemed.book.execution import Profile, chapter_names, checkout, read_profile, relative
from stylemed.book.staleness import (
    pages_left,
    pages_made_from,
    player_left,
    player_made_from,
    why_stale,
    write_record,
)
from stylemed.chapters import PACKAGE
from stylemed.errors import BadInput


class BuildFailed(Exception):
    """Sphinx gave warnings or errors; the message holds them."""


def html(
    profile_name: str,
    root: Path | None = None,
    build: Path | None = None,
    *,
    force: bool = False,
    profile: Profile | None = None,
) -> Path:
    """Build `_build/<profile>/html` from the executed chapters unless it is up to date; returns the page to open.

    profile: in the place of the one of that name, as `own_data.own_book` makes it.
    The tree it is built from holds nothing else, so that Sphinx never scans an environment or a data folder.
    Raises BadInput when a chapter has not been executed, BuildFailed when Sphinx warns.
    """
    root = checkout(root)
    profile = profile or read_profile(profile_name, root)
    build = build or root / "_build" / profile_name
    names = chapter_names(root)
    missing = [name for name in names if not (build / "executed" / f"{name}.ipynb").is_file()]
    if missing:
        raise BadInput(
            f"Not executed in the profile '{profile_name}': {', '.join(missing)}; "
            f"run first: stylemed book run --profile {profile_name}"
        )
    record, result = build / "pages.json", build / "html"
    made_from = pages_made_from(
        names, profile.description + profile.note, build, root
    )  # of before the build: an edit made meanwhile makes it stale
    why = "asked for" if force else why_stale(record, made_from, build)
    if not why:
        print("== the pages were re-used")
        return result / "index.html"
    source = build / "book-src"
    write_source(source, profile, root, build)
    print(
        f"== building the pages ({why}); the full output is in {relative(build / 'logs' / 'html.log', root)}",
        flush=True,
    )
    _sphinx(source, build / "logs" / "html.log")
    record.unlink(missing_ok=True)
    shutil.rmtree(result, ignore_errors=True)
    os.replace(source / "_build" / "html", result)
    write_record(record, made_from, pages_left(build))
    return result / "index.html"


def write_source(source: Path, profile: Profile, root: Path, build: Path) -> None:
    """Lay out what Sphinx reads: the root's configuration with execution off, pages, executed chapters, status."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "book").mkdir(parents=True)
    config = yaml.safe_load((root / "_config.yml").read_text())
    config["execute"] = {"execute_notebooks": "off"}
    (source / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    shutil.copy(root / "_toc.yml", source)
    for page in [*(root / "book").glob("*.md"), *(root / "book").glob("*.bib")]:
        shutil.copy(page, source / "book")
    for folder in ("_static", "_extra"):
        shutil.copytree(root / "book" / folder, source / "book" / folder)
    for name in chapter_names(root):
        shutil.copy(build / "executed" / f"{name}.ipynb", source / "book")
    if profile.note:
        intro = source / "book" / "intro.md"
        title, rest = intro.read_text().split("\n", 1)
        intro.write_text(f"{title}\n\n```{{note}}\n{profile.note}\n```\n{rest}")
    (source / "book" / "status.md").write_text(status_page(profile, build))
    if (root / "book" / "play.md").is_file():
        shutil.copytree(player(root, build), source / "book" / "_static" / "play", dirs_exist_ok=True)


def player(root: Path, build: Path) -> Path:
    """The folder of what the page `Play` reads, made anew where it is out of date; empty where no generator is there."""
    record, made_from = build / "player.json", player_made_from(build, root)
    if why := why_stale(record, made_from, build):
        from stylemed.book.player import write_player  # torch, only where there is something to make

        print(f"== packing the generator for the page Play ({why})", flush=True)
        record.unlink(missing_ok=True)
        shutil.rmtree(build / "player", ignore_errors=True)
        (build / "player").mkdir(parents=True)
        runtime = root / "book" / "_static" / "vendor" / "onnxruntime" / "runtime.js"
        write_player(build / "artifacts", runtime, build / "player")
        write_record(record, made_from, player_left(build))
    return build / "player"


def _sphinx(source: Path, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    # The command beside this Python: an environment that is not activated has no `jupyter-book` on the path.
    command = Path(sys.executable).parent / "jupyter-book"
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE.parent), env.get("PYTHONPATH", "")]))
    env |= {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    arguments = [str(command), "build", str(source), "-W", "-n", "--keep-going", "--all", "--quiet"]
    with log.open("w") as file:
        code = subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, env=env, check=False).returncode
    if code != 0:
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
        lines = text.replace(f"{source}{os.sep}", "").splitlines()
        said = [line for line in lines if "WARNING" in line or "ERROR" in line or "Error" in line]
        raise BuildFailed("the pages did not build without warnings:\n  " + "\n  ".join(said or lines[-15:]))


def read_runs(build: Path) -> list[dict[str, Any]]:
    """The records of the executed chapters, in reading order."""
    return [json.loads(file.read_text()) for file in sorted((build / "runs").glob("*.json"))]


def status_page(profile: Profile, build: Path) -> str:
    """The page `How this book was made`: minutes, memory, machine and versions of every chapter."""
    runs = read_runs(build)
    rows = [
        f"| {{doc}}`{run['chapter']}` | {run['minutes']:.1f} | {run['peak_memory_mb']} | {run['threads']} |"
        for run in runs
    ]
    machines = sorted({run["cpu"] + (f" with {run['gpu']}" if run["gpu"] else "") for run in runs})
    versions = runs[-1]["versions"] if runs else {}
    total = sum(run["minutes"] for run in runs)
    lines = [
        "# How this book was made",
        "",
        f"Numbers and figures of these pages were computed in the profile `{profile.name}`: {profile.description}",
        "Each chapter ran in a process of its own; what a study measured says so, with its command.",
        "",
        "| chapter | minutes | peak memory (MB) | threads |",
        "|---|---:|---:|---:|",
        *rows,
        "",
        f"Together {total:.1f} minutes on {'; '.join(machines) or 'no machine'}.",
        f"Package `stylemed` {__version__}.",
        "",
        "| software | version |",
        "|---|---|",
        *[f"| {name} | {version} |" for name, version in versions.items()],
        "",
    ]
    return "\n".join(lines)


# ---- as a Sphinx extension ------------------------------------------------------------------------------


def setup(app: Any) -> dict[str, bool]:
    """`_config.yml` names this module as an extension."""
    app.connect("html-page-context", _without_thebe, priority=900)
    app.connect("build-finished", _without_font_preloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _without_thebe(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """There is no kernel behind these pages; Jupyter Book's Thebe scripts only raise an error in the console."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{getattr(script, 'filename', '')} {getattr(script, 'attributes', {}).get('body')}".lower()
    ]


def _without_font_preloads(app: Any, error: Exception | None) -> None:
    """The theme preloads its fonts across origins, which a browser refuses for a page opened from a file."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            kept = re.sub(r'<link rel="preload" as="font"[^>]*>\s*', "", text)
            if kept != text:
                page.write_text(kept, encoding="utf-8")
