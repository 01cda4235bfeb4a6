"""The commands below `stylemed book`; make calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylemed.cli.options import fail
from stylemed.errors import BadInput

book = typer.Typer(help="Run the chapters, build the book, compare its numbers.", no_args_is_help=True)
ProfileName = Annotated[str, typer.Option(help="Size of the run: smoke, cpu, colab or gpu.")]
Data = Annotated[
    str,
    typer.Option(
        metavar="FOLDER",
        help="Volumes of your own, in the layout of LiTS: a book and models of them, in a folder of its own.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Also what is up to date.")]


@book.command("run")
def book_run(
    chapters: Annotated[
        list[str] | None,
        typer.Argument(help="Chapters by number or name. Default: all, in order.", show_default=False),
    ] = None,
    profile: ProfileName = "cpu",
    force: Force = False,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Trainings cut to almost nothing, in a folder of its own: does every cell run?"
        ),
    ] = False,
    data: Data = "",
) -> None:
    """Execute with papermill the chapters that are out of date. What is decides `stylemed.book.staleness`."""
    from stylemed.book.execution import (
        ChapterFailed,
        chapter_names,
        checkout,
        find_chapter,
        read_profile,
        relative,
        run_stale,
    )
    from stylemed.book.own_data import own_book, write_card
    from stylemed.book.rehearsal import rehearse as rehearse_profile

    if rehearse and data:
        raise BadInput("A rehearsal has made-up volumes of its own; leave out --data or --rehearse.")
    try:
        if rehearse:
            rehearse_profile(profile, chapters)
            return
        root = checkout()
        settings, build = (
            own_book(profile, data, root) if data else (read_profile(profile, root), root / "_build" / profile)
        )
        names = [find_chapter(name, root) for name in chapters] if chapters else chapter_names(root)
        done = run_stale(settings, build, names, root=root, force=force)
    except ChapterFailed as error:
        fail(str(error), 1)
    if done:
        print(f"== executed: {' '.join(done)}")
    elif chapters:
        print(f"== nothing was out of date: re-used {' '.join(names)}")
    else:
        print(f"== nothing was out of date: all {len(names)} chapters were re-used")
    if data and all((build / "runs" / f"{name}.json").is_file() for name in chapter_names(root)):
        print(f"== model card: {relative(write_card(settings, build), root)}")


@book.command("html")
def book_html(profile: ProfileName = "cpu", force: Force = False, data: Data = "") -> None:
    """Build the HTML from the executed chapters where it is out of date, warnings as errors; say which page to open."""
    from stylemed.book.own_data import own_book
    from stylemed.book.publishing import BuildFailed, html

    own, build = own_book(profile, data) if data else (None, None)
    try:
        print(f"== open {html(profile, build=build, profile=own, force=force)}")
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
    moving: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Instead: the intro's moving slices, drawn by this generator, such as phantom-64.",
            show_default=False,
        ),
    ] = None,
    edits: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Instead: slices of a released model, and the same with a tumor, such as phantom-64.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="PNG to write, or folder for what moves. Default: those of the intro.", show_default=False),
    ] = None,
) -> None:
    """Draw the intro's pictures anew: the way of a slice, of what a profile's chapters left; what moves; or edits."""
    from stylemed.book.execution import checkout
    from stylemed.chapters import build_folder, networks
    from stylemed.data.store import SliceStore
    from stylemed.display.path import path_figure
    from stylemed.training.run import load_encoder, load_generator

    if moving is not None:
        _draw_moving(moving, out or checkout() / "book" / "_static" / "walk")
        return
    if edits is not None:
        _draw_edits(edits, out or checkout() / "book" / "_static" / "guided.png")
        return
    made = build_folder(profile) / "artifacts"
    out = out or checkout() / "book" / "_static" / "path.png"
    gan, encoder = networks(made)
    loaded = load_generator(gan)[0], load_encoder(encoder)[0]
    out.write_bytes(path_figure(SliceStore.open(made / "store"), *loaded).png())
    print(f"written to {out}")


def _draw_edits(name: str, file: Path) -> None:
    """The first slices without tumor that a released model draws, and what `latent.guided_edit` made of them."""
    from stylemed import pretrained
    from stylemed.data.store import Window
    from stylemed.display.figures import reconstruction_figure
    from stylemed.display.landing import with_tumors

    bundle = pretrained.load(name)
    window = Window(*bundle.generator.provenance.window)
    before, after = with_tumors(bundle.generator, bundle.labeller, window.per_unit)
    file.write_bytes(reconstruction_figure(before, after, window, names=("as drawn", "with a tumor")).png())
    print(f"written to {file}")


def _draw_moving(generator: str, folder: Path) -> None:
    """NAME.webp moves and NAME.png, its second stop, does not, for each of `display.landing.round_trips`."""
    from stylemed import pretrained
    from stylemed.display.landing import FRAMES, round_trips
    from stylemed.display.pixels import animation, png

    folder.mkdir(parents=True, exist_ok=True)
    for name, images in round_trips(pretrained.generator(generator)[0]).items():
        (folder / f"{name}.webp").write_bytes(animation(images))
        (folder / f"{name}.png").write_bytes(png(images[FRAMES], size=images.shape[-1], sides=False))
    print(f"written to {folder}")
