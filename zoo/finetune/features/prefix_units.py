"""Which modules the frozen stages of a backbone are, found by watching a forward pass, and what each returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from zoo.data.datasets import Batch, Set
from zoo.finetune.network import autocast, evaluating, to_device
from zoo.plugin import Backbone


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor that a module returns: its type, and its shape, in which "N" is the batch and "T" its length."""

    shape: tuple[Any, ...]
    dtype: torch.dtype

    @property
    def ragged(self) -> bool:
        """Whether each example has a length of its own."""
        return self.shape[1:2] == ("T",)

    def fits(self) -> bool:
        """Tell whether it can be kept example by example."""
        return self.shape[:1] == ("N",) and not {"N", "T", None} & set(self.shape[1 + self.ragged :])

    def made(self, count: int, length: int) -> tuple[int, ...]:
        """Return the shape for a batch."""
        return tuple({"N": count, "T": length}.get(axis, axis) for axis in self.shape)


@dataclass(frozen=True, slots=True)
class Unit:
    """A frozen module, and what it returns: the tensors, and how they lie in it."""

    module: nn.Module
    leaves: tuple[Leaf, ...]
    structure: Any


def frozen_units(backbone: Backbone, frozen: int, data: Set, precision: str) -> tuple[list[Unit], str]:
    """Return the frozen modules in the order in which they are called, or why they cannot be stood in for."""
    if len(data) < 5:
        return [], "there are too few examples"
    ranked = torch.arange(len(data)) if data.lengths is None else data.lengths.argsort()
    runs = [_recorded(backbone.module, data, indices, precision) for indices in (ranked[:2], ranked[-3:])]
    names = [name for stage in backbone.stages[:frozen] for name in stage]
    later = [name for stage in backbone.stages[frozen:] for name in stage]
    modules = dict(backbone.module.named_modules())
    called = runs[0].order
    units = [unit for name in names if name in modules for unit in _called(name, modules[name], called)]
    if not units:
        return [], "none of them is a module"
    if any(called.count(name) != 1 for name in units):
        return [], "one of them is called more than once"
    units.sort(key=called.index)
    training = [name for name in called if any(name == one or name.startswith(f"{one}.") for one in later)]
    if training and called.index(units[-1]) > called.index(training[0]):
        return [], "one of them is called after a stage that trains"
    if _learns(backbone.module, modules[units[-1]], later, data.batch(ranked[:2]), precision):
        return [], "their activations depend on what trains"
    found = [_unit(modules[name], runs[0], runs[1], name) for name in units]
    if any(None in leaf.shape for unit in found for leaf in unit.leaves):
        return [], "the shape of an activation does not follow from the batch"
    return (
        (found, "") if all(leaf.fits() for leaf in found[-1].leaves) else ([], "they share what is not one example's")
    )


def _learns(module: nn.Module, unit: nn.Module, later: Sequence[str], batch: Batch, precision: str) -> bool:
    """Tell whether what a frozen unit returns depends on parameters of later stages: a shared bias, say."""
    own = [
        p for name, p in module.named_parameters() if any(name == one or name.startswith(f"{one}.") for one in later)
    ]
    found: list[Tensor] = []
    hook = unit.register_forward_hook(lambda _, __, output: found.extend(tree_flatten(output)[0]))
    before = [parameter.requires_grad for parameter in own]
    modes = [(part, part.training) for part in module.modules()]
    device = next(module.parameters()).device
    try:
        for parameter in own:
            parameter.requires_grad_(True)
        module.eval()
        with autocast(device, precision), torch.enable_grad():
            module(to_device(batch, device).inputs)
        sums = [leaf.sum() for leaf in found if isinstance(leaf, Tensor) and leaf.requires_grad]
        return any(grad is not None for one in sums for grad in torch.autograd.grad(one, own, allow_unused=True))
    finally:
        hook.remove()
        for parameter, needed in zip(own, before, strict=True):
            parameter.requires_grad_(needed)
        for part, training in modes:
            part.training = training


def _called(name: str, module: nn.Module, called: Sequence[str]) -> list[str]:
    """Return the largest parts of a module that are called, in its own order; containers are not called themselves."""
    if name in called:
        return [name]
    return [unit for child, part in module.named_children() for unit in _called(f"{name}.{child}", part, called)]


@dataclass(frozen=True, slots=True)
class _Run:
    """A recorded pass: the modules in the order of their calls, what each returned, the batch's size and length."""

    order: list[str]
    outputs: dict[str, tuple[list[Any], Any]]
    count: int
    length: int


def _recorded(module: nn.Module, data: Set, indices: Tensor, precision: str) -> _Run:
    order: list[str] = []
    outputs: dict[str, tuple[list[Any], Any]] = {}

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: order.append(name)

    def leave(name: str) -> Callable[..., None]:
        return lambda _, __, output: outputs.update({name: tree_flatten(output)})

    hooks = []
    for name, part in module.named_modules():
        if name:
            hooks += [part.register_forward_pre_hook(enter(name)), part.register_forward_hook(leave(name))]
    try:
        batch = run(module, data.batch(indices), precision)
    finally:
        for hook in hooks:
            hook.remove()
    return _Run(order, outputs, len(indices), length_of(batch.inputs))


def run(module: nn.Module, batch: Batch, precision: str) -> Batch:
    """Run a module on a batch for what its hooks see; returns the batch where it was computed."""
    device = next(module.parameters()).device
    batch = to_device(batch, device)
    with evaluating(module), autocast(device, precision):
        module(batch.inputs)
    return batch


def length_of(inputs: Any) -> int:
    """Return how many tokens the texts of a batch are padded to, 0 for images."""
    return int(inputs["input_ids"].shape[1]) if isinstance(inputs, Mapping) and "input_ids" in inputs else 0


def _unit(module: nn.Module, one: _Run, two: _Run, name: str) -> Unit:
    """Tell by two batches of different size which axes of what a module returns depend on the batch."""
    first, structure = one.outputs[name]
    second, _ = two.outputs[name]
    tensors = [(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, Tensor)]
    return Unit(module, tuple(_leaf(a, b, one, two) for a, b in tensors), (first, structure))


def _leaf(a: Tensor, b: Tensor, one: _Run, two: _Run) -> Leaf:
    kinds = {(one.count, two.count): "N", (one.length, two.length): "T"}
    if one.length == two.length:
        kinds.pop((one.length, two.length), None)
    pairs = list(zip(a.shape, b.shape, strict=False))
    axes = [kinds.get((m, n), m if m == n else None) for m, n in pairs]
    return Leaf(tuple(axes if a.ndim == b.ndim else [None]), a.dtype)
