"""The command line: thin, and quick to answer. Everything heavy is imported inside the commands.

Exit codes: 0 done, 1 a chapter failed or a number left its tolerance, 2 bad input or usage,
3 finished but some cases were left out, 130 stopped from the keyboard.
"""

from __future__ import annotations

from typing import Annotated

import typer

from stylemed import __version__
from stylemed.cli.book import book
from stylemed.cli.data import download, inspect, phantom, prepare
from stylemed.cli.latent import direction, encode, generate, invert, label, mix, sample, survive
from stylemed.cli.options import fail
from stylemed.cli.study import study
from stylemed.cli.training import freeze, judge, release, train
from stylemed.errors import BadInput

app = typer.Typer(
    name="stylemed",
    help="StyleGAN and an encoder on CT slices: from LiTS volumes to style mixing and the tumor direction.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
of_latents = (encode, invert, survive, sample, mix, label, direction, generate)
for command in (phantom, download, prepare, inspect, judge, freeze, release, *of_latents):
    app.command()(command)
app.add_typer(train, name="train")
app.add_typer(study, name="study")
app.add_typer(book, name="book")


def main() -> None:
    """Entry point: every mistake of the user is one sentence on standard error."""
    try:
        app()
    except BadInput as error:
        fail(str(error), 2)
    except SystemExit as stop:
        if stop.code == 130:
            fail("stopped from the keyboard; nothing half-written is left where a result is expected.", 130)
        raise


def _version(value: bool) -> None:
    if value:
        print(f"stylemed {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """StyleGAN and an encoder on CT slices: from LiTS volumes to style mixing and the tumor direction."""
