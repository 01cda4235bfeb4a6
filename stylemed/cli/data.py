"""Commands about data: phantom, download, prepare, inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylemed.cli.options import Seed, complain


def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write volumes, segmentations, volumes.csv and truth.csv to.")],
    patients: Annotated[int, typer.Option(help="Patients of the split train.", min=0)] = 11,
    judge_patients: Annotated[int, typer.Option(help="Patients of the split judge.", min=0)] = 0,
    test_patients: Annotated[int, typer.Option(help="Patients of the split test.", min=0)] = 0,
    size: Annotated[int, typer.Option(help="Side of a slice in pixels, 32 to 512.")] = 128,
    slices: Annotated[
        int | None, typer.Option(help="Slices per patient. Default: 42 to 58, by patient.", show_default=False)
    ] = None,
    phase: Annotated[str, typer.Option(help="Contrast phase: none, arterial, portal or mixed.")] = "portal",
    mr: Annotated[bool, typer.Option("--mr", help="Look at each patient with an MR-like modality too.")] = False,
    twins: Annotated[
        bool, typer.Option("--twins", help="Write every patient with tumors a second time without them.")
    ] = False,
    tumor_free: Annotated[float, typer.Option(help="Share of patients without tumors, 0 to 1.")] = 0.1,
    workers: Annotated[int, typer.Option(help="Processes, one patient each.", min=1)] = 2,
    seed: Seed = 0,
) -> None:
    """Write synthetic patients as LiTS pairs whose truth is on record."""
    from stylemed.phantom.patients import make_phantom

    folder = make_phantom(
        out,
        patients=patients,
        judge_patients=judge_patients,
        test_patients=test_patients,
        size=size,
        slices=slices,
        phase=phase,
        mr=mr,
        twins=twins,
        tumor_free=tumor_free,
        workers=workers,
        seed=seed,
    )
    print(f"{patients + judge_patients + test_patients} patients in {folder}")


def download(
    name: Annotated[str, typer.Argument(help="msd-liver.")],
    out: Annotated[Path, typer.Option(help="Folder to unpack it below.")] = Path("data"),
    url: Annotated[
        str | None, typer.Option(help="Another server's address of the archive.", show_default=False)
    ] = None,
    md5: Annotated[str | None, typer.Option(help="The archive's checksum.", show_default=False)] = None,
) -> None:
    """Fetch a public data set: the liver CT of the Medical Segmentation Decathlon, which is LiTS (27 GB)."""
    from stylemed.data.download import download as fetch

    print(f"{fetch(name, out, url, md5)} is ready for stylemed prepare")


def prepare(
    source: Annotated[Path, typer.Argument(help="Folder in the layout of LiTS or of the Decathlon, or a CSV table.")],
    out: Annotated[Path, typer.Option(help="Folder of the slice store to write.")],
    resolution: Annotated[int, typer.Option(help="Side of a stored slice in pixels, a power of two.")] = 64,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LO HI",
            help="HU interval mapped to [-1, 1], of CT where there is MR too. Default: -100 250, cut to what all inputs hold.",
            show_default=False,
        ),
    ] = None,
    mm: Annotated[
        float | None,
        typer.Option(help="Millimetres per pixel, about the middle. Default: the whole image.", show_default=False),
    ] = None,
    frame: Annotated[
        str,
        typer.Option(help="What becomes the image: image (all of it) or body (a square around it, one for each case)."),
    ] = "image",
    clip: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LO HI",
            help="Cut CT intensities down to these first, as if the files held no more (the public 8-bit copies: 0 255).",
            show_default=False,
        ),
    ] = None,
    include: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="Only volumes whose file name matches; several patterns are separated by commas.",
            show_default=False,
        ),
    ] = None,
    exclude: Annotated[
        str | None, typer.Option(metavar="GLOB", help="No volumes whose file name matches.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that read volumes.", min=1)] = 2,
    seed: Seed = 0,
) -> None:
    """Turn LiTS volumes into a store of slices that hold liver."""
    from stylemed.data.preparing import prepare as prepare_store

    report = prepare_store(
        source,
        out,
        resolution,
        window=window,
        mm=mm,
        frame=frame,
        clip=clip,
        include=include,
        exclude=exclude,
        workers=workers,
        seed=seed,
    )
    if report.table is not None:
        print(report.table)
    if report.left_out:
        for case, why in report.left_out.items():
            complain(f"left out {case}: {why}")
        raise typer.Exit(3)


def inspect(
    store: Annotated[Path, typer.Argument(help="Folder of a slice store.")],
    out: Annotated[
        Path | None, typer.Option(help="PNG of a contact sheet and of the intensities.", show_default=False)
    ] = None,
) -> None:
    """Say what a slice store holds: patients, slices and labels by split, and what was odd about the files."""
    from stylemed.data.store import SliceStore

    opened = SliceStore.open(store)
    print(opened.describe())
    if out is not None:
        from stylemed.display.inspection import save_inspection

        print(f"contact sheet and histogram: {save_inspection(opened, out)}")
