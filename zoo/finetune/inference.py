"""Inference: one pass of a backbone or a network over a dataset, and the metrics of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Batch, Dataset
from zoo.data.sampler import sequential_batches
from zoo.errors import PluginError, ZooError
from zoo.finetune.freezing import eval_mode
from zoo.finetune.network import Network, autocast, read_features
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.memory import is_out_of_memory, release
from zoo.finetune.runtime.workers import parallel
from zoo.tasks.task import Task

BATCH_SIZE = 32
Forward = Callable[[Batch], Tensor]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Values and targets of every example, in the order of the dataset.

    Each is one tensor (N, …), or a list with one tensor (Mi, …) for each example where tokens are read.
    """

    values: Any
    targets: Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """The metrics of a network on a dataset, and the outputs they were computed from."""

    metrics: dict[str, float]
    outputs: Outputs


def extract_features(
    backbone: nn.Module, data: Dataset, *, reads: str, precision: str, batch_size: int = BATCH_SIZE
) -> Outputs:
    """Return float32 features on the CPU: pooled (N, D), or a list of token features (Mi, D)."""

    def forward(batch: Batch) -> Tensor:
        return read_features(backbone(batch.inputs), reads, batch.selected)

    return _run(backbone, forward, data, precision, batch_size)


def predict(network: Network, data: Dataset, *, precision: str, batch_size: int = BATCH_SIZE) -> Any:
    """Return float32 outputs on the CPU: (N, K), or a list of (Mi, K)."""

    def forward(batch: Batch) -> Tensor:
        outputs: Tensor = network(batch.inputs, batch.selected)
        return outputs

    return _run(network, forward, data, precision, batch_size).values


def measure(
    network: Network, task: Task, data: Dataset, *, precision: str, batch_size: int = BATCH_SIZE
) -> Measurement:
    """Return the metrics of a network on a dataset with targets."""

    def forward(batch: Batch) -> Tensor:
        assert batch.targets is not None
        return task.statistics(network(batch.inputs, batch.selected), batch.targets)

    outputs = _run(network, forward, data, precision, batch_size)
    return Measurement(task.measure(outputs.values, outputs.targets), outputs)


def _run(module: nn.Module, forward: Forward, data: Dataset, precision: str, batch_size: int) -> Outputs:
    """Run over a dataset; halve the batch size until it fits into memory. PluginError if the network fails."""
    try:
        return _pass(module, forward, data, precision, batch_size)
    except ZooError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            what = f"the network failed on its inputs: {type(error).__name__}: {error}"
            fix = "choose another backbone (zoo list), or report it to the author of its plugin"
            raise PluginError(what, fix=fix) from error
        if batch_size == 1 or distributed.world_size() > 1:
            raise
    release()
    return _run(module, forward, data, precision, batch_size // 2)


def _pass(module: nn.Module, forward: Forward, data: Dataset, precision: str, batch_size: int) -> Outputs:
    """Compute batch by batch; on a CPU several batches in parallel."""
    device = next(module.parameters()).device

    def compute(indices: Tensor) -> tuple[Tensor, Tensor, Tensor | None, list[int] | None]:
        with torch.inference_mode(), autocast(device, precision):
            batch = data.batch(indices).to(device)
            counts = None if batch.selected is None else batch.selected.sum(1).tolist()
            targets = None if batch.targets is None else batch.targets.cpu()
            return indices, forward(batch).float().cpu(), targets, counts

    values: list[Tensor] = [torch.empty(0)] * len(data)
    targets: list[Tensor] = [torch.empty(0)] * len(data)
    one_each, seen = True, []
    batches = distributed.shard_batches(sequential_batches(len(data), batch_size, data.lengths))
    with eval_mode(module):
        for indices, outputs, known, counts in parallel(compute, batches, device):
            one_each = counts is None
            counts = counts or [1] * len(indices)
            _scatter(values, indices, outputs, counts)
            if known is not None:
                _scatter(targets, indices, known, counts)
            seen.append(indices)
    _gather(values, targets, seen)
    if one_each:
        return Outputs(torch.cat(values).clone(), None if data.targets is None else torch.cat(targets).clone())
    return Outputs([value.clone() for value in values], [target.clone() for target in targets])


def _scatter(found: list[Tensor], indices: Tensor, rows: Tensor, counts: list[int]) -> None:
    for index, part in zip(indices.tolist(), rows.split(counts), strict=True):
        found[index] = part


def _gather(values: list[Tensor], targets: list[Tensor], seen: Sequence[Tensor]) -> None:
    """Combine the results of all processes."""
    if distributed.world_size() == 1:
        return
    places = torch.cat(list(seen)).tolist()
    for part in distributed.all_gather([(place, values[place], targets[place]) for place in places]):
        for place, value, target in part:
            values[place], targets[place] = value, target
