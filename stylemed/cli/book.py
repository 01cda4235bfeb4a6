"""The commands below `stylemed book`; the same as what make calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylemed.cli.options import fail

book = typer.Typer(help="Run the chapters, build the book, compare its numbers.", no_args_is_help=True)
ProfileName = Annotated[str, typer.Option(help="Size of the run: smoke, cpu, colab or gpu.")]


@book.command("run")
def book_run(
    chapters: Annotated[
        list[str] | None,
        typer.Argument(help="Chapters by number or name. Default: all, in order.", show_default=False),
    ] = None,
    profile: ProfileName = "cpu",
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Trainings cut to almost nothing, in a folder of its own: does every cell run?"
        ),
    ] = False,
) -> None:
    """Execute chapters with papermill. `make book` does so only for what is out of date."""
    from stylemed.book.execution import ChapterFailed, chapter_names, checkout, find_chapter, read_profile, run_chapter
    from stylemed.book.rehearsal import rehearse as rehearse_profile

    if rehearse:
        try:
            rehearse_profile(profile, chapters)
        except ChapterFailed as error:
            fail(str(error), 1)
        return
    root = checkout()
    settings = read_profile(profile, root)
    names = [find_chapter(name, root) for name in chapters] if chapters else chapter_names(root)
    try:
        for name in names:
            run_chapter(name, settings, root / "_build" / profile, root=root)
    except ChapterFailed as error:
        fail(str(error), 1)


@book.command("html")
def book_html(profile: ProfileName = "cpu") -> None:
    """Build the HTML from the executed chapters, warnings as errors."""
    from stylemed.book.publishing import BuildFailed, html

    try:
        print(f"open {html(profile)}")
    except BuildFailed as error:
        fail(str(error), 1)


@book.command("check")
def book_check(
    profile: ProfileName = "cpu",
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Execute all chapters anew, or compare what was executed last.")
    ] = True,
) -> None:
    """The regression run: the chapters' numbers against the profile's baseline, tightly on the same kind of machine."""
    from stylemed.book.execution import ChapterFailed
    from stylemed.book.regression import check

    try:
        differences = check(profile, run=run)
    except ChapterFailed as error:
        fail(str(error), 1)
    if differences:
        raise typer.Exit(1)


@book.command("accept")
def book_accept(
    profile: ProfileName,
    seeds: Annotated[int, typer.Option(help="Runs with different seeds; tolerances come from their spread.")] = 3,
) -> None:
    """Make the chapters' present numbers the baseline, and print old -> new. Needs a clean git tree."""
    from stylemed.book.execution import ChapterFailed
    from stylemed.book.regression import accept

    try:
        accept(profile, seeds)
    except ChapterFailed as error:
        fail(str(error), 1)


@book.command("picture")
def book_picture(
    profile: ProfileName = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="PNG to write. Default: the intro's own file.", show_default=False)
    ] = None,
) -> None:
    """Draw the intro's picture anew, with the slices and the networks of a profile's chapters; they must have run."""
    from stylemed.book.execution import checkout
    from stylemed.chapters import build_folder
    from stylemed.data.store import SliceStore
    from stylemed.display.path import path_figure
    from stylemed.training.run import load_encoder, load_generator

    made = build_folder(profile) / "artifacts"
    out = out or checkout() / "book" / "_static" / "path.png"
    networks = load_generator(made / "gan")[0], load_encoder(made / "encoder")[0]
    out.write_bytes(path_figure(SliceStore.open(made / "store"), *networks).png())
    print(f"written to {out}")
