"""A network goes on in a wider one that computes the same (Chen 2016, Net2Net): what is learned is kept, what is new can learn.

New feature maps are random, and nothing reads them yet: their outgoing weights are 0. The discriminator's minibatch standard
deviation is a mean over all maps of its last block, the one place where new ones are noticed at once.
"""

import math

import torch
from torch import Tensor, nn


def widened(network: nn.Module, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a Generator or Discriminator `network` that holds `given`, the state of one with the same or fewer feature maps.

    What `given` lacks (the blocks of a larger resolution) keeps `network`'s values. ValueError where it has something that does not
    fit in: other names, more maps, another latent size.
    """
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for name, old in given.items():
        new = state.get(name)
        if new is None or new.ndim != old.ndim or any(n < o for n, o in zip(new.shape, old.shape, strict=True)):
            raise ValueError(f"{name} {tuple(old.shape)} does not fit")
        if new.shape == old.shape:
            new.copy_(old)
            continue
        if name.endswith("const"):  # [1, C, 4, 4]
            new[:, : old.shape[1]] = old
            continue
        rows = torch.arange(len(old))
        if ".style." in name:  # scales of all maps, then shifts of all maps
            if new.shape[1:] != old.shape[1:]:
                raise ValueError(f"{name} {tuple(old.shape)} does not fit")
            half, wide = len(old) // 2, len(new) // 2
            rows = torch.where(rows < half, rows, rows - half + wide)
        if old.ndim == 1 or new.shape[1:] == old.shape[1:]:
            new[rows] = old
            continue
        if ".weight" not in name or "_mapping" in name:
            raise ValueError(f"{name} {tuple(old.shape)} does not fit")
        inputs = torch.arange(old.shape[1])
        if name == "tail.conv.weight" and old.shape[1] != len(old):  # the last input is the standard deviation
            inputs[-1] = new.shape[1] - 1
        new[rows] = 0
        # A weight is used divided by the square root of how many there are (equalised learning rate).
        new[rows[:, None], inputs] = old * math.sqrt(math.prod(new.shape[1:]) / math.prod(old.shape[1:]))
    return state
