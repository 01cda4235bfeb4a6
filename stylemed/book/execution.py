"""Chapters through papermill, and the HTML from what they left. Everything lands in `_build/<profile>/`.

executed/  the published copies: outputs in, papermill's traces out      metrics/  numbers, by chapter
artifacts/ store, generator, encoder that later chapters use            runs/     minutes, memory, versions; made from what
logs/      what each chapter printed                                    html/     the book
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stylemed.book.staleness import Contents, above, chapter_left, chapter_made_from, why_stale, write_record
from stylemed.chapters import MAKES, PACKAGE, ChapterEnds, profile_names, project_root
from stylemed.errors import BadInput
from stylemed.machine import machine

PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}  # tags of cells by papermill, not by the author
ENDED = 4  # exit code of a chapter that ended itself


class ChapterFailed(Exception):
    """A cell raised; the message holds the chapter, the cell's error and where the notebook is kept."""


@dataclass(frozen=True)
class Profile:
    """One `book/profiles/*.yaml`: the parameters of every chapter for one size of machine."""

    name: str
    description: str
    threads: int | None  # None: leave it to the machine
    hours: str  # what to expect, in words
    at_once: int = 1  # chapters that run beside each other
    chapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    rehearsal: dict[str, Any] = field(default_factory=dict)  # what a rehearsal puts in place of it (see `rehearsal`)
    note: str = ""  # on the first page


def checkout(root: Path | None = None) -> Path:
    """The root of the book, or BadInput."""
    root = root or project_root()
    if root is None:
        raise BadInput("There is no book here: run this inside the repository (a folder above must hold _toc.yml).")
    return root


def read_profile(name: str, root: Path | None = None) -> Profile:
    """Read `book/profiles/<name>.yaml`. Raises BadInput for an unknown profile, key or chapter."""
    root = checkout(root)
    file = root / "book" / "profiles" / f"{name}.yaml"
    if not file.is_file():
        raise BadInput(f"Unknown profile '{name}'; there are: {', '.join(profile_names(root))}.")
    try:
        content = yaml.safe_load(file.read_text()) or {}
        profile = Profile(name=name, **{k: v for k, v in content.items() if k != "name"})
    except (yaml.YAMLError, TypeError, AttributeError) as error:
        raise BadInput(f"{file.name} is not a profile: {' '.join(str(error).split())}.") from None
    for chapter in profile.chapters:
        if chapter not in chapter_names(root):
            raise BadInput(f"Profile '{name}' names the chapter '{chapter}', which is not in book/.")
    return profile


def chapter_names(root: Path) -> list[str]:
    """`01_…`, `02_…`, in reading order."""
    return sorted(file.stem for file in (root / "book").glob("[0-9][0-9]_*.ipynb"))


def find_chapter(name: str, root: Path) -> str:
    """A chapter by its name or its number. Raises BadInput."""
    names = chapter_names(root)
    found = [known for known in names if name in (known, known[:2], known[:2].lstrip("0"))]
    if not found:
        raise BadInput(f"Unknown chapter '{name}'; there are: {', '.join(names)}.")
    return found[0]


def chapter_parameters(name: str, profile: Profile, root: Path, seed: int | None = None) -> dict[str, Any]:
    """What papermill injects, checked against the chapter first: papermill itself would let a typo pass."""
    known = parameters_of(root / "book" / f"{name}.ipynb")
    given = dict(profile.chapters.get(name) or {})
    for parameter in given:
        if parameter not in known:
            raise BadInput(
                f"Profile '{profile.name}' sets '{parameter}' for {name}, which has only: "
                f"{', '.join(known) or 'no parameters'}."
            )
    if "profile" in known:
        given["profile"] = profile.name
    if seed is not None and "seed" in known:
        given["seed"] = seed
    return given


def parameters_of(file: Path) -> list[str]:
    """The names that a chapter's parameters cell gives a value; papermill can tell too, but takes 2 s to import."""
    try:
        cells = json.loads(file.read_text())["cells"]
        source = "".join(next((c["source"] for c in cells if "parameters" in c["metadata"].get("tags", [])), ""))
        lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign | ast.AnnAssign)]
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise BadInput(
            f"book/{file.name} is no notebook with a parameters cell of plain lines ({error}); restore it from git."
        ) from None
    targets = [target for line in lines for target in (line.targets if isinstance(line, ast.Assign) else [line.target])]
    return [target.id for target in targets if isinstance(target, ast.Name)]


# ---- running --------------------------------------------------------------------------------------------


def run_stale(
    profile: Profile,
    build: Path,
    names: list[str] | None = None,
    *,
    root: Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> list[str]:
    """Execute the chapters that are out of date (`names`; default: all), as `in_turn` has them; force=True: all of them.

    A chapter that ran makes those stale that read what it left, if that is not what it was. Returns the names of what ran.
    Raises BadInput for an unknown parameter before the first chapter runs, ChapterFailed.
    """
    root = checkout(root)
    names = sorted(set(names or chapter_names(root)))
    parameters = {name: chapter_parameters(name, profile, root) for name in names}
    done = []

    def run(name: str) -> None:
        made_from = chapter_made_from(name, parameters[name] | {"threads": profile.threads}, build, root)
        why = "asked for" if force else why_stale(build / "runs" / f"{name}.json", made_from, build)
        if why:
            run_chapter(name, profile, build, root=root, quiet=quiet, why=why)
            done.append(name)

    in_turn(names, run, profile.at_once, quiet=quiet)
    return sorted(done)


def in_turn(names: list[str], run: Callable[[str], Any], at_once: int = 1, *, quiet: bool = False) -> None:
    """Call `run` with each name, `at_once` beside each other, and with none before those whose artifacts it reads are done.

    They begin in the order of `names`. After an error none begins any more, those that run come to their end, and it is raised;
    an interrupt ends them all. Shows a bar of chapters where several run at once, which show none of their own.
    """
    from tqdm import tqdm

    waiting, running = list(names), {}
    failed: BaseException | None = None
    bar = tqdm(total=len(names), desc="   chapters", unit="chapter", disable=quiet or at_once == 1)
    with ExitStack() as at_the_end, ThreadPoolExecutor(at_once) as pool, bar:
        at_the_end.callback(_STOPPED.clear)  # once no chapter runs any more
        try:
            while running or (waiting and not failed):
                open_ones = {name[:2] for name in (*waiting, *running.values())}
                ready = [name for name in waiting if not failed and open_ones.isdisjoint(above(name[:2]))]
                for name in ready[: at_once - len(running)]:
                    waiting.remove(name)
                    running[pool.submit(run, name)] = name
                finished: set[Future] = wait(running, timeout=5.0, return_when=FIRST_COMPLETED).done
                for future in finished:
                    del running[future]
                    failed = failed or future.exception()
                bar.set_postfix_str(" ".join(running.values()), refresh=False)
                bar.update(len(finished))
                bar.refresh()
        except BaseException:
            _STOPPED.set()
            for process in list(_RUNNING):
                _kill(process)
            raise
    if failed:
        raise failed


def run_chapter(
    name: str,
    profile: Profile,
    build: Path,
    *,
    root: Path | None = None,
    seed: int | None = None,
    quiet: bool = False,
    cwd: Path | None = None,
    why: str = "",
) -> dict[str, Any]:
    """Execute one chapter in a process of its own and publish the copy. Returns what `runs/<chapter>.json` holds.

    `why` is said beside the chapter's name.
    An interrupted training goes on where it stopped if nothing it depends on has changed, otherwise anew.
    Raises BadInput before the run (unknown parameter), ChapterFailed after it.
    """
    root = checkout(root)
    parameters = chapter_parameters(name, profile, root, seed)
    for folder in ("executed", "failed", "metrics", "runs", "logs", "artifacts"):
        (build / folder).mkdir(parents=True, exist_ok=True)
    # Of before the run: what is edited while a chapter runs makes it stale.
    made_from = chapter_made_from(name, parameters | {"threads": profile.threads}, build, root)
    _start_clean(name, made_from, build)
    executed, record = build / "executed" / f"{name}.ipynb", build / "runs" / f"{name}.json"
    part, failed = build / f"{name}.part.ipynb", build / "failed" / f"{name}.failed.ipynb"
    log = build / "logs" / f"{name}.log"
    failed.unlink(missing_ok=True)
    spec = {
        "input_path": str(root / "book" / f"{name}.ipynb"),
        "output_path": str(part),
        "parameters": parameters,
        "cwd": str(cwd or root / "book"),
        "log": str(log),
        "progress": not quiet and profile.at_once == 1,  # bars of two processes would write over each other
    }
    if not quiet:
        reason = f"; {why}" if why else ""
        _say(f"== {name} ({profile.name}{reason}); its output is in {relative(log, root)}")
    started = time.time()
    code, peak = _run_watched(spec, _environment(profile, build))
    minutes = (time.time() - started) / 60
    ended = _ended(part) if code == ENDED else None
    if code != 0 and ended is None:
        if part.is_file():
            os.replace(part, failed)
        raise ChapterFailed(_what_failed(name, failed, log, root))
    facts = {
        "chapter": name,
        "profile": profile.name,
        "parameters": parameters,
        "minutes": round(minutes, 2),
        "peak_memory_mb": round(peak / 2**20),
        "threads": profile.threads or os.cpu_count(),
        **machine(),
    }
    if ended:
        facts["ended"] = ended
    _publish(part, executed, parameters)
    write_record(record, made_from, chapter_left(name, build), **facts)
    (build / "runs" / f"{name}.started").unlink(missing_ok=True)
    if ended and not quiet:
        _say(f"   {name} ends early: {ended}")
    if not quiet:
        _say(f"   {name}: {minutes:.1f} minutes, at most {facts['peak_memory_mb']} MB")
    return facts


def _say(line: str) -> None:
    """Print a line, above a bar that may be there."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()


def _start_clean(name: str, made_from: Contents, build: Path) -> None:
    """Clear what an earlier run left, unless it was cut off and this run is the same: then its training goes on."""
    started = build / "runs" / f"{name}.started"
    text = json.dumps(made_from, sort_keys=True)
    if not started.is_file() or started.read_text() != text:
        for pattern in MAKES.get(name[:2], ()):
            shutil.rmtree(build / "artifacts" / Path(pattern).parts[0], ignore_errors=True)
    started.write_text(text)
    for left in (f"runs/{name}.json", f"metrics/{name}.json", f"executed/{name}.ipynb"):
        (build / left).unlink(missing_ok=True)


def _environment(profile: Profile, build: Path) -> dict[str, str]:
    """The kernel's environment: fixed threads, this package, nothing of the user's own Jupyter set-up."""
    env = dict(os.environ)
    path = [str(PACKAGE.parent)] + [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]
    env |= {
        "STYLEMED_BUILD": str(build.resolve()),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONHASHSEED": "0",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(build.resolve() / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TQDM_MININTERVAL": "5",
    }
    if profile.threads:
        threads = str(profile.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        env |= dict.fromkeys(names, threads)
    return env


_RUNNING: set[subprocess.Popen] = set()  # processes of chapters, of whatever thread
_STOPPED = threading.Event()  # an interrupt: what begins after it ends at once


def _kill(process: subprocess.Popen) -> None:
    """With its kernel, which runs in a session of its own: an interrupt from the keyboard does not reach it."""
    import psutil

    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for member in [*family, process]:
        try:
            member.kill()
        except (psutil.Error, ProcessLookupError):
            pass


def _run_watched(spec: dict[str, Any], env: dict[str, str]) -> tuple[int, int]:
    """Run papermill in a child process; returns its exit code and the peak memory of its process tree in bytes."""
    import psutil

    command = [sys.executable, "-c", "from stylemed.book.execution import child; child()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=env, text=True)
    peak, stop = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.25):
            try:
                tree = [me := psutil.Process(process.pid), *me.children(recursive=True)]
            except psutil.Error:
                continue
            peak = max(peak, sum(_resident(member) for member in tree))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _RUNNING.add(process)
    try:
        if _STOPPED.is_set():
            raise KeyboardInterrupt
        process.communicate(json.dumps(spec))
    except BaseException:
        _kill(process)
        raise
    finally:
        _RUNNING.discard(process)
        stop.set()
        watcher.join()
    return process.returncode, peak


def _resident(process: Any) -> int:
    import psutil

    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def child() -> None:
    """The process of one chapter: papermill, with the run described as JSON on standard input."""
    import papermill

    spec = json.load(sys.stdin)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    with open(spec["log"], "w", buffering=1) as log:
        os.dup2(log.fileno(), 2)  # what the kernel itself says belongs to the log
        try:
            papermill.execute_notebook(
                spec["input_path"],
                spec["output_path"],
                parameters=spec["parameters"],
                cwd=spec["cwd"],
                kernel_name="python3",
                progress_bar={"desc": "   cells", "file": terminal, "mininterval": 2.0} if spec["progress"] else False,
                stdout_file=log,
                stderr_file=log,
            )
        except papermill.PapermillExecutionError as error:
            sys.exit(ENDED if error.ename == ChapterEnds.__name__ else 1)
        except Exception as error:  # the kernel died, or did not start
            log.write(f"\n{type(error).__name__}: {error}\n")
            sys.exit(3)


def _ended(part: Path) -> str | None:
    """The sentence with which the chapter ended itself; then nothing but a note that says it stands behind what had run."""
    import nbformat

    notebook = nbformat.read(part, as_version=4)
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "error" and output.ename == ChapterEnds.__name__:
                cell.outputs.remove(output)
                note = f"```{{note}}\nWith these data the chapter ends here. {output.evalue}\n```"
                kept = [c for c in notebook.cells[: number + 1] if not PAPERMILL & set(c.metadata.get("tags", []))]
                notebook.cells = [*kept, nbformat.v4.new_markdown_cell(note, id="ends-here")]
                nbformat.write(notebook, part)
                return output.evalue
    return None


def _what_failed(name: str, failed: Path, log: Path, root: Path) -> str:
    cells = json.loads(failed.read_text())["cells"] if failed.is_file() else []
    cells = [cell for cell in cells if not PAPERMILL & set(cell["metadata"].get("tags", []))]
    for number, cell in enumerate(cells, 1):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                source = "".join(cell["source"]).strip().splitlines()
                return (
                    f"{name}, cell {number} ({source[0] if source else 'empty'}): "
                    f"{output['ename']}: {output['evalue']}\n"
                    f"  the notebook with its traceback: {relative(failed, root)}"
                )
    lines = log.read_text().strip().splitlines() if log.is_file() else []
    last = lines[-1] if lines else "no output"
    return f"{name}: the run broke off ({last})\n  its output: {relative(log, root)}"


def relative(path: Path, root: Path) -> str:
    """A path as it is told to a reader of the terminal: from the root where it lies below."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


# ---- publishing -----------------------------------------------------------------------------------------

_PROGRESS = re.compile(r"\d+%\|.*\||\d+(\.\d+)?\s?(it|img|s)/(s|it)|\d+it \[")


def _publish(part: Path, executed: Path, parameters: dict[str, Any]) -> None:
    """Turn papermill's copy into the published one: injected values in the parameters cell, no times, no traces."""
    import nbformat

    notebook = nbformat.read(part, as_version=4)
    cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    count = 0
    for cell in cells:
        for trace in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(trace, None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        if "parameters" in cell.metadata.get("tags", []):
            shown = {
                name: Path(value).name if name == "data" and value else value for name, value in parameters.items()
            }
            cell.source = with_values(cell.source, shown)  # no folder of this machine
        cell.outputs = [output for output in map(_without_progress, cell.outputs) if output is not None]
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = count
            output.get("metadata", {}).pop("papermill", None)
    notebook.cells = cells
    notebook.metadata.pop("papermill", None)
    nbformat.write(notebook, part)
    os.replace(part, executed)


def with_values(source: str, parameters: dict[str, Any]) -> str:
    """The parameters cell with each `name = value  # comment` set to the value that was used."""
    for name, value in parameters.items():
        line = re.compile(rf"(?m)^({re.escape(name)}\s*(?::[^=\n]+)?=\s*)([^#\n]*?)(\s*#.*)?$")
        text = f'"{value}"' if isinstance(value, str) and '"' not in value else repr(value)
        source = line.sub(lambda m, text=text: m.group(1) + text + (m.group(3) or ""), source, count=1)
    return source


def _without_progress(output: Any) -> Any:
    """Drop progress bars from standard error: they hold times, and a page has no use for them."""
    if output.output_type != "stream" or output.name != "stderr":
        return output
    kept = [line for line in re.split(r"[\r\n]+", output.text) if line.strip() and not _PROGRESS.search(line)]
    output.text = "\n".join(kept) + "\n"
    return output if kept else None
