"""Resolve a device name, "auto" included."""

from __future__ import annotations

import os

import torch

from zoo.errors import ZooError


def resolve_device(device: str | torch.device) -> torch.device:
    """Return a device that works; "auto" is the GPU of this process if there is one. ZooError for any other."""
    if device == "auto":
        index = os.environ.get("LOCAL_RANK", "0")  # one GPU for each process launched on this machine
        return torch.device(f"cuda:{index}" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ZooError(
            f"device={str(device)!r} cannot be used: {str(error).splitlines()[0]}", fix='device="auto", or "cpu"'
        ) from error
    return resolved
