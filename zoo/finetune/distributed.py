"""The processes that train one model together (accelerate launch, torchrun), and what they tell each other."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

_together = False


@contextmanager
def together() -> Iterator[None]:
    """Work with the other processes, if this one was launched as one of several; all have to do the same inside.

    Outside each works for itself: one of them may predict alone.
    """
    global _together
    before, _together = _together, True
    try:
        if world() > 1 and not distributed.is_initialized():
            from accelerate import PartialState

            PartialState(cpu=not torch.cuda.is_available())
            atexit.register(_part)
        yield
    finally:
        _together = before


def _part() -> None:
    """Leave the other processes; a thread of the group that lets go of its last tensor as Python ends would abort."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(0.1)  # without the interpreter's lock, which is all that such a thread still waits for


def world() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _together else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def share(count: int) -> slice:
    """Return which of `count` examples of a batch this process works on."""
    return slice(rank() * count // world(), (rank() + 1) * count // world())


def gathered(mine: Any) -> list[Any]:
    """Return what every process has, in the order of their ranks."""
    if world() == 1:
        return [mine]
    every: list[Any] = [None] * world()
    distributed.all_gather_object(every, mine)
    return every


def agreed(mine: Any) -> Any:
    """Return what process 0 has: a decision that all of them have to take alike."""
    if world() == 1:
        return mine
    held: list[Any] = [mine]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def wait() -> None:
    """Go on when all processes have come here."""
    if world() > 1:
        distributed.barrier()


def mine(batches: Sequence[Any]) -> list[Any]:
    """Return the batches of this process; each gets as many, to stay in step, so the last may be done twice."""
    rounds = -(-len(batches) // world())
    return [batches[min(turn * world() + rank(), len(batches) - 1)] for turn in range(rounds)]


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that is not spread; every process has to ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """Return a value spread as another tensor is, or not."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(tensor, DTensor):
        if isinstance(value, DTensor):
            return value
        # every process has the value: each takes its part, and nothing is sent
        return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return whole(value)


def copy_into(tensor: Tensor, value: Tensor) -> None:
    """Overwrite a tensor, spread or not, with a value, spread or not."""
    with torch.no_grad():
        tensor.copy_(value if world() == 1 else like(value, tensor))
