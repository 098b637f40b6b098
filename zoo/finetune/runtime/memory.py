"""Out-of-memory errors of any device."""

from __future__ import annotations

import gc

import torch

MESSAGES = ("DefaultCPUAllocator", "MPS backend out of memory", "Invalid buffer size", "OUT_OF_DEVICE_MEMORY")
"""Parts of messages of plain RuntimeErrors: of the CPU, of Metal (twice), and of Intel's driver."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device, or the machine, has no memory left."""
    message = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(part in message for part in MESSAGES)


def release() -> None:
    """Release what a failed pass still holds."""
    gc.collect()
    for device, available in (
        (torch.cuda, torch.cuda.is_available),
        (torch.xpu, torch.xpu.is_available),
        (torch.mps, torch.backends.mps.is_available),
    ):
        if available():
            device.empty_cache()
