"""Several processes that train as one, started by torchrun.

Every random number is drawn for the whole batch in every process, and process r works on samples r, r + world, r + 2 world, …
Losses are means, so the mean of the processes' gradients is the gradient of the whole batch. Gradients are averaged by hand:
the wrappers of torch hide `mapping` and `synthesis`, and stumble over layers that are still unused and over R1's double backward.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stylemed.errors import BadInput
from stylemed.networks.layers import stddev_group_size


class Team:
    """The processes of one training; without torchrun a team of one, to which all of this is nothing."""

    def __init__(self, rank: int = 0, world: int = 1):
        self.rank, self.world = rank, world

    def share(self, x: Tensor | list, dim: int = 0):
        """This process's samples of a whole batch: n = rank modulo world along `dim`."""
        if self.world == 1:
            return x
        return x[self.rank :: self.world] if dim == 0 else x[:, self.rank :: self.world]

    def average(self, tensors: list[Tensor]) -> None:
        """Replace every tensor by its mean over the processes, in one message."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.detach().copy_(part.view_as(t))

    def agree(self, value: Any) -> Any:
        """What the first process says."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def check_batch(self, batch: int, group: int, resolution: int) -> None:
        """BadInput unless `batch` splits into equal shares that keep the groups of the minibatch standard deviation whole.

        Groups are strided (sample n of M groups belongs to group n mod M), so a share holds whole groups when its size is a
        multiple of the group's.
        """
        size = stddev_group_size(group, batch)
        if batch % (self.world * size):
            raise BadInput(
                f"A batch of {batch} at {resolution}² cannot be shared by {self.world} processes in whole groups of {size} "
                f"(minibatch standard deviation); take a batch that is a multiple of {self.world * size}, or fewer processes."
            )


def _world() -> int:
    """Processes that torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def refuse_team(who: str) -> None:
    """BadInput under torchrun, for a training that knows no team; `who` begins the sentence."""
    if _world() > 1:
        raise BadInput(f"{who} trains in one process; start it without torchrun.")


def join_team(device: torch.device) -> Team:
    """The team that torchrun's environment names (RANK, WORLD_SIZE); joins the process group if that is not done yet."""
    if _world() == 1:
        return Team()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Team(dist.get_rank(), dist.get_world_size())


def own_device(device: str | None) -> str:
    """The device that was asked for, else this process's GPU, else the CPU."""
    if device:
        try:
            kind = torch.device(device).type
        except RuntimeError:
            raise BadInput(f"There is no device {device}; give cpu, cuda or cuda:N, or leave it out.") from None
        if kind == "cuda" and not torch.cuda.is_available():
            raise BadInput(
                f"torch finds no GPU here, so {device} cannot be used; leave the device out to train on the CPU."
            )
        if device != "cuda":
            return device
    if not torch.cuda.is_available():
        return "cpu"
    device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    torch.cuda.set_device(device)
    return device
