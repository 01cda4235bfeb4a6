"""What a chapter calls: its inputs, wherever they come from, and its numbers, wherever they go."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from urllib.request import urlopen

from stylemed import __version__
from stylemed.errors import BadInput
from stylemed.files import write_json
from stylemed.provenance import Provenance, belong_together

# Whose artifacts a chapter uses, by the chapter's number.
USES = {"03": ("01",), "04": ("03",), "05": ("04",), "06": ("04",), "07": ("04",)}
# What a chapter leaves in the artifacts folder for others. Of a training these are the weights: who deletes checkpoints for
# room need not train again.
MAKES = {
    "01": ("phantom/*", "store/*"),
    "03": ("gan/*.safetensors",),
    "04": ("encoder/*.safetensors",),
    "07": ("translation/*/*.safetensors",),
}
# Image side of the store that is made on the spot when a chapter that trains is opened first.
RESOLUTIONS = {"smoke": 32, "cpu": 64, "colab": 128, "gpu": 128}
SMALL = 32
INPUTS = ("store", "generator", "encoder")
_MAKER = {"generator": "03", "encoder": "04"}  # the chapter that makes it
PACKAGE = Path(__file__).resolve().parent

_current: Path | None = None  # the build folder of the last inputs(); record() writes there


def project_root(start: Path | None = None) -> Path | None:
    """The folder of the book: the nearest one above `start` (default: here) that holds a `_toc.yml`."""
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "_toc.yml").is_file()), None)


def profile_names(root: Path | None = None) -> list[str]:
    """The profiles of this checkout, or the usual ones where there is no checkout (Colab)."""
    root = root or project_root()
    files = sorted((root / "book" / "profiles").glob("*.yaml")) if root else []
    return [file.stem for file in files] or list(RESOLUTIONS)


def build_folder(profile: str) -> Path:
    """`_build/<profile>` of the book above the current folder, or of the current folder itself.

    The environment variable STYLEMED_BUILD overrides it; the regression run sets it to keep its runs apart.
    """
    if profile not in profile_names():
        raise BadInput(f"Unknown profile '{profile}'; there are: {', '.join(profile_names())}.")
    if os.environ.get("STYLEMED_BUILD"):
        return Path(os.environ["STYLEMED_BUILD"])
    return (project_root() or Path.cwd()) / "_build" / profile


@dataclass
class Inputs:
    """What a chapter starts from. `folder` is where it leaves what later chapters use."""

    profile: str
    folder: Path
    needs: tuple[str, ...] = ()
    small: bool = False  # True: made on the spot because an earlier chapter has not run
    store: Any = None  # SliceStore
    generator: Any = None  # Generator, eval()
    generator_metadata: dict | None = None
    encoder: Any = None  # Encoder, eval()
    encoder_metadata: dict | None = None

    @property
    def store_path(self) -> Path:
        return self.folder / "store"

    @property
    def gan_path(self) -> Path:
        """Run folder of the generator: the one that was read, or the one this chapter trains."""
        return self._run("gan", "generator")

    @property
    def encoder_path(self) -> Path:
        """Run folder of the encoder: the one that was read, or the one this chapter trains."""
        return self._run("encoder", "encoder")

    def _run(self, name: str, need: str) -> Path:
        # What a chapter trains on stand-ins stays apart from stand-ins that other chapters read.
        apart = self.small and need not in self.needs
        return self.folder / "tried" / name if apart else self.folder / name

    @property
    def codes_path(self) -> Path:
        return self.folder / "codes.safetensors"


def _marker(folder: Path, need: str) -> Path:
    """The file whose presence says that an input is complete."""
    return {
        "store": folder / "store" / "store.json",
        "generator": folder / "gan" / "generator.safetensors",
        "encoder": folder / "encoder" / "encoder.safetensors",
    }[need]


def inputs(profile: str, needs: Iterable[str] = INPUTS) -> Inputs:
    """The inputs of a chapter, and one printed line for each that says where it came from.

    They are taken from `_build/<profile>/artifacts`, where the earlier chapters leave them. If one of `needs`
    is not there, all of them are made small on the spot, in a folder of their own: a chapter can be opened
    first and alone, sizes never mix, and nothing small passes for the real thing.

    Raises BadInput for an unknown profile or need, and for artifacts that were made from others than those beside them: a
    generator of another store has seen patients that are now `test`. A stand-in in its place would hide that.
    """
    global _current
    needs = tuple(needs)
    unknown = [need for need in needs if need not in INPUTS]
    if unknown:
        raise BadInput(f"Unknown input '{unknown[0]}'; a chapter can ask for: {', '.join(INPUTS)}.")
    _current = build_folder(profile)
    folder = _current / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    result = Inputs(profile, folder, needs)
    missing = [need for need in needs if not _marker(folder, need).is_file()]
    if missing:
        side = RESOLUTIONS.get(profile, SMALL) if needs == ("store",) else SMALL
        result = Inputs(profile, folder / f"small-{side}", needs, small=True)
        print(f"Not made yet in {_shown(folder)}: {', '.join(missing)}. A small stand-in is used.")
        _make_small(result, needs, side)
    _load(result, needs)
    return result


def _shown(path: Path) -> str:
    """A path as a page may show it: relative to the book where possible, never a folder of this machine."""
    base = project_root() or Path.cwd()
    try:
        return str(path.resolve().relative_to(base.resolve()))
    except ValueError:
        return path.name


def _load(result: Inputs, needs: tuple[str, ...]) -> None:
    origin = "small stand-in" if result.small else "made by an earlier chapter"
    learned: dict[str, Provenance] = {}  # of what is loaded, in the order in which it is made
    if "store" in needs:
        from stylemed.data.store import SliceStore

        result.store = SliceStore.open(result.store_path)
        learned["store"] = result.store.provenance
        print(f"store:     {origin}, {result.store.resolution} x {result.store.resolution} pixels")
    if "generator" in needs:
        from stylemed.training.run import load_generator

        result.generator, result.generator_metadata = load_generator(result.gan_path)
        _fit(result, learned, "generator", result.generator.provenance)
        print(f"generator: {origin}, {_kimg(result.generator_metadata)}")
    if "encoder" in needs:
        from stylemed.training.run import load_encoder

        result.encoder, result.encoder_metadata = load_encoder(result.encoder_path)
        _fit(result, learned, "encoder", result.encoder.provenance)
        print(f"encoder:   {origin}, {_kimg(result.encoder_metadata)}")


def _fit(result: Inputs, learned: dict[str, Provenance], need: str, made: Provenance) -> None:
    """Refuse an artifact that was not made from those loaded before it, and name the chapters that make it again."""
    numbers = [_MAKER["generator"], _MAKER["encoder"]] if need == "generator" else [_MAKER["encoder"]]
    again = f"stylemed book run {' '.join(str(int(number)) for number in numbers)} --profile {result.profile}"
    for other, provenance in learned.items():
        belong_together(
            made,
            provenance,
            names=tuple(f"the {name} in {_shown(_marker(result.folder, name).parent)}" for name in (need, other)),
            cure=f"make it again from what is there now: {again}",
        )
    learned[need] = made


def _kimg(metadata: dict) -> str:
    seen = float(metadata.get("nimg") or 0) / 1000
    return f"trained on {seen:.1f} thousand images"


def _make_small(result: Inputs, needs: tuple[str, ...], side: int) -> None:
    """phantom -> store -> generator -> encoder at `side` pixels, as far as `needs` asks; kept for the next chapter."""
    folder, stamp = result.folder, result.folder / "package.txt"
    digest = package_digest()
    if not stamp.is_file() or stamp.read_text() != digest:  # made by another version of the package
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stamp.write_text(digest)
    if not _marker(folder, "store").is_file():
        from stylemed.data.preparing import prepare
        from stylemed.phantom.patients import make_phantom

        shutil.rmtree(folder / "phantom", ignore_errors=True)
        print(f"  making a phantom and its slices at {side} x {side} pixels ...")
        make_phantom(
            folder / "phantom", patients=6, test_patients=4, size=max(64, side), slices=24, seed=0, progress=False
        )
        prepare(folder / "phantom", folder / "store", side, frame="body", workers=1, progress=False)
    if {"generator", "encoder"} & set(needs) and not _marker(folder, "generator").is_file():
        from stylemed.data.store import SliceDataset, SliceStore
        from stylemed.training.gan import train_gan

        print("  training a generator for a few seconds: good for trying the cells, not for judging them ...")
        dataset = SliceDataset(SliceStore.open(result.store_path))
        train_gan(dataset, folder / "gan", preset="smoke", kimg=0.6, seed=0, progress=False)
    if "encoder" in needs and not _marker(folder, "encoder").is_file():
        from stylemed.training.encoder import train_encoder

        print("  training an encoder for a few seconds ...")
        train_encoder(folder / "gan", folder / "encoder", preset="smoke", kimg=0.2, seed=0, progress=False)


def package_digest() -> str:
    """Short digest of every file of the package: sources, released weights."""
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
            digest.update(str(file.relative_to(PACKAGE)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def glue(key: str, value: Any, display: bool = False) -> None:
    """Keep `value` under `key`, so that the chapter's text can show it with the `glue` role.

    The same output that `myst_nb.glue` writes, without importing it: it is not there in Colab.
    display=True shows the value in the notebook as well.
    """
    from IPython import get_ipython
    from IPython.core.formatters import format_display_data
    from IPython.display import display as show

    if get_ipython() is None:
        return
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    data, metadata = format_display_data(value)
    prefix = "" if display else "application/papermill.record/"
    metadata["scrapbook"] = {"name": key, "mime_prefix": prefix}
    show({prefix + kind: content for kind, content in data.items()}, raw=True, metadata=metadata)


def record(chapter: str, **metrics: float) -> None:
    """Write a chapter's numbers to `metrics/<chapter>.json` for the regression run, and glue each under its name.

    Only numbers, and no times: they differ between machines. Raises BadInput for anything else.
    """
    if _current is None:
        raise BadInput("Call chapters.inputs(profile) before chapters.record: it decides the folder.")
    numbers = {name: _number(chapter, name, value) for name, value in metrics.items()}
    file = _current / "metrics" / f"{chapter}.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    write_json(file, known | numbers)
    for name, value in numbers.items():
        glue(name, math.nan if value is None else value)


def _number(chapter: str, name: str, value: Any) -> float | int | None:
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, int | float):
        raise BadInput(f"{chapter}: the metric '{name}' is a {type(value).__name__}, not a number.")
    return value if math.isfinite(value) else None  # JSON knows no NaN


def study(name: str, address: str | None = None) -> Any:
    """The committed `Result` of a long measurement, `book/results/<name>.json`, and one printed line that says where it is from.

    Without a checkout (Colab) it is read from the repository, at the version of this package; address: another folder to read from.
    """
    from stylemed.studies import Result  # pandas is not needed to know what is out of date

    root = project_root() or (None if address else project_root(PACKAGE))  # the package may lie in a checkout
    if root:
        path = root / "book" / "results" / f"{name}.json"
    else:
        address = f"{address or f'{repository()}/raw/v{__version__}/book/results'}/{name}.json"
        path = Path(gettempdir()) / f"stylemed-{__version__}-{name}.json"
        try:
            with urlopen(address, timeout=30) as answer:
                path.write_bytes(answer.read())
        except OSError as error:
            raise BadInput(
                f"{address} cannot be read ({type(error).__name__}); try again with a network, or run the chapter in a checkout."
            ) from None
    result = Result.load(path)
    made = f"{result.made.get('commit', '')[:7]}, {result.made.get('date', '')}, {result.minutes:.0f} minutes"
    print(f"study:     {name} ({made}): {result.command}")
    return result


def repository(root: Path | None = None) -> str:
    """The repository's address. Its one source is `[project.urls]` in pyproject.toml."""
    root = root or project_root()
    if root and (root / "pyproject.toml").is_file():
        import tomllib

        return tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    from importlib.metadata import metadata

    urls = dict(line.split(", ", 1) for line in metadata("stylemed").get_all("Project-URL") or [])
    return urls["Repository"]


def colab_setup(root: Path | None = None) -> str:
    """The text of the guarded cell that makes a chapter run in Colab; a test compares every chapter with it.

    torch and numpy stay as Colab has them: replacing them breaks what is compiled against them.
    """
    root = root or project_root()
    if root is None:
        raise BadInput("The Colab cell is built from pyproject.toml and constraints.txt: run this in a checkout.")
    pins = (root / "constraints.txt").read_text()
    lacking = [re.search(rf"(?m)^{name}==\S+", pins) for name in ("nibabel", "monai")]
    return (
        "import sys\n\n"
        'if "google.colab" in sys.modules:  # Colab keeps its own torch and numpy; only what it lacks is installed\n'
        f'    %pip install --quiet --no-deps "stylemed @ git+{repository(root)}@v{__version__}"\n'
        f"    %pip install --quiet --no-deps {' '.join(pin.group() for pin in lacking if pin)}"
    )
