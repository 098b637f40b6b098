"""The frozen first stages of a backbone, run once: their last activation is kept and handed out from then on.

The family's own forward still runs: while training, the frozen modules are stood in for by stubs. The one that is
called last gives what it gave for these examples, those before it a zero of the right shape, which nobody looks at.
Whether that is so is checked on a batch; where it is not, everything runs each time.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from zoo.data.datasets import Set
from zoo.finetune.features.prefix_activations import KEY, kept, size_of
from zoo.finetune.features.prefix_units import Unit, frozen_units, length_of
from zoo.finetune.network import autocast, evaluating, to_device
from zoo.plugin import Backbone, Features
from zoo.store import home

LIMIT = 8 << 30
"""Bytes of activations at most; never more than half of what is free on the disk."""
CLOSE = {"fp32": 1e-4, "bf16": 3e-2}
"""The largest difference, relative to the largest feature, by which a replay may be off."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The sets to train and measure on instead, and in words what was kept, or why nothing was."""

    sets: tuple[Set | None, ...]
    said: str
    cached: bool


@dataclass(slots=True)
class Hand:
    """What the stubs hand out for the batch at hand."""

    given: list[Tensor] = field(default_factory=list)
    count: int = 0
    length: int = 0


@contextmanager
def replayed(
    backbone: Backbone,
    sets: Sequence[Set | None],
    frozen: int,
    *,
    precision: str,
    batch_size: int = 64,
    limit: int = LIMIT,
) -> Iterator[Replay]:
    """Run the first `frozen` stages once over the sets; inside the block the backbone starts behind them.

    The sets have to be batched without augmentation. Afterwards the backbone is as it was; its state dict always is.
    """
    whole = tuple(sets)
    data = _first(whole)
    if not 0 < frozen < len(backbone.stages):
        yield Replay(whole, "", False)
        return
    units, why = frozen_units(backbone, frozen, data, precision)
    size = sum(size_of(units[-1], one) for one in whole if one is not None) if units else 0
    if not why and size > min(limit, shutil.disk_usage(_existing(home())).free // 2):
        why = f"their activations would take {size / 1e9:,.1f} GB"
    if why:
        yield Replay(whole, f"the {frozen} frozen stages run each time: {why}", False)
        return
    with kept(backbone, units[-1], whole, size, precision, batch_size) as stored:
        expected = _features(backbone.module, data, precision)
        with _stubbed(backbone.module, units):
            off = _off(expected, backbone.module, _first(stored), precision)
            if off <= CLOSE[precision]:
                count = sum(len(one) for one in whole if one is not None)
                said = (
                    f"{frozen} of {len(backbone.stages)} stages run once: {count:,} activations, {size / 1e6:,.0f} MB"
                )
                yield Replay(stored, said, True)
                return
    why = f"their activations do not replay (largest difference {off:.2g})"
    yield Replay(whole, f"the {frozen} frozen stages run each time: {why}", False)


def _first(sets: Sequence[Set | None]) -> Set:
    return next(one for one in sets if one is not None)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


@contextmanager
def _stubbed(module: nn.Module, units: Sequence[Unit]) -> Iterator[None]:
    """Stand stubs in for the units, and let the module take the inputs of `Stored`; undone afterwards."""
    hand = Hand()
    before = [vars(unit.module).get("forward") for unit in units]
    hook = module.register_forward_pre_hook(lambda _, args: (_opened(args[0], hand), *args[1:]))
    for unit in units:
        unit.module.forward = _stub(unit, hand, last=unit is units[-1])
    try:
        yield
    finally:
        hook.remove()
        for unit, own in zip(units, before, strict=True):
            del unit.module.forward
            if own is not None:
                unit.module.forward = own


def _opened(inputs: Any, hand: Hand) -> Any:
    """Put the activations of a batch where the last stub finds them; returns what the module takes."""
    if not isinstance(inputs, dict) or f"{KEY}0" not in inputs:
        raise TypeError("inside `replayed` a backbone takes the batches of its sets only")
    plain = {name: value for name, value in inputs.items() if not name.startswith(KEY)}
    hand.given = [inputs[f"{KEY}{number}"] for number in range(len(inputs) - len(plain))]
    hand.count, hand.length = len(hand.given[0]), length_of(plain)
    return plain.get("images", plain)


def _stub(unit: Unit, hand: Hand, *, last: bool) -> Callable[..., Any]:
    """Return a forward that hands out the stored activation (last), or zeros that take no memory."""
    leaves, structure = unit.structure

    def forward(*_: Any, **__: Any) -> Any:
        device = hand.given[0].device
        zeros = (
            torch.zeros((), dtype=leaf.dtype, device=device).expand(leaf.made(hand.count, hand.length))
            for leaf in unit.leaves
        )
        tensors = iter(hand.given if last else zeros)
        return tree_unflatten([next(tensors) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)

    return forward


def _features(module: nn.Module, data: Set, precision: str) -> Features:
    """Return the features of the first few examples of a set."""
    device = next(module.parameters()).device
    batch = to_device(data.batch(torch.arange(min(8, len(data)))), device)
    with evaluating(module), autocast(device, precision):
        found: Features = module(batch.inputs)
    return found


def _off(expected: Features, module: nn.Module, data: Set, precision: str) -> float:
    """Return how far replayed features are off; infinitely, if the family's forward cannot do with stand-ins."""
    try:
        return _difference(expected, _features(module, data, precision))
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError):
        return math.inf


def _difference(one: Features, two: Features) -> float:
    """Return the largest difference of two features, relative to the largest of the first; padding does not count."""
    pairs = [(one.pooled, two.pooled)]
    if one.tokens is not None and two.tokens is not None:
        kept = slice(None) if one.mask is None else one.mask.bool()
        pairs.append((one.tokens[kept], two.tokens[kept]))
    off = [float((a.float() - b.float()).abs().max() / a.float().abs().max().clamp(min=1e-6)) for a, b in pairs]
    return max(off)
