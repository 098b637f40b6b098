"""Gradients of a batch: of its mean loss, computed in micro-batches that a CPU runs in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from zoo.data.datasets import Batch
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.freezing import has_batchnorm
from zoo.finetune.job import Job
from zoo.finetune.network import Network, autocast
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.workers import all_threads_each, parallel

MICRO_BATCH = 16
"""Most examples of a micro-batch on a CPU: two at the default batch size; more are slower (docs/log.md)."""


def _no_processes(last: bool) -> AbstractContextManager[None]:
    """Return the context of a micro-batch where there is nothing to synchronise."""
    return nullcontext()


def _unscaled(loss: Tensor) -> Tensor:
    return loss


def is_divisible(network: Network, hp: Hyperparameters) -> bool:
    """Return whether micro-batches can run in parallel on a CPU: no example depends on another, or on random numbers.

    BatchNorm that updates its statistics, and dropout, need the whole batch in one thread of control.
    """
    on_cpu = next(network.parameters()).device.type == "cpu" and distributed.world_size() == 1
    updates = hp.batchnorm == "train" and has_batchnorm(network.backbone)
    return on_cpu and not (hp.dropout or updates)


def micro_batch_size(network: Network, hp: Hyperparameters) -> int:
    """Return the examples of a forward pass: the whole batch, or equal parts of at most MICRO_BATCH."""
    if not is_divisible(network, hp):
        return hp.batch_size
    return -(-hp.batch_size // -(-hp.batch_size // MICRO_BATCH))


def mean_loss(network: nn.Module, job: Job, batch: Batch) -> Tensor:
    """Return the mean loss of a micro-batch, a scalar."""
    task, smoothing = job.task, job.hp.label_smoothing
    assert batch.targets is not None
    with autocast(next(network.parameters()).device, job.hp.precision):
        outputs = network(batch.inputs, batch.selected)
        loss = task.loss(outputs, batch.targets, smoothing)
        if batch.mixed_targets is not None:
            mixed = task.loss(outputs, batch.mixed_targets, smoothing)
            loss = batch.mix_weight * loss + (1 - batch.mix_weight) * mixed
    return loss


def micro_batches(batch: Batch, size: int) -> list[Batch]:
    """Return the micro-batches of a batch; their weights are shares of the whole."""
    starts = range(0, batch.size, size)
    return [batch.rows(slice(start, start + size)) for start in starts] if len(starts) > 1 else [batch]


def backward(
    network: nn.Module,
    job: Job,
    parts: Sequence[Batch],
    sync: Callable[[bool], AbstractContextManager[None]] = _no_processes,
    scale: Callable[[Tensor], Tensor] = _unscaled,
) -> Tensor:
    """Set the gradients of the batch's mean loss, which is returned, a scalar.

    `network` may be wrapped for distributed training: `sync` then gives the context of a micro-batch, which may be the
    last one. Gradients are those of the loss after `scale`, on a GPU.
    """
    if len(parts) > 1 and isinstance(network, Network) and is_divisible(network, job.hp):
        return _in_parallel(network, job, parts)
    losses = []
    with all_threads_each():
        for part in parts:
            with sync(part is parts[-1]):
                loss = _times(mean_loss(network, job, part), part.weight)
                torch.autograd.backward(scale(_times(loss, distributed.world_size())))  # DDP averages the gradients
            losses.append(loss.detach())
    return sum(losses[1:], losses[0])


def _times(loss: Tensor, factor: float) -> Tensor:
    """Multiply a loss, but by 1, which would cost kernels in both passes."""
    return loss if factor == 1 else loss * factor


def _in_parallel(network: Network, job: Job, parts: Sequence[Batch]) -> Tensor:
    """Compute micro-batches in parallel and add gradients in the order of the parts: threads do not change the bits."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def one(part: Batch) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = mean_loss(network, job, part) * part.weight
        return loss.detach(), torch.autograd.grad(loss, trained, allow_unused=True)

    total = torch.zeros(())
    sums: list[Tensor | None] = [None] * len(trained)
    for loss, gradients in parallel(one, parts):
        total = total + loss
        sums = [_add(one, other) for one, other in zip(sums, gradients, strict=True)]
    for parameter, gradient in zip(trained, sums, strict=True):
        parameter.grad = gradient if gradient is None else _laid_out(gradient, parameter)
    return total


def _add(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if total is None or gradient is None:
        return gradient if total is None else total
    return total + gradient


def _laid_out(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return a gradient in the memory format of its parameter, which a fused optimizer relies on."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
