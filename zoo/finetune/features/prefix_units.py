"""The modules of frozen stages, found by recording a forward pass, and the shapes of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Batch, Dataset
from zoo.finetune.freezing import eval_mode, requires_grad_restored
from zoo.finetune.network import autocast
from zoo.finetune.runtime.torch_internals import tree_flatten
from zoo.plugin import Backbone


@dataclass(frozen=True, slots=True)
class Leaf:
    """One output tensor of a module: its dtype, and its shape, with "N" for the batch and "T" for the text length."""

    shape: tuple[Any, ...]
    dtype: torch.dtype

    @property
    def ragged(self) -> bool:
        """Whether each example has its own length."""
        return self.shape[1:2] == ("T",)

    def is_per_example(self) -> bool:
        """Return whether the tensor can be stored example by example."""
        return self.shape[:1] == ("N",) and not {"N", "T", None} & set(self.shape[1 + self.ragged :])

    def batch_shape(self, count: int, length: int) -> tuple[int, ...]:
        """Return the shape for a batch of `count` examples padded to `length` tokens."""
        return tuple({"N": count, "T": length}.get(axis, axis) for axis in self.shape)


@dataclass(frozen=True, slots=True)
class Unit:
    """A frozen module, its output tensors, and the pytree structure of its output."""

    module: nn.Module
    leaves: tuple[Leaf, ...]
    structure: Any


def frozen_units(backbone: Backbone, frozen: int, data: Dataset, precision: str) -> tuple[list[Unit], str]:
    """Return the modules of the first `frozen` stages in the order of their calls, or why they cannot be replaced."""
    if len(data) < 5:
        return [], "there are too few examples"
    ranked = torch.arange(len(data)) if data.lengths is None else data.lengths.argsort()
    passes = [_record(backbone.module, data, indices, precision) for indices in (ranked[:2], ranked[-3:])]
    names = [name for stage in backbone.stages[:frozen] for name in stage]
    later = [name for stage in backbone.stages[frozen:] for name in stage]
    modules = dict(backbone.module.named_modules())
    called = passes[0].order
    units = [unit for name in names if name in modules for unit in called_parts(name, modules[name], called)]
    if not units:
        return [], "none of them is a module"
    if any(called.count(name) != 1 for name in units):
        return [], "one of them is called more than once"
    units.sort(key=called.index)
    training = [name for name in called if any(name == one or name.startswith(f"{one}.") for one in later)]
    if training and called.index(units[-1]) > called.index(training[0]):
        return [], "one of them is called after a stage that trains"
    if _depends_on(later, backbone.module, modules[units[-1]], data.batch(ranked[:2]), precision):
        return [], "their activations depend on what trains"
    found = [_unit(modules[name], passes[0], passes[1], name) for name in units]
    if any(None in leaf.shape for unit in found for leaf in unit.leaves):
        return [], "the shape of an activation does not follow from the batch"
    if not all(leaf.is_per_example() for leaf in found[-1].leaves):
        return [], "their activations are not per example"
    return found, ""


def _depends_on(later: Sequence[str], module: nn.Module, unit: nn.Module, batch: Batch, precision: str) -> bool:
    """Return whether the output of a frozen unit depends on parameters of later stages, such as a shared bias."""
    trained = [
        p for name, p in module.named_parameters() if any(name == one or name.startswith(f"{one}.") for one in later)
    ]
    outputs: list[Tensor] = []
    hook = unit.register_forward_hook(lambda _, __, output: outputs.extend(tree_flatten(output)[0]))
    device = next(module.parameters()).device
    try:
        with requires_grad_restored(trained), eval_mode(module, gradients=True), autocast(device, precision):
            for parameter in trained:
                parameter.requires_grad_(True)
            module(batch.to(device).inputs)
            sums = [leaf.sum() for leaf in outputs if isinstance(leaf, Tensor) and leaf.requires_grad]
            return any(g is not None for one in sums for g in torch.autograd.grad(one, trained, allow_unused=True))
    finally:
        hook.remove()


def called_parts(name: str, module: nn.Module, called: Sequence[str]) -> list[str]:
    """Return the largest parts of a module that are called, in definition order; containers themselves are not."""
    if name in called:
        return [name]
    children = module.named_children()
    return [unit for child, part in children for unit in called_parts(f"{name}.{child}", part, called)]


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recorded pass: modules in the order of their calls, their outputs, batch size and text length."""

    order: list[str]
    outputs: dict[str, tuple[list[Any], Any]]
    count: int
    length: int


def _record(module: nn.Module, data: Dataset, indices: Tensor, precision: str) -> _Recording:
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
        batch = forward(module, data.batch(indices), precision)
    finally:
        for hook in hooks:
            hook.remove()
    return _Recording(order, outputs, len(indices), text_length(batch.inputs))


def forward(module: nn.Module, batch: Batch, precision: str) -> Batch:
    """Run a module on a batch for its hooks; returns the batch on the device of the module."""
    device = next(module.parameters()).device
    batch = batch.to(device)
    with eval_mode(module), autocast(device, precision):
        module(batch.inputs)
    return batch


def text_length(inputs: Any) -> int:
    """Return the padded length of a batch of texts, 0 for images."""
    return int(inputs["input_ids"].shape[1]) if isinstance(inputs, Mapping) and "input_ids" in inputs else 0


def _unit(module: nn.Module, one: _Recording, two: _Recording, name: str) -> Unit:
    """Compare two batches of different size to find the axes that depend on the batch."""
    first, structure = one.outputs[name]
    second, _ = two.outputs[name]
    tensors = [(a, b) for a, b in zip(first, second, strict=True) if isinstance(a, Tensor)]
    return Unit(module, tuple(_leaf(a, b, one, two) for a, b in tensors), (first, structure))


def _leaf(a: Tensor, b: Tensor, one: _Recording, two: _Recording) -> Leaf:
    kinds = {(one.count, two.count): "N", (one.length, two.length): "T"}
    if one.length == two.length:
        kinds.pop((one.length, two.length), None)
    pairs = list(zip(a.shape, b.shape, strict=False))
    axes = [kinds.get((m, n), m if m == n else None) for m, n in pairs]
    return Leaf(tuple(axes if a.ndim == b.ndim else [None]), a.dtype)
