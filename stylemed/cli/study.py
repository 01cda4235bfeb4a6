"""Studies: long measurements, each writes one JSON that chapters read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from stylemed.cli.options import (
    Changes,
    Count,
    Directions,
    Drawn,
    MaybeJudge,
    OfEncoder,
    OfGenerator,
    Psi,
    Result,
    Seed,
    Split,
    Steps,
    Store,
    changes_of,
    given,
    named,
    rows_of,
    typed,
)
from stylemed.errors import BadInput

study = typer.Typer(help="Long measurements; each writes one JSON that chapters read.", no_args_is_help=True)


@study.command("draws")
def draws_command(
    store: Store,
    generator: OfGenerator,
    out: Result,
    judge: MaybeJudge = None,
    count: Annotated[int, typer.Option(help="Images whose nearest training slice is looked for.", min=10)] = 1000,
    samples: Annotated[int, typer.Option(help="Images that the judge reads.", min=10)] = 5000,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for slices.png and pairs.png, to look at.", show_default=False)
    ] = None,
    seed: Seed = 0,
) -> None:
    """What a generator draws: how common and how large its tumors are, and how near its images come to training slices."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.draws import run, write_pictures

    opened, asked = SliceStore.open(store), given(pretrained.judge, judge)
    found, shown = run(opened, pretrained.generator(generator)[0], asked, count=count, samples=samples, seed=seed)
    _write(found, out)
    if pictures is not None:
        print("to look at:", *write_pictures(pictures, shown, opened.windows["CT"]))


@study.command("reconstruction")
def reconstruction_command(
    store: Store,
    generator: OfGenerator,
    encoder: OfEncoder,
    out: Result,
    work: Annotated[Path, typer.Option(help="Folder that keeps the descents, so that the same line goes on.")],
    judge: MaybeJudge = None,
    split: Split = "test",
    count: Count = None,
    drawn: Drawn = 1000,
    few: Annotated[int, typer.Option(help="Steps of descent after the encoder.", min=0)] = 50,
    many: Annotated[int, typer.Option(help="Steps of descent from the mean w.", min=0)] = 1000,
    seed: Seed = 0,
) -> None:
    """What comes back from latent space: known latents, slices, their tumors; by encoder, by descent, by both."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.reconstruction import run

    opened = SliceStore.open(store)
    found = run(
        opened,
        pretrained.generator(generator)[0],
        pretrained.encoder(encoder)[0],
        given(pretrained.judge, judge),
        rows=rows_of(opened, split, count),
        drawn=drawn,
        few=few,
        many=many,
        work=work,
        seed=seed,
    )
    _write(found, out)


@study.command("classifier")
def classifier_command(
    store: Store,
    generator: OfGenerator,
    encoder: OfEncoder,
    out: Result,
    label: Annotated[str, typer.Option(help="tumor, or a column of slices.csv that holds 0 and 1.")] = "tumor",
    steps: Steps = 0,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation, by patient.", min=2)] = 5,
    permutations: Annotated[int, typer.Option(help="Directions of permuted labels.", min=0)] = 20,
    seed: Seed = 0,
) -> None:
    """How well a class is told in latent space in unseen patients, where few are labelled; and what tells it as well."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.classifier import run

    networks = pretrained.generator(generator)[0], pretrained.encoder(encoder)[0]
    options = dict(steps=steps, folds=folds, permutations=permutations, seed=seed)
    _write(run(SliceStore.open(store), *networks, label, **options), out)


@study.command("factors")
def factors_command(
    store: Store,
    generator: OfGenerator,
    encoder: Annotated[
        list[str], typer.Option(metavar="NAME=RUN", help="An encoder and what to call it; repeat for several.")
    ],
    judge: Annotated[str, typer.Option(metavar="RUN", help="Judge that tells the factors of generated images.")],
    out: Result,
    truth: Annotated[
        Path | None, typer.Option(help="truth.csv of the phantom that the store was made from.", show_default=False)
    ] = None,
    split: Split = "test",
    count: Count = None,
    drawn: Annotated[int, typer.Option(help="Generated images.", min=20)] = 3000,
    seed: Seed = 0,
) -> None:
    """How well linear classifiers tell tumor, modality, height, fat and more in z, in w and in encoded w."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.factors import run

    encoders = named(encoder, "encoder", "RUN", "run folder")
    opened = SliceStore.open(store)
    found = run(
        opened,
        pretrained.generator(generator)[0],
        {name: pretrained.encoder(path)[0] for name, path in encoders.items()},
        pretrained.judge(judge),
        truth=truth,
        rows=rows_of(opened, split, count),
        drawn=drawn,
        seed=seed,
    )
    _write(found, out)


@study.command("losses")
def losses_command(
    store: Store,
    generator: Annotated[str, typer.Option(metavar="RUN", help="Run folder of the generator and its discriminator.")],
    out: Result,
    work: Annotated[Path, typer.Option(help="Folder that keeps the encoders' runs, so that the same line goes on.")],
    judge: MaybeJudge = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="A variant; repeat for several. Default: all.", show_default=False)
    ] = None,
    preset: Annotated[str, typer.Option(help="Of the encoder.")] = "phantom-64",
    change: Changes = None,
    minutes: Annotated[float, typer.Option(help="Of training, for each.", min=0)] = 20.0,
    split: Split = "test",
    count: Count = None,
    drawn: Drawn = 1000,
    seed: Seed = 0,
) -> None:
    """The same encoder, asked for latents, images, features and slices in turn, for equal time each."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.losses import VARIANTS, run

    opened = SliceStore.open(store)
    found = run(
        opened,
        pretrained.folder(generator),
        given(pretrained.judge, judge),
        variants=tuple(variant or VARIANTS),
        preset=preset,
        changes=changes_of(change),
        minutes=minutes,
        rows=rows_of(opened, split, count),
        drawn=drawn,
        work=work,
        seed=seed,
    )
    _write(found, out)


@study.command("attribution")
def attribution_command(
    generator: OfGenerator,
    judge: Annotated[str, typer.Option(metavar="RUN", help="Judge that reads the factors of images.")],
    out: Result,
    pairs: Annotated[int, typer.Option(help="Pairs of random styles.", min=2)] = 500,
    seed: Seed = 0,
) -> None:
    """Which level decides what: how far tumor, liver, body, modality and more follow the source of its styles."""
    from stylemed import pretrained
    from stylemed.studies.attribution import run

    _write(run(pretrained.generator(generator)[0], pretrained.judge(judge), pairs=pairs, seed=seed), out)


@study.command("translation")
def translation_command(
    store: Annotated[Path, typer.Argument(help="Slice store of a phantom that was made with --mr.")],
    generator: OfGenerator,
    encoder: OfEncoder,
    judge: Annotated[str, typer.Option(metavar="RUN", help="Judge that outlines livers and tells the modality.")],
    out: Result,
    level: Annotated[
        list[str] | None,
        typer.Option(
            help="Styles that come from the target: coarse, middle, fine, all or a resolution; repeat for several. "
            "Default: fine.",
            show_default=False,
        ),
    ] = None,
    split: Split = "test",
    count: Count = None,
    shown: Annotated[int, typer.Option(help="Slices of the target modality to learn its style from.", min=1)] = 1000,
    steps: Steps = 0,
    seed: Seed = 0,
) -> None:
    """CT to MR and back by fine styles: errors against the true slice, beside histogram matching and the nearest slice."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.translation import run

    opened = SliceStore.open(store)
    found = run(
        opened,
        pretrained.generator(generator)[0],
        pretrained.encoder(encoder)[0],
        pretrained.judge(judge),
        levels=tuple(level or ["fine"]),
        rows=rows_of(opened, split, count),
        shown=shown,
        steps=steps,
        seed=seed,
    )
    _write(found, out)


@study.command("edits")
def edits_command(
    store: Annotated[Path, typer.Argument(help="Slice store of a phantom that was made with --twins.")],
    generator: OfGenerator,
    encoder: OfEncoder,
    labeller: Annotated[str, typer.Option(metavar="RUN", help="Labeller that chooses where walks end, on train.")],
    judge: Annotated[str, typer.Option(metavar="RUN", help="Judge that measures, on test.")],
    out: Result,
    work: Annotated[Path, typer.Option(help="Folder that keeps what is done, so that the same line goes on.")],
    direction: Directions = None,
    guided: Annotated[
        int, typer.Option(help="Steps of an edit that the labeller guides for each slice; 0: none.", min=0)
    ] = 0,
    second_judge: Annotated[
        str | None, typer.Option(metavar="RUN", help="Another judge, measured beside the first.", show_default=False)
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(
            help="all, coarse, middle or fine; repeat for several. Default: each of them.", show_default=False
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Slices with and without tumor, at most.", min=1)] = 500,
    few: Annotated[int, typer.Option(help="Of them, for curves, random directions and the choice.", min=1)] = 100,
    randoms: Annotated[int, typer.Option("--random", help="Random directions of equal length.", min=0)] = 99,
    modality: Annotated[str, typer.Option(help="Modality of the slices.")] = "CT",
    steps: Steps = 0,
    seed: Seed = 0,
) -> None:
    """Adding and removing tumors by walks: how often a judge agrees, what else changes, and the error against twins."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.latent.mixing import LEVELS
    from stylemed.studies.edits import run

    found = run(
        SliceStore.open(store),
        pretrained.generator(generator)[0],
        pretrained.encoder(encoder)[0],
        pretrained.labeller(labeller),
        pretrained.judge(judge),
        _loaded(direction),
        second=given(pretrained.judge, second_judge),
        levels=tuple(level or ("all", *LEVELS)),
        count=count,
        few=few,
        randoms=randoms,
        modality=modality,
        steps=steps,
        guided=guided,
        work=work,
        seed=seed,
    )
    _write(found, out)


@study.command("classes")
def classes_command(
    store: Store,
    generator: OfGenerator,
    labeller: Annotated[str, typer.Option(metavar="RUN", help="Labeller that accepts and outlines the images.")],
    judge: Annotated[str, typer.Option(metavar="RUN", help="Judge that measures.")],
    out: Result,
    direction: Directions = None,
    count: Annotated[int, typer.Option(help="Images by each way, half of them with tumor.", min=8)] = 500,
    guided: Annotated[int, typer.Option(help="Images that the labeller guides, each its own way; 0: none.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Of each guided edit.", min=1)] = 50,
    psi: Psi = 0.7,
    seed: Seed = 0,
) -> None:
    """Data sets with and without tumors by each way of making them: does a judge agree, and how much do they vary?"""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.classes import run

    found = run(
        SliceStore.open(store),
        pretrained.generator(generator)[0],
        pretrained.labeller(labeller),
        pretrained.judge(judge),
        _loaded(direction),
        count=count,
        guided=guided,
        steps=steps,
        psi=psi,
        seed=seed,
    )
    _write(found, out)


@study.command("augmentation")
def augmentation_command(
    store: Annotated[Path, typer.Argument(help="Slice store with patients of train and test.")],
    out: Result,
    work: Annotated[
        Path, typer.Option(help="Folder that keeps every classifier's answers, so that the same line goes on.")
    ],
    generator: Annotated[
        str | None, typer.Option(metavar="RUN", help="Of class-specific images.", show_default=False)
    ] = None,
    encoder: Annotated[str | None, typer.Option(metavar="RUN", help="Of this generator.", show_default=False)] = None,
    labeller: Annotated[
        str | None, typer.Option(metavar="RUN", help="Labeller of its images.", show_default=False)
    ] = None,
    direction: Annotated[str | None, typer.Option(metavar="FILE", help="Towards tumors.", show_default=False)] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL",
            help="All four from a released model, or from a folder of stylemed release; repeat for several.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="RUN", help="Judge whose errors are compared.", show_default=False)
    ] = None,
    patients: Annotated[int, typer.Option(help="Of train, the first so many by name.", min=2)] = 11,
    ratio: Annotated[float, typer.Option(help="Tumor-free slices for each with a tumor.", min=1.0)] = 5.0,
    curve: Annotated[
        list[int] | None,
        typer.Option(
            help="Patients that real slices alone are measured with; repeat. Default: 4, 11, 30, 60.",
            show_default=False,
        ),
    ] = None,
    arm: Annotated[list[str] | None, typer.Option(help="An arm; repeat. Default: all.", show_default=False)] = None,
    seeds: Annotated[int, typer.Option(help="Classifiers of each arm.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Gradient steps of each classifier.", min=1)] = 300,
    times: Annotated[float, typer.Option(help="Generated images of both classes for each real slice.", min=0.1)] = 2.0,
    blocks: Annotated[int, typer.Option(help="1: ResNet-10, 2: ResNet-18.", min=1)] = 1,
    modality: Annotated[str, typer.Option(help="Modality of the slices.")] = "CT",
    seed: Seed = 0,
) -> None:
    """Does it help? A classifier of few patients, with generated images and with what costs less: AUC, sensitivity, patients."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.augmentation import ARMS, Pipeline, run

    parts, pipelines = (generator, encoder, labeller, direction), {}
    if any(parts):
        if not all(parts):
            raise BadInput(
                "A pipeline needs --generator, --encoder, --labeller and --direction; give all four or none."
            )
        networks = pretrained.generator(generator)[0], pretrained.encoder(encoder)[0]
        pipelines["given"] = Pipeline(*networks, pretrained.labeller(labeller), pretrained.direction(direction))
    bundles = named(pipeline, "pipeline", "MODEL", "released model or folder")
    pipelines |= {name: Pipeline.of(pretrained.load(model)) for name, model in bundles.items()}
    found = run(
        SliceStore.open(store),
        pipelines,
        given(pretrained.judge, judge),
        patients=patients,
        ratio=ratio,
        curve=tuple(curve or (4, 11, 30, 60)),
        arms=tuple(arm or ARMS),
        seeds=seeds,
        steps=steps,
        times=times,
        blocks=blocks,
        modality=modality,
        work=work,
        seed=seed,
    )
    _write(found, out)


@study.command("channels")
def channels_command(
    store: Store,
    generator: OfGenerator,
    encoder: Annotated[str, typer.Option(metavar="RUN", help="Of this generator.")],
    labeller: Annotated[str, typer.Option(metavar="RUN", help="Labeller that ranks and chooses, on samples.")],
    judge: Annotated[str, typer.Option(metavar="RUN", help="Judge that measures, on test.")],
    out: Result,
    work: Annotated[Path, typer.Option(help="Folder that keeps what is done, so that the same line goes on.")],
    drawn: Annotated[int, typer.Option(help="Samples that channels are ranked on.", min=1)] = 12,
    count: Annotated[int, typer.Option(help="Slices with and without tumor, at most.", min=1)] = 60,
    steps: Annotated[int, typer.Option(help="Of descent from the encoder's answers.", min=0)] = 200,
    modality: Annotated[str, typer.Option(help="Modality of the slices.")] = "CT",
    seed: Seed = 0,
) -> None:
    """Does one style channel add or remove tumors? Ranked by the labeller on samples, measured by the judge on test slices."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.channels import run

    networks = pretrained.generator(generator)[0], pretrained.encoder(encoder)[0]
    readers = pretrained.labeller(labeller), pretrained.judge(judge)
    how = dict(drawn=drawn, count=count, steps=steps, modality=modality, work=work, seed=seed)
    _write(run(SliceStore.open(store), *networks, *readers, **how), out)


@study.command("turns")
def turns_command(
    store: Annotated[Path, typer.Argument(help="Slice store with labelled patients, of any split.")],
    generator: Annotated[str, typer.Option(metavar="RUN", help="That has learned from none of them.")],
    encoder: Annotated[str, typer.Option(metavar="RUN", help="Of this generator.")],
    out: Result,
    work: Annotated[
        Path, typer.Option(help="Folder that keeps every classifier's answers, so that the same line goes on.")
    ],
    turns: Annotated[int, typer.Option(help="Parts that the patients are dealt into.", min=2)] = 5,
    arm: Annotated[list[str] | None, typer.Option(help="An arm; repeat. Default: all.", show_default=False)] = None,
    seeds: Annotated[int, typer.Option(help="Classifiers of each arm and turn.", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Gradient steps of each classifier.", min=1)] = 150,
    modality: Annotated[str, typer.Option(help="Modality of the slices.")] = "CT",
    seed: Seed = 0,
) -> None:
    """Does it help, where so few patients are labelled that each is measured by classifiers of the others: AUC of each arm."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.studies.turns import ARMS, run

    networks = pretrained.generator(generator)[0], pretrained.encoder(encoder)[0]
    how = dict(turns=turns, arms=tuple(arm or ARMS), seeds=seeds, steps=steps, modality=modality, seed=seed)
    _write(run(SliceStore.open(store), *networks, work=work, **how), out)


def _loaded(directions: list[str] | None) -> dict:
    """The directions of the option `--direction NAME=FILE`, by name."""
    from stylemed import pretrained

    return {name: pretrained.direction(path) for name, path in named(directions, "direction", "FILE", "file").items()}


def _write(found, out: Path) -> None:
    path = replace(found, command=typed()).save(out)
    for name, table in found.tables.items():
        print(f"{name}\n{table.round(3).to_string(index=False)}\n")
    print(f"written to {path}")
