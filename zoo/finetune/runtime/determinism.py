"""Deterministic kernels of a GPU, for a run that has to give the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zoo.errors import RecipeError

WITHOUT = "does not have a deterministic implementation"
"""In the error of an operation that has none."""


@contextmanager
def deterministic(device: torch.device, requested: bool) -> Iterator[None]:
    """Allow only deterministic kernels inside the block, if it is requested; a CPU has no others.

    As https://docs.pytorch.org/docs/stable/notes/randomness.html says. Raises RecipeError, with its name, for an
    operation that has no deterministic kernel.
    """
    if not requested or device.type == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first matrix product of the process
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if WITHOUT not in str(error):
            raise
        name = str(error).partition(WITHOUT)[0].strip()
        raise RecipeError(
            f"deterministic=True: {name} has no deterministic kernel on {device.type}",
            fix="deterministic=False, or another backbone",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = kernels
