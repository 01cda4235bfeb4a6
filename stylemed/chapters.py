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
USES = {"03": ("01",), "04": ("03",), "05": ("04",), "06": ("04",), "07": ("04",), "09": ("04",), "10": ("01",)}
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
# Number of the first test patient in phantoms made here and in chapter 1: released models have learned from patients before it.
FIRST_TEST = 61
FRESH, RELEASED = "fresh", "released"
NOTE = "released.txt"  # among the artifacts: the folder of the released model that chapters read
INPUTS = ("store", "generator", "encoder")
_MAKER = {"generator": "03", "encoder": "04"}  # the chapter that makes it
PACKAGE = Path(__file__).resolve().parent


class ChapterEnds(Exception):
    """What comes next cannot be measured with these data; the message says why. What stands before it counts."""


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
    released: Any = None  # Bundle the networks come from, with judge, labeller, directions, codes; None: fresh ones
    store: Any = None  # SliceStore
    generator: Any = None  # Generator, eval()
    encoder: Any = None  # Encoder, eval()

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

    def encoder_after(self, run: Path) -> Any:
        """The Encoder a chapter goes on with that trained one in `run`: the released one, where there is one. A line says which."""
        from stylemed.training.run import load_encoder

        released = self.released is not None and self.released.holds("encoder.safetensors")
        encoder = self.released.encoder if released else load_encoder(run)[0]
        print(f"from here: {_told(self.released) if released else 'the encoder of this chapter'}, {_kimg(encoder)}")
        return encoder

    def _run(self, name: str, need: str) -> Path:
        if self.released is not None and need in self.needs:
            return self.released.file(f"{need}.safetensors").parent
        # What a chapter trains on stand-ins stays apart from stand-ins that other chapters read; so does what it trains to be
        # watched, where a released model takes its place: it may be smaller than the store.
        apart = need not in self.needs and (self.small or self.released is not None)
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


def inputs(profile: str, needs: Iterable[str] = INPUTS, weights: str = FRESH) -> Inputs:
    """The inputs of a chapter, and one printed line for each that says where it came from.

    They are taken from `_build/<profile>/artifacts`, where the earlier chapters leave them. If one of `needs`
    is not there, all of them are made small on the spot, in a folder of their own: a chapter can be opened
    first and alone, sizes never mix, and nothing small passes for the real thing.

    weights: "fresh", networks that chapters trained; "released", those of the released model for the phantom at the store's
    resolution; or the name or folder of a released model. Its networks come from other slices than the store's, so that equal
    stores cannot be asked for. What has to hold is that it was learned from nobody on whom it is measured here: from no patient
    outside of the store's `train`, neither by a file nor by name. Names are needed because one body of the phantom makes another
    file in another phase or size; so that they say enough, chapter 1 numbers its test patients from 61 on, and its `train` may
    be known to the model, as it may be to a fresh one. Real scans go under other names in other collections, so "released" never
    takes a model for them; whoever names one says by that that its patients are others.
    Where "released" finds no model that fits, a printed sentence says why, and fresh networks take its place.

    Raises BadInput for an unknown profile or need, for a named model that does not fit, and for artifacts that were made from
    others than those beside them: a generator of another store has seen patients that are now `test`. A stand-in in its place
    would hide that.
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
    side = RESOLUTIONS.get(profile, SMALL)
    if weights != FRESH:
        result.released = _released(result, weights, side)
    made = tuple(need for need in needs if need == "store" or result.released is None)
    missing = [need for need in made if not _marker(folder, need).is_file()]
    if missing:
        side = side if made == ("store",) else SMALL
        result = Inputs(profile, folder / f"small-{side}", needs, small=True, released=result.released)
        print(f"Not made yet in {_shown(folder)}: {', '.join(missing)}. A small stand-in is used.")
        _make_small(result, made, side)
    _load(result, needs)
    if "generator" in needs:
        _note(folder, result.released)
    return result


def _released(result: Inputs, weights: str, side: int) -> Any:
    """The Bundle that `weights` asks for; None, after a printed sentence, where "released" finds none that fits."""
    from stylemed import pretrained
    from stylemed.data.store import SliceStore

    store = SliceStore.open(result.store_path) if _marker(result.folder, "store").is_file() else None
    name = f"phantom-{store.resolution if store else side}" if weights == RELEASED else weights
    try:
        if weights == RELEASED and store and not all(re.fullmatch(r"phantom\d+", p) for p in store.provenance.patients):
            raise BadInput("they are models of the phantom, and this store holds other patients")
        if weights == RELEASED and name not in pretrained.available():
            raise BadInput(f"there is no {name} yet")
        bundle = pretrained.load(name)
        if lacking := [need for need in result.needs if need != "store" and not bundle.holds(f"{need}.safetensors")]:
            raise BadInput(f"{bundle.name} has no {lacking[0]}")
        if store:
            _unseen(bundle.name, bundle.generator.provenance, store)
        return bundle
    except BadInput as error:
        if weights != RELEASED:
            raise
        print(f"Released weights cannot be used ({str(error).rstrip('.')}); fresh ones take their place.")
        return None


def _unseen(name: str, made: Provenance, store: Any) -> None:
    """BadInput where what was learned elsewhere does not fit the store, or from someone who is not in the store's `train`."""
    cure = "choose weights='fresh'"
    names = (f"the released {name}", "the store of this chapter")
    belong_together(made, store.provenance, names=names, same_store=False, cure=cure)
    others = [row for row, split in enumerate(store.slices["split"]) if split != "train"]
    if known := made.shared_patients(store.learned_from(others), by_name_alone=True):
        raise BadInput(f"{name} may have learned from {known[0]}, on whom the chapter would measure it; {cure}.")


def _note(folder: Path, bundle: Any) -> None:
    """Leave word of the released model the chapters read; see `networks`."""
    if bundle is None:
        (folder / NOTE).unlink(missing_ok=True)
    else:
        (folder / NOTE).write_text(str(bundle.path.resolve()))


def networks(folder: Path) -> tuple[Path, Path]:
    """Folders of the generator and the encoder that the chapters read last, by what they left in the artifacts `folder`."""
    if (folder / NOTE).is_file():
        released = Path((folder / NOTE).read_text())
        return released, released
    return folder / "gan", folder / "encoder"


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
    if result.released is not None:
        origin = _told(result.released)
    if "generator" in needs:
        from stylemed.training.run import load_generator

        result.generator, _ = load_generator(result.gan_path)
        _fit(result, learned, "generator", result.generator.provenance)
        print(f"generator: {origin}, {_kimg(result.generator)}")
    if "encoder" in needs:
        from stylemed.training.run import load_encoder

        result.encoder, _ = load_encoder(result.encoder_path)
        _fit(result, learned, "encoder", result.encoder.provenance)
        print(f"encoder:   {origin}, {_kimg(result.encoder)}")


def _fit(result: Inputs, learned: dict[str, Provenance], need: str, made: Provenance) -> None:
    """Refuse an artifact that was not made from those loaded before it, and name the chapters that make it again."""
    if result.released is not None:  # its parts were compared when it was released
        if result.store is not None:
            _unseen(result.released.name, made, result.store)
        return
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


def _told(bundle: Any) -> str:
    return f"{bundle.name}, released: learned from {bundle.data or f'{len(bundle.generator.provenance.patients)} patients'}"


def _kimg(network: Any) -> str:
    return f"trained on {(network.provenance.nimg or 0) / 1000:.1f} thousand images"


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
            folder / "phantom", 6, test_patients=4, first_test=FIRST_TEST, size=max(64, side), slices=24, progress=False
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


def stop(why: str) -> None:
    """End the chapter here, with a sentence in the place of all that follows. (Without a book around it, an exception.)"""
    raise ChapterEnds(why)


def need_labels(codes: Any, folds: int, seed: int) -> None:
    """End chapter 6 where `train` has too few labelled patients for a direction, or `test` none to walk.

    Where all splits together have enough, the AUC is measured by cross-validation by patient over all of them, and recorded: every
    slice is told by a classifier of other patients. No direction is kept: nobody would be left to measure a walk on.
    """
    from stylemed.latent.direction import find_direction, too_few_patients

    why = too_few_patients(codes, "tumor", "train")
    if why is None and not (codes.table["tumor_known"].to_numpy()[codes.find("test")] == 1).any():
        why = "no patient of the split 'test' has known tumors, so there is nobody to measure a walk on"
    if why is None:
        return
    (_current / "artifacts" / "direction.safetensors").unlink(missing_ok=True)  # of other data
    if few := too_few_patients(codes, "tumor", None):
        stop(f"No direction was looked for: {few}.")
    cv = find_direction(codes, "tumor", split=None, folds=folds, seed=seed).cv
    record("06_the_tumor_direction", **{f"all_{name}": cv[name] for name in ("auc", "low", "high")})
    record("06_the_tumor_direction", all_patients=cv["patients"], all_patients_with=cv["patients_with"])
    stop(f"No direction is kept: {why}. In cross-validation by patient over all splits, {_told_auc(cv)}.")


def need_judge(store: Any, direction: Any) -> None:
    """End chapter 6 where the store has too few patients for a judge; say how well the direction's classifier does."""
    from stylemed.training.reader import FEWEST_PATIENTS

    patients = store.slices["patient"].iloc[store.select("judge")].nunique()
    if patients >= FEWEST_PATIENTS:
        return
    told = {"in cross-validation by patient within train": direction.cv, "on held-out test patients": direction.test}
    aucs = "; ".join(f"{where}, {_told_auc(found)}" for where, found in told.items() if found)
    stop(
        f"Whether the walk makes tumors is not measured: the split 'judge' has {patients} patients, but a judge needs "
        f"{FEWEST_PATIENTS}. Of the classifier: {aucs}."
    )


def _told_auc(found: dict[str, Any]) -> str:
    ends = f"95 % interval {found['low']:.2f} to {found['high']:.2f}"
    return f"the AUC is {found['auc']:.2f} ({ends}; {found['patients']} patients, {found['patients_with']} with tumor slices)"


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
    told = f", {max(1, round(result.minutes))} min" if "--work" not in result.command else ""
    made = f"{result.made.get('commit', '')[:7]}, {result.made.get('date', '')}{told}"
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
