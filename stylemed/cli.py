"""The command line: thin, and quick to answer. Everything heavy is imported inside the commands.

Exit codes: 0 done, 1 a chapter failed or a number left its tolerance, 2 bad input or usage,
3 finished but some cases were left out, 130 stopped from the keyboard.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stylemed import __version__
from stylemed.cli_book import book, fail
from stylemed.cli_data import Seed, download, inspect, phantom, prepare
from stylemed.errors import BadInput

app = typer.Typer(
    name="stylemed",
    help="StyleGAN and an encoder on CT slices: from LiTS volumes to style mixing and the tumor direction.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train = typer.Typer(help="Train the generator, then the encoder. The same line resumes.", no_args_is_help=True)
for command in (phantom, download, prepare, inspect):
    app.command()(command)
app.add_typer(train, name="train")
app.add_typer(book, name="book")

Minutes = Annotated[float | None, typer.Option(help="Stop after so many minutes; the same line goes on.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N. Default: a GPU if there is one.", show_default=False)
]
Network = Annotated[str, typer.Argument(metavar="GENERATOR", help="Run folder or .safetensors of the generator.")]
Picture = Annotated[Path, typer.Option("--out", help="PNG file to write.")]
Psi = Annotated[
    float, typer.Option(help="Truncation of random styles: 1 none, 0 the mean image (no unit).", min=0.0, max=1.0)
]


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


# ---- training -------------------------------------------------------------------------------------------


@train.command("gan")
def train_gan_command(
    store: Annotated[
        Path, typer.Option(help="Slice store; only its split train is learned from, distances are taken from test too.")
    ],
    run: Annotated[Path, typer.Option(help="Run folder; made if needed, gone on with if it is there.")],
    preset: Annotated[str, typer.Option(help="smoke, phantom-64, ct-64, ct-128, paper.")],
    kimg: Annotated[float, typer.Option(help="Images to show in all, in thousands.")],
    max_minutes: Minutes = None,
    seed: Seed = 0,
    device: Device = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Change a field of the preset, such as precision=bf16; repeat for several.",
            show_default=False,
        ),
    ] = None,
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
    from stylemed.data.store import SliceDataset, SliceStore
    from stylemed.training.gan import config_for, train_gan

    dataset = SliceDataset(SliceStore.open(store), split="train")
    config = config_for(dataset, preset, _changes(change))  # a mistake there is told before anything large is loaded
    first = os.environ.get("RANK", "0") == "0"  # of several processes only this one measures
    done = train_gan(
        dataset,
        run,
        config,
        kimg=kimg,
        max_minutes=max_minutes,
        seed=seed,
        device=device,
        on_snapshot=_distances(dataset, inception, labeller) if first else None,
        warm_start=warm_start,
    )
    if first:
        from stylemed.evaluation import read_distances, verdict

        _trained(done)
        if (done.path / "distances.csv").is_file() and (said := verdict(read_distances(done.path))):
            print(said)


def _distances(dataset, inception: Path | None, labeller: str | None):
    """What is measured while a generator trains; None where there are too few slices."""
    from stylemed.data.store import SliceDataset
    from stylemed.evaluation import Distances
    from stylemed.evaluation.fidelity import LEAST_SLICES
    from stylemed.evaluation.judge import Labeller

    reader = None if labeller is None else Labeller.load(labeller)
    if len(dataset) < LEAST_SLICES:
        return None
    test = SliceDataset(dataset.store, split="test") if len(dataset.store.select("test")) >= LEAST_SLICES else None
    return Distances(dataset, inception=inception, reader=reader, test=test)


def _changes(given: list[str] | None) -> dict:
    """NAME=VALUE, values as YAML reads them."""
    import yaml

    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--set {text}: write NAME=VALUE, such as r1_gamma=0.5.")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadInput(f"--set {text}: the value cannot be read as YAML.") from None
        try:
            read = float(read) if isinstance(read, str) else read  # YAML takes 1e-3 for a word
        except ValueError:
            pass
        found[name.strip()] = read
    return found


@train.command("encoder")
def train_encoder_command(
    generator: Annotated[str, typer.Option(metavar="RUN", help="Run folder or .safetensors of the generator.")],
    run: Annotated[Path, typer.Option(help="Run folder; made if needed, gone on with if it is there.")],
    store: Annotated[
        Path | None,
        typer.Option(help="Slice store to watch reconstructions on; never trained on.", show_default=False),
    ] = None,
    preset: Annotated[str, typer.Option(help="smoke, phantom-64, ct-64, ct-128, paper.")] = "phantom-64",
    kimg: Annotated[float, typer.Option(help="Generated images to show in all, in thousands.")] = 20.0,
    max_minutes: Minutes = None,
    seed: Seed = 0,
    weights: Annotated[
        Path | None, typer.Option(help="ResNet-50 weights to start from. Default: at random.", show_default=False)
    ] = None,
    device: Device = None,
) -> None:
    """Train the encoder on images that the generator makes."""
    from stylemed.data.store import SliceDataset, SliceStore
    from stylemed.training.encoder import train_encoder

    dataset = SliceDataset(SliceStore.open(store), split="train") if store else None
    done = train_encoder(
        generator,
        run,
        preset,
        dataset=dataset,
        kimg=kimg,
        max_minutes=max_minutes,
        seed=seed,
        weights=weights,
        device=device,
    )
    _trained(done)


@train.command("judge")
def train_judge_command(
    store: Annotated[Path, typer.Option(help="Slice store; only its split judge is read.")],
    run: Annotated[Path, typer.Option(help="Run folder; made if needed, gone on with if it is there.")],
    kimg: Annotated[float, typer.Option(help="Slices to show in all, in thousands.")] = 60.0,
    max_minutes: Minutes = None,
    seed: Seed = 0,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate over the patients whose tumors are known, of every split.", min=2)
    ] = None,
    device: Device = None,
) -> None:
    """Train the judge: a reader of slices that has no part in generating them."""
    from stylemed.data.store import SliceStore
    from stylemed.evaluation.judge_training import cross_validate, train_judge

    settings = dict(kimg=kimg, max_minutes=max_minutes, seed=seed, device=device)
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
    from stylemed.evaluation.judge_training import train_labeller

    done = train_labeller(SliceStore.open(store), run, kimg=kimg, max_minutes=max_minutes, seed=seed, device=device)
    _trained(done)


def _trained(run) -> None:
    log, samples = run.log(), run.samples()
    seen = f"{log['kimg'].iloc[-1]:.2f} thousand images" if len(log) else "no image yet"
    print(f"{run.path}: {seen}" + (f"; last sample grid {samples[-1]}" if samples else ""))


@app.command()
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
    from stylemed.data.store import SliceStore
    from stylemed.evaluation.judge import Judge, Labeller, errors

    if (judge is None) == (labeller is None):
        raise BadInput("stylemed judge needs --judge RUN or --labeller RUN, one of them.")
    reader = Labeller.load(labeller) if judge is None else Judge.load(judge)
    table = errors(reader, SliceStore.open(store), split, seen=seen)
    print(table.round(3).to_string(index=False))


# ---- latent space ---------------------------------------------------------------------------------------


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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
    part = out.with_name(out.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, source in enumerate(sources):
        for k, length in enumerate(steps):
            name = f"{i:04d}_step{length:+g}.png"
            _save_grey(images[i, k, 0], part / name)
            rows.append({"file": name, "source": source, "step": length, "score": float(scores[i]) + length})
    pd.DataFrame(rows).to_csv(part / "table.csv", index=False)
    if out.is_dir():
        out.rmdir()
    os.replace(part, out)
    window = _window(metadata)
    print(f"{len(rows)} images in {out}" + (f"; black {window.lo:g} HU, white {window.hi:g} HU" if window else ""))


# ---- shared by the commands above -----------------------------------------------------------------------


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
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    figure.savefig(part, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    os.replace(part, out)
    print(f"written to {out}")


def _save_grey(image, path: Path) -> None:
    """One image [R, R] in [-1, 1] as 8-bit grey: the window's ends are 0 and 255, nothing is stretched."""
    from PIL import Image

    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    Image.fromarray(pixels).save(path)
