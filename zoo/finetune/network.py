"""A backbone and a head as one module, its forward pass over many inputs, and what freezing means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.data.datasets import Batch, Prepared, Set
from zoo.data.sampler import in_turn
from zoo.finetune import distributed
from zoo.finetune.memory import is_full, release
from zoo.plugin import Features
from zoo.tasks.task import Task

Tally = Callable[[Tensor, Tensor | None], Tensor]


class Network(nn.Module):
    """Maps prepared inputs to a task's outputs; features are float32 whatever the precision inside.

    `reads` says what the head is put on: the "pooled" features, outputs (N, K), or the "tokens" that are asked for,
    outputs (M, K).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, reads: str = "pooled") -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.reads = reads

    def forward(self, inputs: Prepared, where: Tensor | None = None) -> Tensor:
        """Map images (N, C, H, W) or token tensors (N, T) to outputs; `where` (N, T) bool chooses M of the tokens."""
        found = select(self.backbone(inputs), self.reads, where)
        with torch.autocast(found.device.type, enabled=False):
            outputs: Tensor = self.head(found)
        return outputs

    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict with each tensor once, under its first name: weights may be tied."""
        first: dict[int, str] = {}
        state = self.state_dict(keep_vars=True)
        return {name: t.detach() for name, t in state.items() if first.setdefault(id(t), name) == name}


def changing(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes, by name: parameters that train, and buffers."""
    yield from ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)
    yield from network.named_buffers()


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of what training changes."""
    return {name: tensor.detach().clone() for name, tensor in changing(network)}


def put(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network what `weights` returned."""
    for name, tensor in changing(network):
        distributed.copy_into(tensor, state[name])


def select(features: Features, reads: str, where: Tensor | None) -> Tensor:
    """Return what a head is put on: pooled (N, D), or the tokens where `where` is true, (M, D); float32."""
    if reads == "pooled":
        return features.pooled.float()
    assert features.tokens is not None
    assert where is not None
    return features.tokens[where].float()  # (N, T, D) -> (M, D)


def set_mode(network: Network, frozen: Iterable[str], *, hold_norms: bool, dropout: bool) -> None:
    """Switch to training: BatchNorms learn their statistics unless held, dropout and stochastic depth are on if asked.

    Without dropout everything else is in eval mode: it is the way to turn off what nets do by functions of their own.
    The parts of the backbone that are `frozen` are in eval mode always.
    """
    network.train(dropout)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train(not hold_norms)
    for name, module in network.backbone.named_modules():
        if name in frozen:
            module.eval()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to inference: eval mode, no gradients; put every module's mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training


@dataclass(frozen=True, slots=True)
class Rows:
    """What a pass over a set gave for each example, in the order of the set: values and, where it has them, targets.

    Each is one tensor (N, …), or a list of one tensor (Mi, …) an example where tokens are read.
    """

    values: Any
    targets: Any


def features(backbone: nn.Module, data: Set, *, reads: str, precision: str, batch_size: int = 64) -> Rows:
    """Run a backbone over a set once: pooled features (N, D), or a list of token features (Mi, D); float32, CPU."""

    def call(batch: Batch) -> Tensor:
        return select(backbone(batch.inputs), reads, batch.where)

    return _over(backbone, call, data, precision, batch_size)


def outputs(network: Network, data: Set, *, precision: str, tally: Tally | None = None, batch_size: int = 64) -> Rows:
    """Run a network over a set: outputs (N, K), or a list of (Mi, K); `tally` makes less of each batch of them."""

    def call(batch: Batch) -> Tensor:
        found: Tensor = network(batch.inputs, batch.where)
        return tally(found, batch.targets) if tally else found

    return _over(network, call, data, precision, batch_size)


def measured_rows(network: Network, task: Task, data: Set, precision: str) -> Rows:
    """Run a network over a set with targets: what the task tallies of each output, and the targets."""

    def tally(found: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return task.tally(found, targets)

    return outputs(network, data, precision=precision, tally=tally)


def measure(network: Network, task: Task, data: Set, precision: str) -> dict[str, float]:
    """Return the task's metrics of a network on a set with targets."""
    rows = measured_rows(network, task, data, precision)
    return task.measure(rows.values, rows.targets)


def _over(module: nn.Module, call: Callable[[Batch], Tensor], data: Set, precision: str, batch_size: int) -> Rows:
    """Call on every batch of a set; with fewer examples at once where they do not fit into memory."""
    try:
        return _pass(module, call, data, precision, batch_size)
    except (RuntimeError, MemoryError) as error:
        if not is_full(error) or batch_size == 1 or distributed.world() > 1:
            raise
    release()
    return _over(module, call, data, precision, batch_size // 2)


def _pass(module: nn.Module, call: Callable[[Batch], Tensor], data: Set, precision: str, batch_size: int) -> Rows:
    device = next(module.parameters()).device
    values: list[Tensor] = [torch.empty(0)] * len(data)
    targets: list[Tensor] = [torch.empty(0)] * len(data)
    one_each, seen = True, []
    with evaluating(module), autocast(device, precision):
        for indices in distributed.mine(in_turn(len(data), batch_size, data.lengths)):
            batch = to_device(data.batch(indices), device)
            one_each = batch.where is None
            counts = [1] * len(indices) if batch.where is None else batch.where.sum(1).tolist()
            _scatter(values, indices, call(batch).float().cpu(), counts)
            if batch.targets is not None:
                _scatter(targets, indices, batch.targets.cpu(), counts)
            seen.append(indices)
    _gather(values, targets, seen)
    if one_each:
        known = data.targets is not None
        return Rows(torch.cat(values).clone(), torch.cat(targets).clone() if known else None)
    return Rows([value.clone() for value in values], [target.clone() for target in targets])


def _gather(values: list[Tensor], targets: list[Tensor], seen: Sequence[Tensor]) -> None:
    """Put together what several processes found."""
    if distributed.world() == 1:
        return
    places = torch.cat(list(seen)).tolist()
    for part in distributed.gathered([(place, values[place], targets[place]) for place in places]):
        for place, value, target in part:
            values[place], targets[place] = value, target


def _scatter(found: list[Tensor], indices: Tensor, rows: Tensor, counts: list[int]) -> None:
    for index, part in zip(indices.tolist(), rows.split(counts), strict=True):
        found[index] = part


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to the device of the network."""
    if device.type == "cpu":
        return batch
    inputs = batch.inputs
    moved = {k: v.to(device) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.to(device)
    where = None if batch.where is None else batch.where.to(device)
    return Batch(moved, where, None if batch.targets is None else batch.targets.to(device))


def lay_out(module: nn.Module, *, channels_last: bool = True) -> None:
    """Lay out convolution weights channels last, 1.15 to 1.3 times faster on a CPU (docs/log.md), or as torch does."""
    module.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a forward pass runs in `precision` ("fp32" or "bf16")."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
