"""Weights of the original StyleGAN implementation -> our networks.

The original stores convolutions as [kh, kw, in, out] and dense layers as [in, out], names layers by resolution and numbers the
image layers by level of detail (0 is the full resolution). Where it fuses upscaling and convolution (output side of 128 and more)
it does not flip the kernel, so those weights are turned by 180 degrees here.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from stylemed.networks.discriminator import Discriminator
from stylemed.networks.generator import Generator
from stylemed.networks.layers import feature_maps

FUSED_FROM = 128  # output side from which the original fuses upscaling and convolution
GENERATOR, DISCRIMINATOR = ("G_mapping/", "G_synthesis/", "dlatent_avg"), ("D/",)  # how their variables begin


def from_original(variables: Mapping) -> Generator | Discriminator:
    """Our network with the weights of the original one: a Generator or a Discriminator, by what the variables are.

    Args:
        variables: original names ("G_mapping/Dense0/weight", "G_synthesis/4x4/Const/const", …, or "D/32x32/Conv0/weight", …; a
            "var/" before them is allowed) to arrays; other names are passed over. Resolution, widths, channels, latent size and
            depth are read from them. "dlatent_avg" becomes w_avg.

    Raises KeyError for a missing or an unknown variable, ValueError for a wrong shape and for variables of both networks.
    """
    names = [key.removeprefix("var/") for key in variables]
    generator, discriminator = (any(name.startswith(kind) for name in names) for kind in (GENERATOR, DISCRIMINATOR))
    if generator and discriminator:
        raise ValueError(
            "these are variables of a generator and of a discriminator; give those of one of them at a time"
        )
    return _discriminator(variables) if discriminator else _generator(variables)


class _Variables:
    """The given mapping, read one variable at a time; knows which were asked for and which were left over."""

    def __init__(self, variables: Mapping, network: str, prefixes: tuple[str, ...]):
        self.network = network
        self.values = {}
        for key in variables:
            name = key.removeprefix("var/")
            if name.startswith(prefixes):
                self.values[name] = variables[key]
        self.left = set(self.values) - {prefix + "lod" for prefix in prefixes}
        self.wanted: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def shape(self, name: str) -> tuple[int, ...]:
        self._require(name)
        return np.shape(self.values[name])

    def _require(self, name: str) -> None:
        if name not in self.values:
            raise KeyError(f"variable {name} of the original {self.network} is missing")

    def copy(self, name: str, target: torch.Tensor, layout: str = "as is", flip: bool = False) -> None:
        """Copy a variable into `target`; layout "conv" and "dense" change the order of the axes."""
        self._require(name)
        self.left.discard(name)
        value = np.array(self.values[name], dtype=np.float32)
        if layout == "conv":
            value = value.transpose(3, 2, 0, 1)
        elif layout == "dense":
            value = value.T
        if flip:
            value = value[..., ::-1, ::-1]
        if value.shape != tuple(target.shape):
            raise ValueError(
                f"variable {name} of the original {self.network} has shape {value.shape}, {tuple(target.shape)} was expected"
            )
        target.data.copy_(torch.from_numpy(value.copy()))

    def layer(self, name: str, module: nn.Module, layout: str, flip: bool = False) -> None:
        self.copy(f"{name}/weight", module.weight, layout, flip)
        self.copy(f"{name}/bias", module.bias)

    def close(self) -> None:
        if self.left:
            raise KeyError(f"unknown variables of the original {self.network}: {', '.join(sorted(self.left))}")

    def resolution(self, prefix: str) -> int:
        """The largest R for which a layer `prefix`RxR/ exists."""
        heads = (name[len(prefix) :].split("/")[0] for name in self.values if name.startswith(prefix))
        sides = [int(head.split("x")[0]) for head in heads if "x" in head and head.split("x")[0].isdigit()]
        if not sides:
            raise KeyError(f"no layer of the original {self.network} was found (names like {prefix}4x4/Conv/weight)")
        return max(sides)


def _width_rule(widths: dict[int, int]) -> tuple[int, int]:
    """(fmap_base, fmap_max) behind the widths found at each side; ValueError when no such pair gives them."""
    finest, fmap_max = max(widths), max(widths.values())
    fmap_base = widths[finest] * finest // 2
    for side, width in widths.items():
        if feature_maps(side, fmap_base, fmap_max) != width:
            raise ValueError(
                f"width {width} at {side}x{side} does not follow min(2 * fmap_base / resolution, fmap_max)"
            )
    return fmap_base, fmap_max


def _generator(variables: Mapping) -> Generator:
    v = _Variables(variables, "generator", GENERATOR)
    synthesis = "G_synthesis/"
    resolution = v.resolution(synthesis)
    depth = sum(name.startswith("G_mapping/Dense") and name.endswith("/weight") for name in v.values)
    sides = [2**k for k in range(2, resolution.bit_length())]
    widths = {side: v.shape(f"{synthesis}{side}x{side}/{'Conv' if side == 4 else 'Conv1'}/bias")[0] for side in sides}
    fmap_base, fmap_max = _width_rule(widths)
    network = Generator(
        resolution=resolution,
        channels=v.shape(f"{synthesis}ToRGB_lod0/bias")[0],
        latent_size=v.shape("G_mapping/Dense0/weight")[0],
        mapping_layers=depth,
        fmap_base=fmap_base,
        fmap_max=fmap_max,
    )
    for i, layer in enumerate(network.mapping_network.layers):
        v.layer(f"G_mapping/Dense{i}", layer, "dense")
    for i, (side, block) in enumerate(zip(network.resolutions, network.blocks, strict=True)):
        at = f"{synthesis}{side}x{side}/"
        if i == 0:
            names = [at + "Const", at + "Conv"]
            v.copy(at + "Const/const", block.const)
            v.copy(at + "Const/bias", block.const_bias)
        else:
            names = [at + "Conv0_up", at + "Conv1"]
            v.layer(names[0], block.up, "conv", flip=side >= FUSED_FROM)
        v.layer(names[1], block.conv, "conv")
        for name, styled in zip(names, block.styled, strict=True):
            v.copy(name + "/Noise/weight", styled.noise_strength)
            v.layer(name + "/StyleMod", styled.style, "dense")
        v.layer(f"{synthesis}ToRGB_lod{len(network.blocks) - 1 - i}", network.to_image[i], "conv")
    for layer in range(network.num_layers):
        v.copy(f"{synthesis}noise{layer}", getattr(network, f"noise{layer}"))
    if "dlatent_avg" in v:
        v.copy("dlatent_avg", network.w_avg)
    v.close()
    return network


def _discriminator(variables: Mapping) -> Discriminator:
    v = _Variables(variables, "discriminator", DISCRIMINATOR)
    resolution = v.resolution("D/")
    lods = resolution.bit_length() - 3
    widths = {4 * 2**i: v.shape(f"D/FromRGB_lod{lods - i}/bias")[0] for i in range(lods + 1)}
    fmap_base, fmap_max = _width_rule(widths)
    grouped = v.shape("D/4x4/Conv/weight")[2] == widths[4] + 1
    network = Discriminator(
        resolution=resolution,
        channels=v.shape("D/FromRGB_lod0/weight")[2],
        fmap_base=fmap_base,
        fmap_max=fmap_max,
        stddev_group=4 if grouped else 1,
    )
    for i, layer in enumerate(network.from_image):
        v.layer(f"D/FromRGB_lod{lods - i}", layer, "conv")
    for i, block in enumerate(network.blocks):
        side = network.resolutions[i + 1]
        v.layer(f"D/{side}x{side}/Conv0", block.conv, "conv")
        v.layer(f"D/{side}x{side}/Conv1_down", block.down, "conv")
    v.layer("D/4x4/Conv", network.tail.conv, "conv")
    v.layer("D/4x4/Dense0", network.tail.dense0, "dense")
    v.layer("D/4x4/Dense1", network.tail.dense1, "dense")
    v.close()
    return network
