"""Commands in latent space: encode, invert, survive, sample, mix, label, direction, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylemed.cli.options import Network, Picture, Psi, Seed
from stylemed.errors import BadInput
from stylemed.files import atomic


def encode(
    store: Annotated[Path, typer.Argument(help="Slice store.")],
    encoder: Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of the encoder.")],
    out: Annotated[Path, typer.Option(help="File to write the codes to (.safetensors).")],
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
    store: Annotated[Path, typer.Argument(help="Slice store.")],
    generator: Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of the generator.")],
    out: Annotated[Path, typer.Option(help="File to write the codes to (.safetensors).")],
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Begin at the answers of this encoder. Default: the mean w.", show_default=False
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, judge, test or all.")] = "test",
    count: Annotated[
        int | None, typer.Option(help="Only so many slices, evenly spaced. Default: all.", min=1, show_default=False)
    ] = None,
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
    codes = invert_store(
        opened,
        _generator(generator)[0],
        opened.some_rows(None if split == "all" else split, count),
        encoder=None if encoder is None else pretrained.encoder(encoder)[0],
        split=None if split == "all" else split,
        partial=out.with_name(f"{out.name}.begun"),
        space=space,
        steps=steps,
        rate=rate,
        near=near,
    )
    print(f"{len(codes)} slices inverted, written to {codes.save(out)}")


def survive(
    store: Annotated[Path, typer.Argument(help="Slice store.")],
    generator: Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of the generator.")],
    encoder: Annotated[
        str | None, typer.Option(metavar="RUN", help="Run folder or .safetensors of the encoder.", show_default=False)
    ] = None,
    codes: Annotated[
        Path | None, typer.Option(help="Instead: codes of slices of this store, such as `stylemed invert` writes.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Judge that looks for the tumors. Default: errors only.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="With an encoder: train, judge, test or all.")] = "test",
    count: Annotated[
        int | None, typer.Option(help="Only so many slices, evenly spaced. Default: all.", min=1, show_default=False)
    ] = None,
    seed: Seed = 0,
) -> None:
    """What is lost on the way through latent space: errors of reconstructions, and which tumors are still seen, by size."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore
    from stylemed.evaluation.judge import check_reader
    from stylemed.evaluation.reconstruction import by_patient, reconstruction_errors, survival
    from stylemed.latent.codes import Codes, encode_store
    from stylemed.latent.inversion import check_networks
    from stylemed.latent.mixing import synthesize
    from stylemed.training.reader import Judge

    if (encoder is None) == (codes is None):
        raise BadInput("Give --encoder or --codes, one of the two.")
    opened, network = SliceStore.open(store), _generator(generator)[0]
    if codes is None:
        its = pretrained.encoder(encoder)[0]
        check_networks(opened, network, its)
        rows = opened.some_rows(None if split == "all" else split, count)
        found = encode_store(opened, its, rows=rows)
    else:
        check_networks(opened, network)
        found = Codes.load(codes)
        if found.info.get("store") != str(opened.digest):
            raise BadInput(f"{codes} holds codes of another store than {store}; encode or invert its slices.")
        rows = found.table["row"].to_numpy()
    again = synthesize(network, found.w_plus)
    print(by_patient(reconstruction_errors(opened, rows, again), seed).round(3).to_string(index=False))
    if judge is not None:
        reader = Judge.load(judge)
        check_reader(reader, opened)
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
        Path | None, typer.Option(help="Codes to take the sources from. Default: random styles.", show_default=False)
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(help="coarse, middle or fine; repeat for several. Default: all three.", show_default=False),
    ] = None,
    rows: Annotated[int, typer.Option(help="Sources A.", min=1)] = 3,
    columns: Annotated[int, typer.Option(help="Sources B.", min=1)] = 4,
    split: Annotated[
        str | None, typer.Option(help="With codes: slices of this split. Default: all.", show_default=False)
    ] = None,
    psi: Psi = 0.7,
    seed: Seed = 0,
) -> None:
    """Draw a style-mixing grid (figure 1 of the paper): a level's styles from B, all others from A."""
    from stylemed.data.store import window_of
    from stylemed.display.figures import mixing_figure
    from stylemed.latent.codes import Codes
    from stylemed.latent.generation import random_styles, some_codes
    from stylemed.latent.mixing import LEVELS, mixing_grid, synthesize

    network, metadata = _generator(generator)
    if codes is None:
        styles = random_styles(network, rows + columns, psi, seed)
    else:
        styles = some_codes(
            Codes.load(codes), rows + columns, network, split=split, seed=seed, names=(generator, str(codes))
        ).w_plus
    a, b = styles[:rows], styles[rows:]
    grids = {name: mixing_grid(network, a, b, name) for name in (level or LEVELS)}
    _save(mixing_figure(synthesize(network, a), synthesize(network, b), grids, window=window_of(metadata)), out)


def label(
    generator: Network,
    labeller: Annotated[str, typer.Option(metavar="RUN", help="Labeller that says what the images hold.")],
    out: Annotated[Path, typer.Option(help="File to write the codes to (.safetensors).")],
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
    from stylemed.latent.direction import labels_of
    from stylemed.latent.samples import MATCHED, label_samples, matched
    from stylemed.training.reader import Labeller

    network, names = _generator(generator)[0], (generator, labeller)
    codes = label_samples(network, Labeller.load(labeller), count, psi=psi, seed=seed, batch=batch, names=names)
    y, by = labels_of(codes.table, label), tuple(match or MATCHED)
    kept = matched(codes, label, by, seed=seed)
    print(f"{len(codes)} images: {(y == 1).sum()} with {label}, {(y == 0).sum()} without, the others not sure")
    print(f"{len(kept)} of them, half with and half without, are alike in {', '.join(by)}; written to {kept.save(out)}")


def direction(
    codes: Annotated[Path, typer.Argument(help="Codes, as `stylemed encode` or `stylemed label` write them.")],
    out: Annotated[Path, typer.Option(help="File to write the direction to (.safetensors).")],
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
    from stylemed.data.store import window_of
    from stylemed.latent.codes import Codes
    from stylemed.latent.direction import find_direction, traverse
    from stylemed.latent.generation import some_codes

    if (figure is None) != (generator is None):
        raise BadInput("--figure and --generator belong together: give both or none.")
    encoded, chosen = Codes.load(codes), None if split == "all" else split
    if figure is not None:
        network, metadata = _generator(generator)
        walked = some_codes(encoded, 4, network, split=chosen, seed=seed, names=(generator, str(codes)))
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
    direction: Annotated[Path, typer.Option(help="Direction, as `stylemed direction` writes it.")],
    out: Annotated[Path, typer.Option(help="New folder for the PNG files and table.csv.")],
    codes: Annotated[
        Path | None, typer.Option(help="Codes of slices to start from. Default: random styles.", show_default=False)
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With codes: slices of this split. Default: all.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(help="Starting points.", min=1)] = 16,
    step: Annotated[
        list[float] | None,
        typer.Option(
            help="Length of the walk in standard deviations of the training codes; repeat for several. "
            "Default: -2, 0 and 2.",
            show_default=False,
        ),
    ] = None,
    psi: Psi = 0.7,
    seed: Seed = 0,
) -> None:
    """Make images of a class: walk from each starting point and write every stop as an 8-bit grey PNG."""
    from stylemed.data.store import window_of
    from stylemed.latent.codes import Codes
    from stylemed.latent.direction import Direction
    from stylemed.latent.generation import images_of_class
    from stylemed.training.run import grid_png

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; name a new folder.")
    network, metadata = _generator(generator)
    images, table = images_of_class(
        network,
        Direction.load(direction),
        step or [-2.0, 0.0, 2.0],
        count,
        codes=None if codes is None else Codes.load(codes),
        split=split,
        psi=psi,
        seed=seed,
        names=(generator, str(direction), str(codes)),
    )
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
    with atomic(out) as draft:
        figure.savefig(draft, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    print(f"written to {out}")
