"""Released models: everything that was made from one generator, in one folder, with a card that says what it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from stylemed import __version__
from stylemed.errors import BadInput
from stylemed.files import write_json
from stylemed.latent.codes import Codes
from stylemed.latent.direction import Direction
from stylemed.networks import Discriminator, Encoder, Generator
from stylemed.provenance import belong_together
from stylemed.training.reader import Judge, Labeller
from stylemed.training.run import load_encoder, load_generator, load_network

HERE = Path(__file__).parent
RUNS = ("generator", "encoder", "labeller", "judge")  # parts that come as run folders, or folders that `freeze` wrote
NOT_FOR = (
    "Not for diagnosis, treatment, triage or any decision about a patient. Not to pass generated or edited images off as scans of "
    "somebody. Its images repeat what its few training patients have in common: they say nothing about how often anything occurs."
)


@dataclass(frozen=True)
class Bundle:
    """A released model. Every file is checked against the checksum of its release when it is read; nothing is unpickled."""

    name: str
    path: Path
    contents: dict  # of bundle.json: checksums by file, files of the directions by name, what it learned from

    @cached_property
    def generator(self) -> Generator:
        """In eval mode."""
        return load_generator(self.file("generator.safetensors"))[0]

    @cached_property
    def discriminator(self) -> Discriminator:
        """In eval mode."""
        return load_network(self.file("discriminator.safetensors"), "discriminator", Discriminator)[0]

    @cached_property
    def encoder(self) -> Encoder:
        """In eval mode."""
        return load_encoder(self.file("encoder.safetensors"))[0]

    @cached_property
    def labeller(self) -> Labeller:
        """Learned from the patients the generator has learned from."""
        return Labeller.load(self.file("labeller.safetensors"))

    @cached_property
    def judge(self) -> Judge:
        """Has seen none of them."""
        return Judge.load(self.file("judge.safetensors"))

    @cached_property
    def codes(self) -> Codes:
        """Of the training slices; the slices themselves are not here."""
        return Codes.load(self.file("codes.safetensors"))

    @cached_property
    def directions(self) -> dict[str, Direction]:
        """By name."""
        return {name: Direction.load(self.file(file)) for name, file in self.contents["directions"].items()}

    def holds(self, name: str) -> bool:
        """Whether a file of this name is part of the release."""
        return name in self.contents["sha256"]

    @property
    def data(self) -> str:
        """What it learned from, in one line."""
        return self.contents["data"]

    @property
    def card(self) -> str:
        """Markdown."""
        return self.file("card.md").read_text()

    def file(self, name: str) -> Path:
        """One file, after its checksum was compared; BadInput where it is not part of the release, or not as it was released."""
        path = self.path / name
        if not self.holds(name):
            raise BadInput(f"{self.name} has no {name}; it holds {', '.join(self.contents['sha256'])}.")
        if not path.is_file() or _sha256(path) != self.contents["sha256"][name]:
            raise BadInput(f"{path} is missing or not as it was released; install stylemed again.")
        return path


def available(folder: Path = HERE) -> list[str]:
    """Names of the released models."""
    return sorted(file.parent.name for file in folder.glob("*/bundle.json"))


def load(name: str | Path, folder: Path = HERE) -> Bundle:
    """A released model by name, or the one in a folder that `release` wrote. BadInput for anything else."""
    path = folder / str(name) if str(name) in available(folder) else Path(name)
    try:
        contents = json.loads((path / "bundle.json").read_text())
        known = {name: contents[name] for name in ("sha256", "directions")}
        return Bundle(path.name, path, known | {"data": contents.get("data", "")})
    except FileNotFoundError:
        names = ", ".join(available(folder)) or "none yet"
        raise BadInput(
            f"There is no released model {name}; there are: {names}. A folder needs a bundle.json."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{path / 'bundle.json'} is damaged; install stylemed again.") from None


def release(
    out: str | Path,
    parts: Mapping[str, str | Path],
    *,
    codes: str | Path | None = None,
    directions: Mapping[str, str | Path] | None = None,
    data: str,
    licence: str,
    hours: float | None = None,
    command: str = "",
) -> Bundle:
    """Put what was made from one generator into the folder `out`, with checksums and a card, and load it.

    parts {generator, encoder, labeller, judge: folder}: `generator` is needed; folders that `freeze` wrote, before the others were
    made from them. data, licence: one line each for the card. hours: of training in all. BadInput where a part is missing, or does
    not belong to the generator.
    """
    out, directions = Path(out), dict(directions or {})
    out.mkdir(parents=True, exist_ok=True)
    source = Path(parts["generator"])
    generator, _ = load_generator(source)
    names = []

    def take(file: Path, name: str, provenance=None) -> None:
        if not file.is_file():
            raise BadInput(f"{file} is missing; train or freeze it first.")
        if provenance is not None:
            who = (f"the generator in {source}", str(file))
            cure = "freeze the generator first, and make the rest from what was frozen"
            belong_together(generator.provenance, provenance, names=who, same_store=False, cure=cure)
        if file.resolve() != (out / name).resolve():
            shutil.copyfile(file, out / name)
        names.append(name)

    readers = {"labeller": Labeller.load, "judge": Judge.load, "encoder": lambda path: load_encoder(path)[0]}
    take(source / "generator.safetensors", "generator.safetensors")
    take(source / "discriminator.safetensors", "discriminator.safetensors")
    for noun in RUNS[1:]:
        if noun in parts:
            file = Path(parts[noun]) / f"{noun}.safetensors"
            its = readers[noun](file).provenance
            known = its.shared_patients(generator.provenance) if noun == "judge" else []
            if known:
                raise BadInput(
                    f"{file} has learned from patients of the generator ({', '.join(known[:3])}), so it cannot judge its images; "
                    "release it with a judge of other patients."
                )
            take(file, file.name, its)
    if codes is not None:
        take(Path(codes), "codes.safetensors", Codes.load(codes).provenance)
    for name, file in directions.items():
        take(Path(file), f"direction-{name}.safetensors", Direction.load(file).provenance)
    for name in ("config.yaml", "distances.csv", "strip.png"):
        if (source / name).is_file():
            take(source / name, name)
    (out / "card.md").write_text(_card(out, generator, names, data, licence, hours, command))
    contents = {"name": out.name, "version": __version__, "command": command, "data": data}
    contents["directions"] = {name: f"direction-{name}.safetensors" for name in directions}
    contents["sha256"] = {name: _sha256(out / name) for name in [*names, "card.md"]}
    write_json(out / "bundle.json", contents, sort_keys=False)
    return load(out)


def facts(generator: Generator, data: str, licence: str, hours: float | None = None) -> dict[str, str]:
    """What a card says of a generator, by name; data, licence, hours: as `release` takes them."""
    its = generator.provenance
    windows = ", ".join(f"{name} [{lo:g}, {hi:g}]" for name, (lo, hi) in its.windows.items())
    side, frame = generator.resolution, its.frame or "unknown"
    return {
        "Draws": f"{side} × {side} slices, frame {frame}, window {windows or 'unknown'}",
        "Learned from": f"{data}; {len(its.patients)} patients, store {its.store}",
        "Seen": f"{(its.nimg or 0) / 1000:.0f} thousand images in its last run, seed {its.seed}"
        + (f"; {hours:g} hours of training in all" if hours else ""),
        "Licence": licence,
        "Weights": f"generator {its.digest}, stylemed {its.version}",
    }


def last_distances(file: Path) -> list[str]:
    """Lines of a Markdown table: what was measured last of a training, by its `distances.csv`."""
    last = pd.read_csv(file).iloc[-1].dropna()
    return ["| what | value |", "|---|---|", *(f"| {name} | {value:.3g} |" for name, value in last.items())]


def _card(out: Path, generator: Generator, names, data, licence, hours, command) -> str:
    told = facts(generator, data, licence, hours)
    lines = [f"# {out.name}", "", *(f"- **{name}**: {value}" for name, value in told.items()), "", f"{NOT_FOR}", ""]
    if (out / "distances.csv").is_file():
        lines += ["## Measured at the end", "", *last_distances(out / "distances.csv"), ""]
    lines += ["## Files", "", "| file | MB |", "|---|---|"]
    lines += [f"| {name} | {(out / name).stat().st_size / 1e6:.2f} |" for name in names]
    return "\n".join([*lines, "", *([f"Made by `{command}`."] if command else [])]) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
