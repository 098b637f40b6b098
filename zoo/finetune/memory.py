"""Memory that is full: how it is told apart from other errors."""

from __future__ import annotations

import gc

import torch


def is_full(error: BaseException) -> bool:
    """Tell whether an error says that the device, or the machine, has no memory left."""
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in said


def release() -> None:
    """Give back what a failed pass still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
