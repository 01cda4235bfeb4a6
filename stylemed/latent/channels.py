"""Edits of single style channels: the numbers that a styled layer takes from w, one by one (Wu, Lischinski and Shechtman 2021).

A direction in W moves all of them at once. What one alone does is often local, and may be what no line in W can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stylemed.latent.generation import random_styles
from stylemed.latent.mixing import synthesize


@dataclass(frozen=True, order=True)
class Channel:
    """One number of the style of a layer: scale or shift of one of its feature maps."""

    layer: int
    index: int
    shift: bool

    def __str__(self) -> str:
        return f"layer {self.layer}, {'shift' if self.shift else 'scale'} {self.index}"


def channels_of(generator) -> list[Channel]:
    """All of them, layer by layer; two for each feature map of each layer."""
    sizes = [_affine(generator, layer).weight.shape[0] // 2 for layer in range(generator.num_layers)]
    return [Channel(layer, i, shift) for layer, n in enumerate(sizes) for shift in (False, True) for i in range(n)]


@torch.no_grad()
def spread_of_channels(generator, count: int = 1024, seed: int = 0) -> dict[Channel, float]:
    """Standard deviation of each channel over `count` random styles, untruncated."""
    styles = random_styles(generator, count, 1.0, seed)
    spread = {}
    for layer in range(generator.num_layers):
        scale, shift = _affine(generator, layer)(styles[:, layer]).std(dim=0).chunk(2)
        for is_shift, values in ((False, scale), (True, shift)):
            spread |= {Channel(layer, i, is_shift): value for i, value in enumerate(values.tolist())}
    return spread


def moved(generator, w_plus, channel: Channel, by: float) -> Tensor:
    """Images [N, C, R, R] of codes [N, L, latent] whose `channel` is raised by so much; on the CPU."""
    with _raised(generator, channel, by):
        return synthesize(generator, w_plus)


def slopes(generator, w_plus, tell: Callable[[Tensor], Tensor]) -> dict[Channel, float]:
    """Mean derivative of tell(images) [N] by each channel, at the images of codes [N, L, latent]."""
    layers = range(generator.num_layers)
    moves = [torch.zeros(_affine(generator, layer).weight.shape[0], requires_grad=True) for layer in layers]
    with ExitStack() as stack, torch.enable_grad():
        for layer, move in zip(layers, moves, strict=True):
            stack.enter_context(_hooked(generator, layer, lambda style, move=move: style + move))
        found = torch.autograd.grad(tell(generator.synthesis(torch.as_tensor(w_plus))).mean(), moves)
    parts = [part.chunk(2) for part in found]
    return {one: parts[one.layer][one.shift][one.index].item() for one in channels_of(generator)}


def _affine(generator, layer: int) -> nn.Module:
    return generator.blocks[layer // 2].styled[layer % 2].style


def _raised(generator, channel: Channel, by: float):
    def raise_one(style: Tensor) -> Tensor:
        where = channel.index + channel.shift * (style.shape[1] // 2)
        return style + by * nn.functional.one_hot(torch.tensor(where), style.shape[1]).to(style)

    return _hooked(generator, channel.layer, raise_one)


@contextmanager
def _hooked(generator, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The style of a layer goes through `change`, for as long as this lasts."""
    handle = _affine(generator, layer).register_forward_hook(lambda _module, _inputs, style: change(style))
    try:
        yield
    finally:
        handle.remove()
