"""What is out of date, decided here alone, and by content.

A chapter is up to date when what it is made from is what it was made from (its source, its parameters, the package, the pins,
studies it shows, what it reads of other chapters), and when what it left is still there as it left it. The pages likewise.
Times decide nothing: a file that was only touched is the same file. They only spare reading large files again (`Digests`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stylemed.chapters import MAKES, NOTE, USES, package_digest
from stylemed.files import write_json

PAGES = ("_config.yml", "_toc.yml", "book/*.md", "book/*.bib", "book/_static/**/*", "book/_extra/**/*")

# What the page `Play` holds, among the artifacts of the chapters.
PLAYED = (NOTE, "gan/generator.safetensors", "encoder/encoder.safetensors", "direction*.safetensors", "store/*")

Contents = dict[str, str]  # what -> digest
_ONE_AT_A_TIME = threading.Lock()  # chapters that run beside each other have one file of digests


class Digests:
    """Digests of files below a build folder. A file whose size and time did not change since is not read again."""

    def __init__(self, build: Path) -> None:
        self.build, self._file = build, build / "digests.json"

    def of(self, files: Iterable[Path]) -> Contents:
        """Digest by path relative to the build folder, for those of `files` that are there."""
        with _ONE_AT_A_TIME:
            return self._of(files)

    def _of(self, files: Iterable[Path]) -> Contents:
        try:
            known = json.loads(self._file.read_text())
        except (OSError, ValueError):
            known = {}
        found, before = {}, dict(known)
        for file in files:
            if not file.is_file():
                continue
            name, stat = str(file.relative_to(self.build)), file.stat()
            size, time, digest = known.get(name) or (None, None, None)
            if (size, time) != (stat.st_size, stat.st_mtime_ns):
                with file.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
            known[name] = [stat.st_size, stat.st_mtime_ns, digest]
            found[name] = digest
        if known != before:
            write_json(self._file, known)
        return found


def chapter_made_from(name: str, parameters: dict[str, Any], build: Path, root: Path) -> Contents:
    """What the chapter would be made from if it ran now."""
    source = (root / "book" / f"{name}.ipynb").read_bytes()
    text = source.decode(errors="replace")
    shown = [file for file in sorted((root / "book" / "results").glob("*.json")) if file.stem in text]
    made_from = {
        "its source": _digest(source),
        "its parameters": _digest(json.dumps(parameters, sort_keys=True).encode()),
        "the package": package_digest(),
        "the pins": _of_files(root, ["constraints.txt"]),
        "studies": _of_files(root, [str(file.relative_to(root)) for file in shown]),
    }
    if parameters.get("data"):
        made_from["the data"] = _listing((root / "book" / parameters["data"]).resolve())
    for number in above(name[:2]):
        artifacts = Digests(build).of(_artifacts(number, build))
        made_from[f"artifacts of chapter {int(number)}"] = _digest(json.dumps(artifacts, sort_keys=True).encode())
    return made_from


def chapter_left(name: str, build: Path) -> Contents:
    """What the chapter has left: the published copy, its numbers, its artifacts."""
    files = [build / "executed" / f"{name}.ipynb", build / "metrics" / f"{name}.json", *_artifacts(name[:2], build)]
    return Digests(build).of(files)


def pages_made_from(names: list[str], description: str, build: Path, root: Path) -> Contents:
    """What the pages would be made from if they were built now."""
    copies = [
        build / folder / f"{name}{end}" for name in names for folder, end in (("executed", ".ipynb"), ("runs", ".json"))
    ]
    return {
        "an executed chapter": _digest(json.dumps(Digests(build).of(copies), sort_keys=True).encode()),
        "a page, or the configuration": _of_files(root, PAGES),
        "the profile": _digest(description.encode()),
        **player_made_from(build, root),  # the pages of the interface are made from the package, too
    }


def pages_left(build: Path) -> Contents:
    """The pages as they were built."""
    return Digests(build).of(sorted((build / "html").rglob("*.html")))


def player_made_from(build: Path, root: Path) -> Contents:
    """What the parts of the page `Play` would be made from if they were made now."""
    patterns = PLAYED if (root / "book" / "play.md").is_file() else ()
    files = sorted(file for pattern in patterns for file in (build / "artifacts").glob(pattern))
    return {
        "what is played with": _digest(json.dumps(Digests(build).of(files), sort_keys=True).encode()),
        "the package": package_digest(),
        "the pins": _of_files(root, ["constraints.txt"]),
    }


def player_left(build: Path) -> Contents:
    """The parts of the page `Play` as they were made."""
    return Digests(build).of(sorted((build / "player").glob("*.js")))


def write_record(file: Path, made_from: Contents, left: Contents, **facts: Any) -> None:
    """Write down what something was made from and what it left; only now it counts as done."""
    write_json(file, facts | {"made_from": made_from, "left": left})


def why_stale(record: Path, made_from: Contents, build: Path) -> str | None:
    """Why what `record` tells of has to be made again, in a few words; None where it is up to date."""
    try:
        known = json.loads(record.read_text())
        before, left = known["made_from"], known["left"]
    except (OSError, ValueError, KeyError, TypeError):
        return "not made yet"
    changed = [what for what in made_from if before.get(what) != made_from[what]]
    if changed or before.keys() - made_from.keys():
        return f"changed: {', '.join(changed) or 'what it uses'}"
    there = Digests(build).of(build / name for name in left)
    lost = [name for name, digest in left.items() if there.get(name) != digest]
    return f"{lost[0]} is not what it left" if lost else None


def above(number: str) -> list[str]:
    """Numbers of all chapters whose artifacts a chapter reads, directly or through those it names."""
    found: set[str] = set()
    todo = list(USES.get(number, ()))
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            todo += USES.get(one, ())
    return sorted(found)


def _artifacts(number: str, build: Path) -> list[Path]:
    return sorted(file for pattern in MAKES.get(number, ()) for file in (build / "artifacts").glob(pattern))


def _listing(folder: Path) -> str:
    """Of names, sizes and times: volumes are too large to read for this. What was only touched is prepared again, to an equal
    store, and no later chapter runs."""
    stats = [(file.relative_to(folder), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    return _digest(repr([(str(name), stat.st_size, stat.st_mtime_ns) for name, stat in stats]).encode())


def _of_files(root: Path, patterns: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in root.glob(pattern) if file.is_file()}):
        digest.update(f"{file.relative_to(root)}\0{_digest(file.read_bytes())}\0".encode())
    return digest.hexdigest()[:16]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
