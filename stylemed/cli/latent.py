"""Commands in latent space: encode, invert, survive, sample, mix, label, direction, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylemed.cli.options import (
    CodesFile,
    Count,
    Network,
    OfGenerator,
    Picture,
    Psi,
    Seed,
    Store,
    a_file,
    given,
    rows_of,
)
from stylemed.errors import BadInput
from stylemed.files import atomic


def encode(
    store: Store,
    encoder: Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of the encoder.")],
    out: CodesFile,
    split: Annotated[
        str | None, typer.Option(help="Only train, judge or test. Default: all.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(help="Slices at a time.", min=1)] = 32,
) -> None:
    """Encode the slices of a store: one style per layer for each."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.latent.codes import encode_store

    network, _ = pretrained.encoder(encoder)
    codes = encode_store(SliceStore.open(store), network, split=split, batch=batch)
    print(f"{len(codes)} slices encoded, written to {codes.save(out)}")


def invert(
    store: Store,
    generator: OfGenerator,
    out: CodesFile,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Begin at the answers of this encoder. Default: the mean w.", show_default=False
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, judge, test or all.")] = "test",
    count: Count = None,
    space: Annotated[str, typer.Option(help="w (one style for all layers) or w+ (one for each).")] = "w+",
    steps: Annotated[int, typer.Option(help="Steps of descent for each slice.", min=0)] = 1000,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Largest step, in standard deviations of w. Default: 0.05, and more for fewer than 1,000 steps.",
            min=0.0,
            show_default=False,
        ),
    ] = None,
    near: Annotated[float, typer.Option(help="Weight that holds w+ near W; 0 lets it go.", min=0.0)] = 0.0,
) -> None:
    """Find the style of each slice by descent: slow, and what an encoder is measured against. The same line goes on."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.latent.inversion import invert_store

    opened = SliceStore.open(store)
    begun = out.with_name(f"{out.name}.begun")  # what is done, until the whole is saved
    codes = invert_store(
        opened,
        _generator(generator)[0],
        rows_of(opened, split, count),
        encoder=None if encoder is None else pretrained.encoder(encoder)[0],
        split=None if split == "all" else split,
        partial=begun,
        space=space,
        steps=steps,
        rate=rate,
        near=near,
    )
    print(f"{len(codes)} slices inverted, written to {codes.save(out)}")
    begun.unlink(missing_ok=True)


def survive(
    store: Store,
    generator: OfGenerator,
    encoder: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run folder or .safetensors of the encoder.", show_default=False)
    ] = None,
    codes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Instead: codes of slices of this store, such as `stylemed invert` writes."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Judge that looks for the tumors. Default: errors only.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="With an encoder: train, judge, test or all.")] = "test",
    count: Count = None,
    seed: Seed = 0,
) -> None:
    """What is lost on the way through latent space: errors of reconstructions, and which tumors are still seen, by size."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.evaluation.judge import check_reader
    from stylemed.evaluation.reconstruction import by_patient, reconstruction_errors, survival
    from stylemed.latent.codes import encode_store
    from stylemed.latent.inversion import check_networks
    from stylemed.latent.mixing import synthesize
    from stylemed.provenance import refuse_seen

    if (encoder is None) == (codes is None):
        raise BadInput("Give --encoder or --codes, one of the two.")
    opened, network = SliceStore.open(store), _generator(generator)[0]
    if codes is None:
        its = pretrained.encoder(encoder)[0]
        check_networks(opened, network, its)
        rows = rows_of(opened, split, count)
        found = encode_store(opened, its, rows=rows)
    else:
        check_networks(opened, network)
        found = pretrained.codes(codes)
        if found.info.get("store") != str(opened.digest):
            raise BadInput(f"{codes} holds codes of another store than {store}; encode or invert its slices.")
        rows = found.table["row"].to_numpy()
    again = synthesize(network, found.w_plus)
    print(by_patient(reconstruction_errors(opened, rows, again), seed).round(3).to_string(index=False))
    if judge is not None:
        reader = pretrained.judge(judge)
        check_reader(reader, opened)
        refuse_seen({"judge": reader}, opened, rows)
        print()
        print(survival(reader, opened, rows, again, seed).round(3).to_string(index=False))


def sample(
    generator: Network,
    out: Picture,
    count: Annotated[int, typer.Option(help="Images.", min=1)] = 16,
    columns: Annotated[int, typer.Option(help="Images in a row.", min=1)] = 4,
    psi: Psi = 0.7,
    seed: Seed = 0,
) -> None:
    """Draw random images from a generator."""
    from stylemed.data.store import window_of
    from stylemed.display.figures import show_slices
    from stylemed.latent.generation import random_styles
    from stylemed.latent.mixing import synthesize

    network, metadata = _generator(generator)
    images = synthesize(network, random_styles(network, count, psi, seed))
    _save(show_slices(images, window=window_of(metadata), columns=columns), out)


def mix(
    generator: Network,
    out: Picture,
    codes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Codes to take the sources from. Default: random styles.", show_default=False
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Instead: slice store whose slices are the sources.", show_default=False)
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="RUN", help="With a store: encoder of the generator.", show_default=False)
    ] = None,
    source: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ROW",
            help="With a store: row of a slice; repeat, first all sources A, then all B. Default: by chance.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(
            help="coarse, middle, fine, or one resolution such as 8; repeat for several. Default: the three.",
            show_default=False,
        ),
    ] = None,
    weight: Annotated[float, typer.Option(help="How far styles go from A (0) to B (1).", min=0.0, max=1.0)] = 1.0,
    rows: Annotated[int, typer.Option(help="Sources B, down the side.", min=1)] = 2,
    columns: Annotated[int, typer.Option(help="Sources A, along the top.", min=1)] = 5,
    split: Annotated[
        str | None, typer.Option(help="With codes or a store: of this split. Default: all.", show_default=False)
    ] = None,
    psi: Psi = 0.7,
    seed: Seed = 0,
) -> None:
    """Draw figure 1 of the paper, for print: a level's styles from B, all others from A."""
    from stylemed import pretrained
    from stylemed.data.store import window_of
    from stylemed.display.figures import mixing_figure
    from stylemed.latent.generation import random_styles, some_codes
    from stylemed.latent.mixing import LEVELS, layers_of, mixing_grid, synthesize

    network, metadata = _generator(generator)
    for name in level or ():
        layers_of(name, network.num_layers)  # says what there is before anything is encoded
    if (codes is not None and store is not None) or (store is None) != (encoder is None):
        raise BadInput("Give --codes, or --store with --encoder, or none of them for random styles.")
    if source and (store is None or len(source) != rows + columns):
        raise BadInput(
            f"--source names rows of a --store, first the {columns} sources A, then the {rows} sources B; "
            f"{len(source)} were given."
        )
    if store is not None:
        styles = _encoded(store, encoder, network, source, split, rows + columns, seed)
    elif codes is not None:
        styles = some_codes(
            pretrained.codes(codes), rows + columns, network, split=split, seed=seed, names=(generator, codes)
        ).w_plus
    else:
        styles = random_styles(network, rows + columns, psi, seed)
    a, b = styles[:columns], styles[columns:]
    grids = {name: mixing_grid(network, a, b, name, weight) for name in (level or LEVELS)}
    images = synthesize(network, a), synthesize(network, b)
    _save(mixing_figure(*images, grids, window=window_of(metadata), paper=True, weight=weight), out)


def _encoded(store: Path, encoder: str, generator, rows, split: str | None, count: int, seed: int):
    """Codes of these rows of a store, or of `count` rows of a split, each of a patient of its own while there are some."""
    import numpy as np

    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.latent.codes import encode_store
    from stylemed.latent.inversion import check_networks

    opened, network = SliceStore.open(store), pretrained.encoder(encoder)[0]
    check_networks(opened, generator, network)
    if not rows:
        mixed = np.random.default_rng(seed).permutation(opened.some_rows(split))
        again = opened.slices["patient"].iloc[mixed].duplicated().to_numpy()
        rows = np.concatenate([mixed[~again], mixed[again]])[:count]
    outside = [row for row in rows if not 0 <= row < len(opened)]
    if outside or len(rows) < count:
        raise BadInput(f"{store} has rows 0 to {len(opened) - 1}, {count} are asked for; choose others, or fewer.")
    return encode_store(opened, network, rows=rows, progress=False).w_plus


def label(
    generator: Network,
    labeller: Annotated[str, typer.Option(metavar="RUN", help="Labeller that says what the images hold.")],
    out: CodesFile,
    count: Annotated[int, typer.Option(help="Images to label.", min=1)] = 20_000,
    label: Annotated[str, typer.Option(help="Class to match in: tumor, or a column that holds 0 and 1.")] = "tumor",
    match: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Images with and without it are made equal in this column; repeat for several. Default: liver_px and height.",
            show_default=False,
        ),
    ] = None,
    psi: Psi = 1.0,
    batch: Annotated[int, typer.Option(help="Images at a time.", min=1)] = 64,
    seed: Seed = 0,
) -> None:
    """Label generated images; keep codes of as many with a class as without, for `stylemed direction` with --split all."""
    from stylemed import pretrained
    from stylemed.latent.direction import labels_of
    from stylemed.latent.samples import MATCHED, label_samples, matched

    network, names = _generator(generator)[0], (generator, labeller)
    codes = label_samples(network, pretrained.labeller(labeller), count, psi=psi, seed=seed, batch=batch, names=names)
    y, by = labels_of(codes.table, label), tuple(match or MATCHED)
    kept = matched(codes, label, by, seed=seed)
    print(f"{len(codes)} images: {(y == 1).sum()} with {label}, {(y == 0).sum()} without, the others not sure")
    print(f"{len(kept)} of them, half with and half without, are alike in {', '.join(by)}; written to {kept.save(out)}")


def direction(
    codes: Annotated[str, typer.Argument(help="Codes, as `stylemed encode` or `stylemed label` write them.")],
    out: Annotated[Path, typer.Option(help="File to write the direction to (.safetensors).", callback=a_file)],
    label: Annotated[str, typer.Option(help="tumor, or a column of the codes that holds 0 and 1.")] = "tumor",
    split: Annotated[str, typer.Option(help="Split to find it on: train, judge, test or all.")] = "train",
    orthogonal_to: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Take out what rises with this column, such as z_mm; repeat for several."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation, by patient.", min=2)] = 5,
    generator: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="With --figure: generator that draws the walk.", show_default=False),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="PNG of walks along the direction (figure 2).", show_default=False)
    ] = None,
    seed: Seed = 0,
) -> None:
    """Find the direction of a class in W with a linear classifier, and say how well it separates new patients."""
    from stylemed import pretrained
    from stylemed.data.store import window_of
    from stylemed.latent.direction import find_direction, traverse
    from stylemed.latent.generation import some_codes

    if (figure is None) != (generator is None):
        raise BadInput("--figure and --generator belong together: give both or none.")
    encoded, chosen = pretrained.codes(codes), None if split == "all" else split
    if figure is not None:
        network, metadata = _generator(generator)
        walked = some_codes(encoded, 4, network, split=chosen, seed=seed, names=(generator, codes))
    found = find_direction(
        encoded,
        label,
        split=chosen,
        orthogonal_to=tuple(orthogonal_to or ()),
        folds=folds,
        seed=seed,
    )
    _print_auc("cross-validation by patient", found.cv)
    if found.test:
        _print_auc("test patients", found.test)
    print(f"a step adds {found.log_odds:.2f} to the log odds of {label}")
    print(f"written to {found.save(out)}")
    if figure is not None:
        from stylemed.display.figures import traversal_figure

        steps = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
        images = traverse(network, walked.w_plus, found, steps)
        _save(traversal_figure(images, steps, window=window_of(metadata), toward=label), figure)


def _print_auc(name: str, numbers: dict) -> None:
    print(
        f"{name}: AUC {numbers['auc']:.3f}, 95 % interval {numbers['low']:.3f} to {numbers['high']:.3f} "
        f"({numbers['slices_with']} of {numbers['slices']} slices with it, "
        f"{numbers['patients_with']} patients with, {numbers['patients_without']} without)"
    )


def generate(
    generator: Network,
    out: Annotated[Path, typer.Option(help="New folder for the images and their table.")],
    direction: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Direction, as `stylemed direction` writes it; MODEL or MODEL:NAME takes one of a released model.",
            show_default=False,
        ),
    ] = None,
    labeller: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Makes a data set of a class in the LiTS layout, outlined by this labeller. Default: PNG files of a walk.",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        str,
        typer.Option("--class", help="With a labeller: tumor, modality_mr, kernel_sharp, or the direction's class."),
    ] = "tumor",
    by: Annotated[
        str | None,
        typer.Option(
            help="With a labeller: coarse (styles of a latent of the class), direction (the walk) or guided (each image edited). "
            "Default: direction where one is given.",
            show_default=False,
        ),
    ] = None,
    ratio: Annotated[float, typer.Option(help="With a labeller: share of images with the class.", min=0, max=1)] = 0.5,
    margin: Annotated[
        float, typer.Option(help="By direction: where a walk ends, in steps beyond the classifier's boundary.", min=0)
    ] = 1.0,
    codes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Codes of slices to start from; by coarse, of the class. Default: random styles.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="With codes: slices of this split. Default: all; with a labeller train.", show_default=False),
    ] = None,
    count: Annotated[int, typer.Option("--n", "--count", help="Images; starting points of walks.", min=1)] = 16,
    step: Annotated[
        list[float] | None,
        typer.Option(
            help="Without a labeller: length of the walk in standard deviations of the training codes; repeat for several. "
            "Default: -2, 0 and 2.",
            show_default=False,
        ),
    ] = None,
    psi: Psi = 0.7,
    seed: Seed = 0,
) -> None:
    """Make images of a class: with a labeller a data set that `prepare` reads, else every stop of a walk as 8-bit grey PNG."""
    from stylemed import pretrained
    from stylemed.data.store import window_of, windows_of
    from stylemed.latent import generation
    from stylemed.training.run import grid_png

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; name a new folder.")
    if labeller is None and direction is None:
        raise BadInput("Give --direction for a walk, or --labeller for a data set of a class.")
    if labeller is not None and (step or split not in (None, "train")):
        raise BadInput("With a labeller, leave out --step (see --margin), and --split: its codes are those of train.")
    network, metadata = _generator(generator)
    windows = windows_of(metadata)
    shared = dict(
        codes=given(pretrained.codes, codes),
        psi=psi,
        seed=seed,
        names=(generator, str(direction), str(codes)),
    )
    found = given(pretrained.direction, direction)
    if labeller is not None:
        by = by or ("coarse" if direction is None else "direction")
        shared |= dict(by=by, ratio=ratio, direction=found, margin=margin)
        made = generation.class_images(network, pretrained.labeller(labeller), count, label, **shared)
        table = made.table
        generation.write_class_images(out, made, windows, network)
        doubtful = int((table["tumor_labels"] == "unknown").sum())
        print(
            f"{int(table['class'].sum())} images with {label} and {int((table['class'] == 0).sum())} without in {out}"
        )
        if doubtful:
            print(f"of {doubtful} the labeller's outline says otherwise: their tumors count as unknown")
        return
    images, table = generation.images_of_class(network, found, step or [-2.0, 0.0, 2.0], count, split=split, **shared)
    with atomic(out) as draft:
        draft.mkdir()
        for name, image in zip(table["file"], images.flatten(0, 1), strict=True):
            (draft / name).write_bytes(grid_png(image[None], 1))
        table.to_csv(draft / "table.csv", index=False)
    window = window_of(metadata)
    print(f"{len(table)} images in {out}" + (f"; black {window.lo:g} HU, white {window.hi:g} HU" if window else ""))


def _generator(name: str):
    from stylemed import pretrained

    return pretrained.generator(name)


def _save(figure, out: Path) -> None:
    kind = "pdf" if out.suffix.lower() == ".pdf" else "png"
    with atomic(out) as draft:
        figure.savefig(draft, format=kind, dpi=figure.dpi, facecolor=figure.get_facecolor())
    print(f"written to {out}")
