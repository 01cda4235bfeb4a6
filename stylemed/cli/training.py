"""Commands that train: gan, encoder, judge, labeller; and judge, which says how wrong a reader is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stylemed.cli.options import Changes, Device, Minutes, Seed, changes_of, given, named, typed
from stylemed.errors import BadInput

train = typer.Typer(help="Train the generator, then the encoder. The same line resumes.", no_args_is_help=True)


@train.command("gan")
def train_gan_command(
    store: Annotated[
        Path, typer.Option(help="Slice store; only its split train is learned from, distances are taken from test too.")
    ],
    run: Annotated[Path, typer.Option(help="Run folder; made if needed, gone on with if it is there.")],
    preset: Annotated[str, typer.Option(help="smoke, phantom-32, phantom-64, ct-64, ct-128, paper.")],
    kimg: Annotated[float, typer.Option(help="Images to show in all, in thousands.")],
    max_minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = None,
    change: Changes = None,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Begin from another run's weights, without its optimizer.", show_default=False
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(help="Inception v3 weights, for one more distance in distances.csv.", show_default=False),
    ] = None,
    labeller: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Run folder or .safetensors of a labeller: it outlines livers and tumors of the images for distances.csv.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train the StyleGAN on a store. Several GPUs: torchrun --nproc-per-node N -m stylemed train gan ..."""
    from stylemed import pretrained
    from stylemed.data.store import SliceDataset, SliceStore
    from stylemed.evaluation import Distances, read_distances, verdict
    from stylemed.training.gan import config_for, train_gan

    dataset = SliceDataset(SliceStore.open(store), split="train")
    config = config_for(dataset, preset, changes_of(change))  # a mistake there is told before anything large is loaded
    first = os.environ.get("RANK", "0") == "0"  # of several processes only this one measures
    measure = None
    if first:
        reader = given(pretrained.labeller, labeller)
        measure = Distances.of_store(dataset, inception=inception, reader=reader)
    done = train_gan(
        dataset,
        run,
        config,
        kimg=kimg,
        max_minutes=max_minutes,
        seed=seed,
        device=device,
        on_snapshot=measure,
        warm_start=given(pretrained.folder, warm_start),
    )
    if first:
        _trained(done)
        if (done.path / "distances.csv").is_file() and (said := verdict(read_distances(done.path))):
            print(said)


@train.command("encoder")
def train_encoder_command(
    generator: Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of the generator.")],
    run: Annotated[Path, typer.Option(help="Run folder; made if needed, gone on with if it is there.")],
    store: Annotated[
        Path | None,
        typer.Option(
            help="Slice store to watch reconstructions on; trained on only with real_share.", show_default=False
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="smoke, phantom-64, ct-64, ct-128, paper.")] = "phantom-64",
    kimg: Annotated[float, typer.Option(help="Generated images to show in all, in thousands.")] = 20.0,
    max_minutes: Minutes = None,
    seed: Seed = 0,
    change: Changes = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the ResNet: a file, or imagenet to download them. Default: random.",
            show_default=False,
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Train the encoder on images that the generator makes."""
    from stylemed import pretrained
    from stylemed.data.store import SliceDataset, SliceStore
    from stylemed.training.encoder import train_encoder

    dataset = SliceDataset(SliceStore.open(store), split="train") if store else None
    done = train_encoder(
        pretrained.folder(generator),
        run,
        preset,
        dataset=dataset,
        kimg=kimg,
        max_minutes=max_minutes,
        seed=seed,
        weights=weights,
        device=device,
        **changes_of(change),
    )
    _trained(done)


@train.command("judge")
def train_judge_command(
    store: Annotated[Path, typer.Option(help="Slice store; only its split judge is read.")],
    run: Annotated[Path, typer.Option(help="Run folder; made if needed, gone on with if it is there.")],
    kimg: Annotated[float, typer.Option(help="Slices to show in all, in thousands.")] = 60.0,
    trunk: Annotated[
        str, typer.Option(help="Its architecture: unet, or residual for a second judge of another one.")
    ] = "unet",
    max_minutes: Minutes = None,
    seed: Seed = 0,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate over the patients whose tumors are known, of every split.", min=2)
    ] = None,
    device: Device = None,
) -> None:
    """Train the judge: a reader of slices that has no part in generating them."""
    from stylemed.data.store import SliceStore
    from stylemed.evaluation.judge import cross_validate
    from stylemed.training.reader import train_judge

    settings = dict(kimg=kimg, trunk=trunk, max_minutes=max_minutes, seed=seed, device=device)
    if folds is None:
        _trained(train_judge(SliceStore.open(store), run, **settings))
    else:
        print(cross_validate(SliceStore.open(store), run, folds, **settings).round(3).to_string(index=False))


@train.command("labeller")
def train_labeller_command(
    store: Annotated[Path, typer.Option(help="Slice store; only its split train is read.")],
    run: Annotated[Path, typer.Option(help="Run folder; made if needed, gone on with if it is there.")],
    kimg: Annotated[float, typer.Option(help="Slices to show in all, in thousands.")] = 60.0,
    max_minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train the labeller: a reader of slices that may take part in generating them, and does not measure."""
    from stylemed.data.store import SliceStore
    from stylemed.training.reader import train_labeller

    done = train_labeller(SliceStore.open(store), run, kimg=kimg, max_minutes=max_minutes, seed=seed, device=device)
    _trained(done)


def _trained(run) -> None:
    log, samples = run.log(), run.samples()
    seen = f"{log['kimg'].iloc[-1]:.2f} thousand images" if len(log) else "no image yet"
    print(f"{run.path}: {seen}" + (f"; last sample grid {samples[-1]}" if samples else ""))


def judge(
    store: Annotated[Path, typer.Argument(help="Slice store.")],
    judge: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run folder or .safetensors of the judge.", show_default=False)
    ] = None,
    labeller: Annotated[
        str | None, typer.Option(metavar="RUN", help="Instead: of a labeller, to measure it.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Split to measure its own errors on.")] = "test",
    seen: Annotated[bool, typer.Option("--seen", help="Ask even about patients it has learned from.")] = False,
) -> None:
    """Say how wrong the judge (or a labeller) is, factor by factor, on patients it has never seen."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.evaluation.judge import errors

    if (judge is None) == (labeller is None):
        raise BadInput("stylemed judge needs --judge RUN or --labeller RUN, one of them.")
    reader = pretrained.labeller(labeller) if judge is None else pretrained.judge(judge)
    table = errors(reader, SliceStore.open(store), split, seen=seen)
    print(table.round(3).to_string(index=False))


def freeze(
    run: Annotated[Path, typer.Argument(help="Run folder of a training.")],
    out: Annotated[Path, typer.Option(help="Folder for its networks.")],
    storage: Annotated[
        str | None,
        typer.Option(
            help="float32, float16 or int8. Default: int8 for an encoder and a discriminator, float16 for others.",
            show_default=False,
        ),
    ] = None,
    before: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="Run it began from, for the strip; oldest first if several.", show_default=False
        ),
    ] = None,
) -> None:
    """Round the networks of a run once, for others to build on: what is read later is what everything was made from."""
    from stylemed.networks.packing import STORAGES
    from stylemed.pretrained.freezing import freeze

    if storage is not None and storage not in STORAGES:
        raise BadInput(f"--storage {storage}: choose {', '.join(STORAGES)}.")
    print(freeze(run, out, storage, before or ()).round(4).to_string(index=False))


def release(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the model; its name is that of the model.")],
    generator: Annotated[Path, typer.Option(metavar="FOLDER", help="Frozen generator and discriminator.")],
    data: Annotated[str, typer.Option(help="What it learned from, in one line, for the card.")],
    licence: Annotated[str, typer.Option(help="Of the weights, in one line, for the card.")],
    encoder: Annotated[Path | None, typer.Option(metavar="FOLDER", show_default=False)] = None,
    labeller: Annotated[Path | None, typer.Option(metavar="FOLDER", show_default=False)] = None,
    judge: Annotated[Path | None, typer.Option(metavar="FOLDER", show_default=False)] = None,
    codes: Annotated[Path | None, typer.Option(help="Codes of the training slices.", show_default=False)] = None,
    direction: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Repeat for several.", show_default=False)
    ] = None,
    hours: Annotated[float | None, typer.Option(help="Of training, for the card.", show_default=False)] = None,
) -> None:
    """Put what was made from one generator into one folder, with checksums and a card; `stylemed.load` reads it."""
    from stylemed.pretrained.bundles import release

    directions = named(direction, "direction", "FILE", "file")
    parts = {"generator": generator, "encoder": encoder, "labeller": labeller, "judge": judge}
    parts = {name: path for name, path in parts.items() if path is not None}
    about = dict(data=data, licence=licence, hours=hours, command=typed())
    print(release(out, parts, codes=codes, directions=directions, **about).card)
