"""Weights in fewer bits, for files that travel: half precision, or eight bits with a scale for each output.

What is read back is what every later artifact is made from: a network is rounded first and then used, so that no digest and no
number changes when it is stored.
"""

import torch
from torch import Tensor

STORAGES = ("float32", "float16", "int8")
SCALE = "::scale"  # appended to the name of an eight-bit tensor: its scales
FEWEST = 4096  # values that are worth eight bits; smaller tensors, biases and statistics keep half precision


def pack(tensors: dict[str, Tensor], storage: str) -> dict[str, Tensor]:
    """A state dict as it is stored. "float16": floats in half precision. "int8": large weights [O, ...] as integers of -127 to 127
    and a float32 scale [O] each, the largest value of a row at 127; the rest in half precision. What is beyond half precision's
    range stays as it is."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if storage == "float32" or not tensor.is_floating_point():
            packed[name] = tensor
        elif storage == "int8" and tensor.ndim > 1 and tensor.numel() >= FEWEST:
            scale = tensor.flatten(1).abs().amax(dim=1).clamp_min(1e-12) / 127
            packed[name] = (tensor / _rows(scale, tensor)).round().to(torch.int8)
            packed[name + SCALE] = scale
        else:
            half = tensor.half()
            lost = tensor.ndim < 2 and bool(
                ((half == 0) & (tensor != 0)).any()
            )  # a variance may not become 0, a weight may
            packed[name] = half if half.isfinite().all() and not lost else tensor
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that `pack` stored, in float32."""
    tensors = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8 and name + SCALE in packed:
            tensor = tensor.float() * _rows(packed[name + SCALE], tensor)
        tensors[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return tensors


def _rows(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (tensor.ndim - 1))
