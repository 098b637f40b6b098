"""Resolve a device name, "auto" included."""

from __future__ import annotations

import os

import torch

from zoo.errors import ZooError


def resolve_device(device: str | torch.device) -> torch.device:
    """Return a device that works; "auto" is the GPU of this process if there is one. ZooError for any other.

    Of several kinds "auto" takes the first of cuda (NVIDIA, AMD), xpu (Intel) and mps (Apple).
    """
    if device == "auto":
        return _first_gpu() or torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ZooError(
            f"device={str(device)!r} cannot be used: {str(error).splitlines()[0]}", fix='device="auto", or "cpu"'
        ) from error
    return resolved


def _first_gpu() -> torch.device | None:
    """Return the GPU of this process: one for each process launched on this machine; a Mac has one for one process."""
    index = os.environ.get("LOCAL_RANK", "0")
    if torch.cuda.is_available():
        return torch.device(f"cuda:{index}")
    if torch.xpu.is_available():
        return torch.device(f"xpu:{index}")
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return torch.device("mps") if alone and torch.backends.mps.is_available() else None
