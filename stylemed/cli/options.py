"""What commands of several groups take, and how they end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Minutes = Annotated[float | None, typer.Option(help="Stop after so many minutes; the same line goes on.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N. Default: a GPU if there is one.", show_default=False)
]
Network = Annotated[str, typer.Argument(metavar="GENERATOR", help="Run folder or .safetensors of the generator.")]
Picture = Annotated[Path, typer.Option("--out", help="PNG or PDF file to write.")]
Psi = Annotated[
    float, typer.Option(help="Truncation of random styles: 1 none, 0 the mean image (no unit).", min=0.0, max=1.0)
]


def complain(message: str) -> None:
    """One line on standard error, by which it is known who speaks."""
    print(f"stylemed: {message}", file=sys.stderr)


def fail(message: str, code: int) -> None:
    complain(message)
    raise SystemExit(code)
