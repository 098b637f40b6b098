"""Distributed training (torchrun, accelerate launch): world size, collectives, and sharded tensors."""

from __future__ import annotations

import atexit
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

from zoo.errors import ZooError
from zoo.store import out_folder

LOST = re.compile("closed by peer|reset by peer|refused|[Tt]imed out|[Tt]imeout|Broken pipe|Socket|gloo")
"""In errors of gloo, which have no class of their own."""
_active = False


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that were launched together, inside the block; all have to run the same code in it.

    `device` is that of the model: on CPUs the processes communicate with gloo, whatever GPUs there are. Outside of it
    the world size is 1: one process may predict alone. Raises ZooError if the device is the GPU of another process, and
    where another process is lost: at once if it ended, after 30 minutes (NCCL: 10) if it does not answer.
    """
    global _active
    before, _active = _active, True
    try:
        if world_size() > 1 and not distributed.is_initialized():
            from accelerate import PartialState

            _check_own(device)
            if out_folder.is_restarted():
                _join_again(device)
            PartialState(cpu=device.type not in ("cuda", "xpu"))
            atexit.register(_leave)
        yield
    except RuntimeError as error:
        if world_size() == 1 or not (isinstance(error, distributed.DistError) or LOST.search(str(error))):
            raise
        raise ZooError(
            f"process {rank()} has lost another process of the run: {str(error).splitlines()[0]:.200}",
            fix="look for the error of that process; then the same command with --resume",
        ) from error
    finally:
        _active = before


def _join_again(device: torch.device) -> None:
    """Create the group of processes that torchrun started again.

    Its store still has the addresses of those that are gone, so these use names of their own.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = distributed.get_default_backend_for_device(device)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)


def _check_own(device: torch.device) -> None:
    """Raise ZooError for a GPU that is not the one with the local rank: two processes would share it, and wait."""
    rank = os.environ.get("LOCAL_RANK", "0")
    if device.index is not None and str(device.index) != rank:
        raise ZooError(
            f"the model of process {rank} (LOCAL_RANK={rank}) is on {device}, and each process has a GPU of its own",
            fix=f'--device {device.type}   (device="{device.type}", without a number)',
        )


def _leave() -> None:
    """Destroy the group: a gloo thread that frees its last tensor while Python exits would abort the process."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        time.sleep(0.1)  # releases the interpreter's lock, which such a thread still waits for


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _active else 1


def rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def shard(count: int) -> slice:
    """Return the rows of a batch of `count` that belong to this process."""
    return slice(rank() * count // world_size(), (rank() + 1) * count // world_size())


def shard_batches(batches: Sequence[Any]) -> list[Any]:
    """Return the batches of this process, as many on each to stay in step: the last one may be repeated."""
    rounds = -(-len(batches) // world_size())
    return [batches[min(turn * world_size() + rank(), len(batches) - 1)] for turn in range(rounds)]


def all_gather(value: Any) -> list[Any]:
    """Return the values of all processes, ordered by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Return the value of rank 0: a decision that all processes have to share."""
    if world_size() == 1:
        return value
    values: list[Any] = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until all processes arrive."""
    if world_size() > 1:
        distributed.barrier()


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor that is sharded over the processes; a collective call."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, tensor: Tensor) -> Tensor:
    """Return a value sharded as another tensor is, or full."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(tensor, DTensor):
        if isinstance(value, DTensor):
            return value
        # every process holds the value and takes its own shard: nothing is sent
        return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return full_tensor(value)


def copy_into(tensor: Tensor, value: Tensor) -> None:
    """Overwrite a tensor with a value; each may be sharded or full."""
    with torch.no_grad():
        tensor.copy_(value if world_size() == 1 else shard_like(value, tensor))
