"""Stage outputs: what modules inside a backbone return, caught and pooled during its one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Prepared

LAYOUTS = ("NCHW", "NHWC", "NTC")
"""Images by channel first or last, and tokens (of a text, or the patches of an image) by channel last."""

TINY = 1e-12
"""Least mean square by which features are divided."""


@dataclass(frozen=True, slots=True)
class StageOutput:
    """The output of a module that a head reads: the module's name, the layout of the tensor, its channels C.

    Where it is `scaled`, the head reads it divided by its root mean square over the channels, as the pooled features.
    """

    module: str
    layout: str
    dim: int
    scaled: bool = False

    def __post_init__(self) -> None:
        types_fit = isinstance(self.module, str) and type(self.dim) is int and type(self.scaled) is bool
        if not types_fit or self.layout not in LAYOUTS or self.dim < 1:
            raise ValueError(f"{self} is no stage output")


@contextmanager
def catch(
    backbone: nn.Module, stages: Sequence[StageOutput], keep: Callable[[Tensor, StageOutput], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that forward passes of this thread fill inside the block: module -> keep(its output, stage).

    The hooks exist inside the block alone, and ignore other threads, which run the same module at the same time.
    """
    found: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def hook_of(stage: StageOutput) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            if threading.get_ident() == thread and (tensor := first_tensor(output)) is not None:
                found[stage.module] = keep(tensor, stage)

        return hook

    handles = [backbone.get_submodule(stage.module).register_forward_hook(hook_of(stage)) for stage in stages]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Tensor | None:
    """Return the first floating-point tensor of a module's output: a tensor, or a tuple, list or mapping of them."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return next((tensor for part in parts if (tensor := first_tensor(part)) is not None), None)


def pool(output: Tensor, layout: str, inputs: Prepared) -> Tensor:
    """Return the float32 mean (N, C) over space, or over the tokens that are no padding."""
    if layout == "NCHW":
        return output.mean((2, 3), dtype=torch.float32)
    if layout == "NHWC":
        return output.mean((1, 2), dtype=torch.float32)
    if isinstance(inputs, Tensor):
        return output.mean(1, dtype=torch.float32)
    mask = inputs["attention_mask"].float()  # (N, T)
    return ((mask / mask.sum(1, keepdim=True))[:, None] @ output.float())[:, 0]  # (N, 1, T) @ (N, T, C) -> (N, C)


def scale_blocks(features: Tensor, stages: Sequence[StageOutput]) -> Tensor:
    """Return features (..., D) as a head on these stages reads them: each block divided by its root mean square.

    Blocks are the pooled features and, behind them, the output of each stage.
    """
    if not any(stage.scaled for stage in stages):
        return features
    dims = [stage.dim for stage in stages]
    blocks = features.split([features.shape[-1] - sum(dims), *dims], -1)
    squares = (block.square().mean(-1, keepdim=True) for block in blocks)
    return torch.cat([block * mean.clamp(min=TINY).rsqrt() for block, mean in zip(blocks, squares, strict=True)], -1)


def total_dim(dim: int, stages: Sequence[StageOutput]) -> int:
    """Return the number of features of a head that reads pooled features (N, dim) and stages."""
    return dim + sum(stage.dim for stage in stages)
