"""Our networks against the outputs of the original implementation, where its reference file is at hand (STYLEMED_REFERENCE)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from stylemed.networks import Discriminator, Generator, from_original

FOLDER = os.environ.get("STYLEMED_REFERENCE")
FILES = sorted(Path(FOLDER).glob("stylegan1-*.npz")) if FOLDER else []
pytestmark = pytest.mark.skipif(not FILES, reason="STYLEMED_REFERENCE names no folder with reference outputs")


def relative_l2(ours: torch.Tensor, theirs: np.ndarray) -> float:
    ours, theirs = ours.detach().double().numpy(), theirs.astype(np.float64)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def of(network: str, reference) -> dict[str, np.ndarray]:
    """The variables of one network in a reference file, which holds those of both."""
    starts = {"generator": ("var/G_", "var/dlatent_avg"), "discriminator": ("var/D/",)}[network]
    return {name: reference[name] for name in reference if name.startswith(starts)}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_every_output_agrees_with_the_original(file):
    reference = np.load(file)
    generator, discriminator = (from_original(of(network, reference)) for network in ("generator", "discriminator"))
    assert isinstance(generator, Generator) and isinstance(discriminator, Discriminator)
    tensor = {name: torch.from_numpy(reference[name]) for name in ("z", "W", "x")}
    layers = generator.num_layers
    errors = {
        "w": relative_l2(generator.broadcast(generator.mapping(tensor["z"])), reference["w"]),
        "imgc0": relative_l2(generator.synthesis(tensor["W"][:, :1].expand(-1, layers, -1)), reference["imgc0"]),
    }
    for name in [n for n in reference.files if n.startswith("img") and n != "imgc0"]:
        lod = float(name.removeprefix("img"))
        errors[name] = relative_l2(generator.synthesis(tensor["W"], lod=lod), reference[name])
        errors[f"score{lod:g}"] = relative_l2(discriminator(tensor["x"], lod=lod), reference[f"score{lod:g}"])
    x = tensor["x"].requires_grad_()
    (gx,) = torch.autograd.grad(discriminator(x).sum(), x)
    errors["r1"] = relative_l2(gx.square().sum(dim=(1, 2, 3)).mean(), reference["r1"])
    errors["gx"] = relative_l2(gx, reference["gx"])
    print({name: f"{error:.1e}" for name, error in errors.items()})
    assert all(error <= 4e-6 for error in errors.values()), errors


@pytest.mark.parametrize("file", FILES[:1], ids=lambda f: f.name)
def test_what_is_missing_unknown_or_of_both_networks_is_named(file):
    reference = np.load(file)
    generator, discriminator = of("generator", reference), of("discriminator", reference)
    gone = {k: v for k, v in generator.items() if k != "var/G_synthesis/8x8/Conv1/bias"}
    with pytest.raises(KeyError, match="8x8/Conv1/bias"):
        from_original(gone)
    with pytest.raises(KeyError, match="D/8x8/Extra/weight"):
        from_original(discriminator | {"D/8x8/Extra/weight": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match="one of them at a time"):
        from_original(reference)
    with pytest.raises(KeyError, match="no layer of the original"):
        from_original({"conv1.weight": np.zeros(3, np.float32)})
