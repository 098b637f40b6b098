"""Resolve a device name, "auto" included."""

from __future__ import annotations

import os

import torch

from zoo.errors import ZooError

GPUS = {"cuda": torch.cuda, "xpu": torch.xpu}
"""Kinds of GPUs of which a machine may have several, the preferred first."""


def resolve_device(device: str | torch.device) -> torch.device:
    """Return a device that works; "auto" is the GPU of this process if there is one. ZooError for any other.

    Of several kinds "auto" takes the first of cuda (NVIDIA, AMD), xpu (Intel) and mps (Apple). Of processes launched
    together on one machine each has the GPU with its local rank, also for "cuda" and "xpu" without a number.
    """
    if device == "auto":
        kind = _first_gpu()
        return torch.device("cpu") if kind is None else _of_this_process(torch.device(kind))
    try:
        resolved = _of_this_process(torch.device(device))
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ZooError(
            f"device={str(device)!r} cannot be used: {str(error).splitlines()[0]}", fix='device="auto", or "cpu"'
        ) from error
    return resolved


def _first_gpu() -> str | None:
    """Return the kind of GPU to use; a Mac has one GPU, for one process."""
    for kind, module in GPUS.items():
        if module.is_available():
            return kind
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return "mps" if alone and torch.backends.mps.is_available() else None


def _of_this_process(device: torch.device) -> torch.device:
    """Return the GPU of this process for a kind of GPU; any other device as it is."""
    rank = os.environ.get("LOCAL_RANK")
    if ":" in str(device) or device.type not in GPUS:
        return device
    count = GPUS[device.type].device_count()
    if rank is not None and int(rank) >= count > 0:
        raise ZooError(
            f"process {rank} of this machine (LOCAL_RANK={rank}) has no GPU: {device.type} has {count}",
            fix=f'torchrun --nproc-per-node {count} …, or --device cpu   (device="cpu")',
        )
    return torch.device(device.type, int(rank or 0))
