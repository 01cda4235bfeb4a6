"""Networks by name or by path. No weights are released yet: every name is a run folder or a .safetensors file."""

from pathlib import Path

from stylemed.networks import Encoder, Generator
from stylemed.training.run import load_encoder, load_generator


def generator(name_or_path: str | Path) -> tuple[Generator, dict]:
    """A generator in eval mode and its metadata; BadInput when there is none."""
    return load_generator(name_or_path)


def encoder(name_or_path: str | Path) -> tuple[Encoder, dict]:
    """An encoder in eval mode and its metadata; BadInput when there is none."""
    return load_encoder(name_or_path)
