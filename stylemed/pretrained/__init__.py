"""Networks, codes and directions by name or by path: released models, run folders, .safetensors files."""

from pathlib import Path

from stylemed.errors import BadInput
from stylemed.files import no_such_file
from stylemed.latent.codes import Codes
from stylemed.latent.direction import Direction
from stylemed.networks import Encoder, Generator
from stylemed.pretrained.bundles import Bundle, available, load
from stylemed.training.reader import Judge, Labeller
from stylemed.training.run import load_encoder, load_generator

__all__ = ["Bundle", "available", "codes", "direction", "encoder", "folder", "generator", "judge", "labeller", "load"]


def generator(name_or_path: str | Path) -> tuple[Generator, dict]:
    """A generator in eval mode and its metadata; BadInput when there is none."""
    return load_generator(_path(name_or_path, "generator"))


def encoder(name_or_path: str | Path) -> tuple[Encoder, dict]:
    """An encoder in eval mode and its metadata; BadInput when there is none."""
    return load_encoder(_path(name_or_path, "encoder"))


def judge(name_or_path: str | Path) -> Judge:
    """A judge; BadInput when there is none."""
    return Judge.load(_path(name_or_path, "judge"))


def labeller(name_or_path: str | Path) -> Labeller:
    """A labeller; BadInput when there is none."""
    return Labeller.load(_path(name_or_path, "labeller"))


def codes(name_or_path: str | Path) -> Codes:
    """Codes; BadInput when there are none."""
    return Codes.load(_path(name_or_path, "codes"))


def direction(name_or_path: str | Path) -> Direction:
    """A direction: the first of a released model, or the one of MODEL:NAME. BadInput when there is none."""
    model, _, name = str(name_or_path).partition(":")
    if Path(name_or_path).exists() or not _is_name(model):
        return Direction.load(_path(name_or_path, "direction"))
    its = load(model).directions
    name = name or next(iter(its), "")
    if name not in its:
        asked = f"direction {name}" if name else "direction"
        raise BadInput(f"{model} has no {asked}; it has: {', '.join(its) or 'none'}.")
    return its[name]


def folder(name_or_path: str | Path) -> Path:
    """The folder of a released model, by its name; a path as it is."""
    return load(name_or_path).path if _is_name(name_or_path) else Path(name_or_path)


def _is_name(name_or_path: str | Path) -> bool:
    """A folder or file of that name goes before a released model."""
    return not Path(name_or_path).exists() and str(name_or_path) in available()


def _path(name_or_path: str | Path, noun: str) -> Path:
    if _is_name(name_or_path):
        return load(name_or_path).file(f"{noun}.safetensors")
    if not Path(name_or_path).exists():
        raise no_such_file(name_or_path, noun, f", or a released model ({', '.join(available())})")
    return Path(name_or_path)
