"""The frozen prefix: the first stages of a backbone run once, later passes start from their cached activations.

The backbone's own forward still runs; stubs replace the frozen modules. The last stub returns the cached activation of
the batch, the others zeros of the right shape, which nothing reads. A trial batch checks this; where the features
differ, every stage runs in each pass.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Dataset
from zoo.finetune.features.prefix_activations import KEY, cached, size_of
from zoo.finetune.features.prefix_units import Unit, frozen_units, text_length
from zoo.finetune.freezing import eval_mode
from zoo.finetune.network import autocast, check_features
from zoo.finetune.runtime.torch_internals import tree_unflatten
from zoo.plugin import Backbone, Features, ImageInput, TextInput
from zoo.store import home

MAX_BYTES = 8 << 30
"""Largest cache; it takes at most half of the free disk space."""
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-2}
"""Largest difference of replayed features, relative to the largest feature."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The datasets to use inside the block, and a description of what is cached, or why nothing is."""

    datasets: tuple[Dataset | None, ...]
    description: str


class CurrentBatch(threading.local):
    """Cached activations of the current batch of a thread."""

    activations: Sequence[Tensor] = ()
    count: int = 0
    length: int = 0


@contextmanager
def frozen_prefix(
    backbone: Backbone, datasets: Sequence[Dataset | None], frozen: int, *, precision: str, max_bytes: int = MAX_BYTES
) -> Iterator[Replay]:
    """Run the first `frozen` stages once over the datasets; inside the block the backbone starts behind them.

    The datasets have to be used without augmentation. Modules and state dict are as before on exit.
    """
    whole = tuple(datasets)
    data = _first(whole)
    if not 0 < frozen < len(backbone.stages):
        yield Replay(whole, "")
        return
    units, why_not = frozen_units(backbone, frozen, data, precision)
    size = sum(size_of(units[-1], one) for one in whole if one is not None) if units else 0
    if not why_not and size > min(max_bytes, shutil.disk_usage(_existing(home())).free // 2):
        why_not = f"their activations would take {size / 1e9:,.1f} GB"
    served: tuple[Dataset | None, ...] = ()
    if not why_not:
        try:
            served = cached(backbone, units[-1], whole, size, precision)
        except OSError as error:
            why_not = f"their activations cannot be written: {error.strerror}"
    if why_not:
        yield Replay(whole, f"the {frozen} frozen stages run each time: {why_not}")
        return
    expected = _features(backbone.module, data, precision)
    with _stubs(backbone, units):
        difference = _replay_error(expected, backbone.module, _first(served), precision)
        if difference <= TOLERANCE[precision]:
            count = sum(len(one) for one in whole if one is not None)
            share = f"{frozen} of {len(backbone.stages)} stages run once"
            yield Replay(served, f"{share}: {count:,} activations, {size / 1e6:,.0f} MB")
            return
    del served
    why_not = f"their activations do not replay (largest difference {difference:.2g})"
    yield Replay(whole, f"the {frozen} frozen stages run each time: {why_not}")


def _first(datasets: Sequence[Dataset | None]) -> Dataset:
    return next(one for one in datasets if one is not None)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


@contextmanager
def _stubs(backbone: Backbone, units: Sequence[Unit]) -> Iterator[None]:
    """Replace the forward of the units, and let the module take batches of CachedPrefix; undone on exit."""
    current, module = CurrentBatch(), backbone.module
    before = [vars(unit.module).get("forward") for unit in units]
    hook = module.register_forward_pre_hook(lambda _, args: (_unpack(args[0], current, backbone.input), *args[1:]))
    for unit in units:
        unit.module.forward = _stub(unit, current, last=unit is units[-1])
    try:
        yield
    finally:
        hook.remove()
        for unit, forward in zip(units, before, strict=True):
            del unit.module.forward
            if forward is not None:
                unit.module.forward = forward


def _unpack(inputs: Any, current: CurrentBatch, spec: ImageInput | TextInput) -> Any:
    """Move the activations of a batch to where the last stub reads them; returns the module's own inputs.

    Of images, (N, C, S, S), only the shape is read: they are one zero.
    """
    if not isinstance(inputs, dict) or f"{KEY}0" not in inputs:
        raise TypeError("inside `frozen_prefix` a backbone takes only batches of its datasets")
    plain = {name: value for name, value in inputs.items() if not name.startswith(KEY)}
    current.activations = [inputs[f"{KEY}{number}"] for number in range(len(inputs) - len(plain))]
    current.count, current.length = len(current.activations[0]), text_length(plain)
    if isinstance(spec, TextInput):
        return plain
    first = current.activations[0]
    return torch.zeros((), device=first.device).expand(current.count, spec.channels, spec.size, spec.size)


def _stub(unit: Unit, current: CurrentBatch, *, last: bool) -> Callable[..., Any]:
    """Return a forward that returns the cached activations (last), or zeros that take no memory."""
    leaves, structure = unit.structure

    def forward(*_: Any, **__: Any) -> Any:
        device = current.activations[0].device
        zeros = (
            torch.zeros((), dtype=leaf.dtype, device=device).expand(leaf.batch_shape(current.count, current.length))
            for leaf in unit.leaves
        )
        tensors = iter(current.activations if last else zeros)
        return tree_unflatten([next(tensors) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)

    return forward


def _features(module: nn.Module, data: Dataset, precision: str) -> Features:
    """Return the features of the first few examples."""
    device = next(module.parameters()).device
    batch = data.batch(torch.arange(min(8, len(data)))).to(device)
    with eval_mode(module), autocast(device, precision):
        return check_features(module(batch.inputs))


def _replay_error(expected: Features, module: nn.Module, data: Dataset, precision: str) -> float:
    """Return the error of replayed features; infinite if the backbone's forward cannot work with stubs."""
    try:
        return _difference(expected, _features(module, data, precision))
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
        return math.inf


def _difference(one: Features, two: Features) -> float:
    """Return the largest difference of two features, relative to the largest of the first; padding is ignored."""
    pairs = [(one.pooled, two.pooled)]
    if one.tokens is not None and two.tokens is not None:
        kept = slice(None) if one.mask is None else one.mask.bool()
        pairs.append((one.tokens[kept], two.tokens[kept]))
    errors = [float((a.float() - b.float()).abs().max() / a.float().abs().max().clamp(min=1e-6)) for a, b in pairs]
    return max(errors)
