"""Commands in latent space: encode, sample, mix, direction, generate."""

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


def sample(
    generator: Network,
    out: Picture,
    count: Annotated[int, typer.Option(help="Images.", min=1)] = 16,
    columns: Annotated[int, typer.Option(help="Images in a row.", min=1)] = 4,
    psi: Psi = 0.7,
    seed: Seed = 0,
) -> None:
    """Draw random images from a generator."""
    from stylemed.display.figures import show_slices
    from stylemed.latent.mixing import synthesize

    network, metadata = _generator(generator)
    images = synthesize(network, _random_styles(network, count, psi, seed))
    _save(show_slices(images, window=_window(metadata), columns=columns), out)


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
    from stylemed.display.figures import mixing_figure
    from stylemed.latent.mixing import LEVELS, mixing_grid, synthesize

    network, metadata = _generator(generator)
    if codes is None:
        styles = _random_styles(network, rows + columns, psi, seed)
    else:
        styles = _encoded(codes, rows + columns, split, seed, network, generator).w_plus
    a, b = styles[:rows], styles[rows:]
    grids = {name: mixing_grid(network, a, b, name) for name in (level or LEVELS)}
    _save(mixing_figure(synthesize(network, a), synthesize(network, b), grids, window=_window(metadata)), out)


def direction(
    codes: Annotated[Path, typer.Argument(help="Codes, as `stylemed encode` writes them.")],
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
    from stylemed.latent.codes import Codes
    from stylemed.latent.direction import find_direction, traverse

    if (figure is None) != (generator is None):
        raise BadInput("--figure and --generator belong together: give both or none.")
    if figure is not None:
        network, metadata = _generator(generator)
        walked = _encoded(codes, 4, None if split == "all" else split, seed, network, generator)
    found = find_direction(
        Codes.load(codes),
        label,
        split=None if split == "all" else split,
        orthogonal_to=tuple(orthogonal_to or ()),
        folds=folds,
        seed=seed,
    )
    _print_auc("cross-validation by patient", found.cv)
    if found.test:
        _print_auc("test patients", found.test)
    print(f"written to {found.save(out)}")
    if figure is not None:
        from stylemed.display.figures import traversal_figure

        steps = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
        images = traverse(network, walked.w_plus, found, steps)
        _save(traversal_figure(images, steps, window=_window(metadata), toward=label), figure)


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
    import pandas as pd

    from stylemed.latent.direction import Direction, traverse
    from stylemed.provenance import belong_together

    network, metadata = _generator(generator)
    found, steps = Direction.load(direction), step or [-2.0, 0.0, 2.0]
    if len(found.vector) != network.latent_size:
        raise BadInput(f"{direction} was found in another latent space than that of {generator}.")
    fits = dict(same_store=False, cure="find the direction on codes of this generator (stylemed encode, direction)")
    belong_together(network.provenance, found.provenance, names=(generator, str(direction)), **fits)
    if codes is None:
        styles = _random_styles(network, count, psi, seed)
        sources = [f"random {seed}/{i}" for i in range(count)]
    else:
        few = _encoded(codes, count, split, seed, network, generator)
        belong_together(few.provenance, found.provenance, names=(str(codes), str(direction)), **fits)
        styles = few.w_plus
        sources = [f"{case} z {z}" for case, z in zip(few.table["case"], few.table["z"], strict=True)]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; name a new folder.")
    images = traverse(network, styles, found, steps)
    scores = found.score(styles)
    rows = []
    with atomic(out) as draft:
        draft.mkdir()
        for i, source in enumerate(sources):
            for k, length in enumerate(steps):
                name = f"{i:04d}_step{length:+g}.png"
                _save_grey(images[i, k, 0], draft / name)
                rows.append({"file": name, "source": source, "step": length, "score": float(scores[i]) + length})
        pd.DataFrame(rows).to_csv(draft / "table.csv", index=False)
    window = _window(metadata)
    print(f"{len(rows)} images in {out}" + (f"; black {window.lo:g} HU, white {window.hi:g} HU" if window else ""))


def _generator(name: str):
    from stylemed import pretrained

    return pretrained.generator(name)


def _window(metadata: dict):
    from stylemed.data.store import Window

    windows = list((metadata.get("windows") or {}).values())  # one for each modality the generator has learned
    return Window(**windows[0]) if windows else None


def _random_styles(network, count: int, psi: float, seed: int):
    """[count, L, latent] styles of `count` random latents."""
    import torch

    z = torch.randn(count, network.latent_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return network.truncate(network.broadcast(network.mapping(z)), psi)


def _encoded(path: Path, count: int, split: str | None, seed: int, network, generator: str):
    """Codes of `count` slices of different patients (then of any), that belong to the network of the name `generator`."""
    import numpy as np

    from stylemed.latent.codes import Codes
    from stylemed.provenance import belong_together

    codes = Codes.load(path)
    if codes.w_plus.shape[1:] != (network.num_layers, network.latent_size):
        raise BadInput(f"{path} was made for another generator: its codes are {codes.w_plus.shape[1:]}.")
    belong_together(
        network.provenance,
        codes.provenance,
        names=(generator, str(path)),
        same_store=False,  # slices of new patients are what codes are for
        cure="encode the slices with an encoder that was trained for this generator",
    )
    chosen = codes.pick(count, split, seed=seed)
    if len(chosen) < count:
        rest = np.setdiff1d(codes.find(split), chosen)
        more = np.random.default_rng(seed).permutation(rest)[: count - len(chosen)]
        chosen = np.concatenate([chosen, more])
    if len(chosen) < count:
        raise BadInput(f"{path} holds {len(chosen)} slices of the split {split or 'all'}; {count} are asked for.")
    return codes.select(chosen)


def _save(figure, out: Path) -> None:
    with atomic(out) as draft:
        figure.savefig(draft, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    print(f"written to {out}")


def _save_grey(image, path: Path) -> None:
    """One image [R, R] in [-1, 1] as 8-bit grey: the window's ends are 0 and 255, nothing is stretched."""
    from PIL import Image

    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    Image.fromarray(pixels).save(path)
