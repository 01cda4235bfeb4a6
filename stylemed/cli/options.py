"""What commands of several groups take, and how they end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from stylemed.errors import BadInput


def a_file(path: Path | None) -> Path | None:
    """What an option names to be written; BadInput for a folder, before anything is computed."""
    if path is not None and path.is_dir():
        raise BadInput(f"{path} is a folder; name a file in it.")
    return path


Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Minutes = Annotated[float | None, typer.Option(help="Stop after so many minutes; the same line goes on.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N. Default: a GPU if there is one.", show_default=False)
]
Network = Annotated[str, typer.Argument(metavar="GENERATOR", help="Run folder or .safetensors of the generator.")]
Store = Annotated[Path, typer.Argument(help="Slice store.")]
OfGenerator = Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of the generator.")]
OfEncoder = Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of its encoder.")]
MaybeJudge = Annotated[
    str | None, typer.Option(metavar="RUN", help="Judge that looks for the tumors.", show_default=False)
]
Split = Annotated[str, typer.Option(help="Split of the slices, or all.")]
Count = Annotated[
    int | None, typer.Option(help="Only so many slices, evenly spaced. Default: all.", min=1, show_default=False)
]
Drawn = Annotated[int, typer.Option(help="Fresh generated images whose latents are known.", min=2)]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a field of the preset, such as precision=bf16; repeat for several.",
        show_default=False,
    ),
]
Directions = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE", help="A direction and what to call it; repeat for several.", show_default=False),
]
Steps = Annotated[int, typer.Option(help="Of descent from the encoder's answers; 0: the answers as they are.", min=0)]
Result = Annotated[Path, typer.Option(help="JSON file to write.", callback=a_file)]
CodesFile = Annotated[Path, typer.Option("--out", help="File to write the codes to (.safetensors).", callback=a_file)]
Picture = Annotated[Path, typer.Option("--out", help="PNG or PDF file to write.", callback=a_file)]
Psi = Annotated[
    float, typer.Option(help="Truncation of random styles: 1 none, 0 the mean image (no unit).", min=0.0, max=1.0)
]


def rows_of(store, split: str, count: int | None):
    """Rows of a split of an open store, or of all splits, evenly spaced."""
    return store.some_rows(None if split == "all" else split, count)


def given(load, name: str | None):
    """What `load` makes of an option; None where it was left out."""
    return None if name is None else load(name)


def named(texts: list[str] | None, noun: str, value: str, what: str) -> dict[str, str]:
    """The option --NOUN NAME=VALUE, repeated, by name; what: the value in words."""
    found = dict(text.partition("=")[::2] for text in texts or ())
    if not all(found.values()):
        raise BadInput(f"--{noun} takes NAME={value}: what to call the {noun}, and its {what}.")
    return found


def typed() -> str:
    """The command as it was typed, without folders, which are the reader's own."""

    def short(word: str) -> str:
        name, equals, path = word.rpartition("=")
        return name + equals + Path(path).name if "/" in path and " " not in path else word

    return "stylemed " + shlex.join(short(word) for word in sys.argv[1:])


def complain(message: str) -> None:
    """One line on standard error, by which it is known who speaks."""
    print(f"stylemed: {message}", file=sys.stderr)


def fail(message: str, code: int) -> None:
    complain(message)
    raise SystemExit(code)


def changes_of(given: list[str] | None) -> dict:
    """NAME=VALUE, values as YAML reads them."""
    import yaml

    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--set {text}: write NAME=VALUE, such as r1_gamma=0.5.")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadInput(f"--set {text}: the value cannot be read as YAML.") from None
        try:
            read = float(read) if isinstance(read, str) else read  # YAML takes 1e-3 for a word
        except ValueError:
            pass
        found[name.strip()] = read
    return found
