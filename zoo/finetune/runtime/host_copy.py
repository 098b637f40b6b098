"""Copies of results from a GPU to the CPU that do not wait for what was launched after them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.finetune.runtime.torch_internals import tree_flatten, tree_unflatten

Result = TypeVar("Result")


def to_host(result: Result, device: torch.device) -> Callable[[], Result]:
    """Start to copy the tensors of a result to the CPU; the function returned waits for the copies and returns them.

    Work on a GPU is in order: a copy that is asked for when the next batch is under way would wait for that one too,
    and leave the GPU idle while the one after it is launched. Other devices copy when the function is called.
    """
    if device.type != "cuda":
        return lambda: _mapped(result, Tensor.cpu)
    copies = _mapped(result, lambda tensor: tensor.to("cpu", non_blocking=True))  # to page-locked memory
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(device))

    def wait() -> Result:
        copied.synchronize()
        return copies

    return wait


def _mapped(result: Result, function: Callable[[Tensor], Tensor]) -> Result:
    leaves, tree = tree_flatten(result)
    found: Any = tree_unflatten([function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], tree)
    mapped: Result = found
    return mapped
