"""Networks by name or by path: released models, run folders, .safetensors files."""

from pathlib import Path

from stylemed.networks import Encoder, Generator
from stylemed.pretrained.bundles import Bundle, available, load
from stylemed.training.run import load_encoder, load_generator

__all__ = ["Bundle", "available", "encoder", "generator", "load"]


def generator(name_or_path: str | Path) -> tuple[Generator, dict]:
    """A generator in eval mode and its metadata; BadInput when there is none."""
    return load_generator(_path(name_or_path, "generator"))


def encoder(name_or_path: str | Path) -> tuple[Encoder, dict]:
    """An encoder in eval mode and its metadata; BadInput when there is none."""
    return load_encoder(_path(name_or_path, "encoder"))


def _path(name_or_path: str | Path, noun: str) -> Path:
    """A folder or file of that name goes before a released model."""
    if not Path(name_or_path).exists() and str(name_or_path) in available():
        return load(name_or_path).file(f"{noun}.safetensors")
    return Path(name_or_path)
