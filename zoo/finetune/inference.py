"""Inference: one pass of a backbone or a network over a dataset, and the metrics of its outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zoo.data.datasets import Batch, Dataset
from zoo.data.sampler import sequential_batches
from zoo.errors import PluginError, ZooError
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.freezing import eval_mode
from zoo.finetune.network import Network, autocast, head_inputs
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.host_copy import to_host
from zoo.finetune.runtime.memory import is_out_of_memory, release
from zoo.finetune.runtime.prefetch import prefetch
from zoo.finetune.runtime.workers import parallel
from zoo.store import cache_file
from zoo.tasks.task import Task

BATCH_SIZE, GPU_BATCH_SIZE = 32, 64
LARGE = 1 << 28
"""Bytes of outputs from which they are written to a file instead of memory."""
Forward = Callable[[Batch], Tensor]
Result = TypeVar("Result")


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
    backbone: nn.Module,
    data: Dataset,
    *,
    reads: str,
    precision: str,
    stages: Sequence[StageOutput] = (),
    batch_size: int | None = None,
) -> Outputs:
    """Return float32 features on the CPU: pooled (N, D), or a list of token features (Mi, D).

    Behind them are the outputs of `stages`, pooled or of the same tokens.
    """

    def forward(batch: Batch) -> Tensor:
        return head_inputs(backbone, batch.inputs, reads, stages, batch.selected)

    return _run(backbone, forward, data, precision, batch_size)


def predict(network: Network, data: Dataset, *, precision: str, batch_size: int | None = None) -> Any:
    """Return float32 outputs on the CPU: (N, K), or a list of (Mi, K)."""

    def forward(batch: Batch) -> Tensor:
        outputs: Tensor = network(batch.inputs, batch.selected)
        return outputs

    return _run(network, forward, data, precision, batch_size).values


def measure(
    network: Network, task: Task, data: Dataset, *, precision: str, batch_size: int | None = None
) -> Measurement:
    """Return the metrics of a network on a dataset with targets."""

    def forward(batch: Batch) -> Tensor:
        assert batch.targets is not None
        return task.statistics(network(batch.inputs, batch.selected), batch.targets)

    outputs = _run(network, forward, data, precision, batch_size)
    return Measurement(task.measure(outputs.values, outputs.targets), outputs)


def _run(module: nn.Module, forward: Forward, data: Dataset, precision: str, batch_size: int | None) -> Outputs:
    """Run over a dataset; halve the batch size until it fits into memory."""
    on_cpu = next(module.parameters()).device.type == "cpu"
    size = batch_size or (BATCH_SIZE if on_cpu else GPU_BATCH_SIZE)
    try:
        return _pass(module, forward, data, precision, size)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or size == 1 or distributed.world_size() > 1:
            raise
    release()
    return _run(module, forward, data, precision, size // 2)


def each_batch(
    compute: Callable[[Batch], Result], data: Dataset, batches: Sequence[Tensor], device: torch.device
) -> Iterator[tuple[Tensor, Batch, Result]]:
    """Yield (indices, batch, compute(batch on the device)) of each batch, in order.

    Results are tensors on the CPU, or lists of them. A CPU computes several batches in parallel. For a GPU batches are
    loaded ahead, and a result is handed out when the next one is under way, so that its copy keeps nobody waiting.
    """

    def load(indices: Tensor) -> tuple[Tensor, Batch]:
        return indices, data.batch(indices)

    def whole(indices: Tensor) -> tuple[Tensor, Batch, Result]:
        batch = data.batch(indices)
        return indices, batch, compute(batch.to(device))

    if device.type == "cpu":
        yield from parallel(whole, batches)
        return
    last: tuple[Tensor, Batch, Callable[[], Result]] | None = None
    for indices, batch in prefetch(load, batches, device):
        current = indices, batch, to_host(compute(batch.to(device)), device)
        if last is not None:
            yield last[0], last[1], last[2]()
        last = current
    if last is not None:
        yield last[0], last[1], last[2]()


@contextmanager
def _failures_named() -> Iterator[None]:
    """Convert what the forward of a network raises to PluginError, but for lack of memory."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"the network failed on its inputs: {type(error).__name__}: {error}"
        fix = "choose another backbone (zoo list), or report it to the author of its plugin"
        raise PluginError(what, fix=fix) from error


def _pass(module: nn.Module, forward: Forward, data: Dataset, precision: str, batch_size: int) -> Outputs:
    """Compute the outputs of every example."""
    device = next(module.parameters()).device

    def compute(batch: Batch) -> Tensor:
        with torch.inference_mode(), autocast(device, precision), _failures_named():
            return forward(batch).float()

    values: list[Tensor] = []
    targets: list[Tensor] = []
    rows: Tensor | None = None
    seen = []
    batches = distributed.shard_batches(sequential_batches(len(data), batch_size, data.lengths))
    with eval_mode(module):
        for indices, batch, outputs in each_batch(compute, data, batches, device):
            seen.append(indices)
            if batch.selected is None:
                rows = _empty_rows(len(data), outputs) if rows is None else rows
                rows[indices] = outputs
                continue
            values, targets = values or [torch.empty(0)] * len(data), targets or [torch.empty(0)] * len(data)
            counts = batch.selected.sum(1).tolist()
            _scatter(values, indices, outputs, counts)
            if batch.targets is not None:
                _scatter(targets, indices, batch.targets, counts)
    if rows is not None:
        _gather_rows(rows, seen)
        return Outputs(rows, data.targets)
    _gather(values, targets, seen)
    return Outputs([value.clone() for value in values], [target.clone() for target in targets])


def _empty_rows(count: int, outputs: Tensor) -> Tensor:
    """Return a tensor (N, …) for the outputs of all examples: of many in a file that is deleted with it."""
    shape = (count, *outputs.shape[1:])
    size = math.prod(shape) * outputs.element_size()
    with torch.inference_mode(False):  # solvers differentiate functions of them
        if size < LARGE:
            return torch.empty(shape, dtype=outputs.dtype)
        return cache_file.scratch("features", size).view(outputs.dtype).view(shape)


def _gather_rows(rows: Tensor, seen: Sequence[Tensor]) -> None:
    """Add the rows that other processes computed."""
    if distributed.world_size() == 1:
        return
    places = torch.cat(list(seen)) if seen else torch.empty(0, dtype=torch.long)
    for others, values in distributed.all_gather((places, rows[places])):
        rows[others] = values


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
