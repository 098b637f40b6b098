"""The training loop: the only code that trains."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from zoo.console import Bar, say
from zoo.data.batch_options import BatchOptions
from zoo.data.datasets import Batch, Dataset
from zoo.data.sampler import training_order
from zoo.data.seeding import generator
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.data.streaming.windows import Position
from zoo.errors import RecipeError
from zoo.finetune import callbacks
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.freezing import train_mode
from zoo.finetune.inference import measure
from zoo.finetune.job import Job
from zoo.finetune.network import Network, load_state
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.prefetch import prefetch
from zoo.finetune.training.best_weights import BestWeights, Candidate, Metrics
from zoo.finetune.training.checkpoint import Checkpointer, Saved, stop_on_signal
from zoo.finetune.training.optimizer import warmup_steps
from zoo.finetune.training.train_step import TrainStep

WHOLE = (0, 1)
"""The part of a process that reads all data."""


@dataclass(slots=True)
class Progress:
    """State of a phase: steps taken, measurements, losses since the last one, best weights, seconds spent.

    `position` is that of a resumed stream: the first step of a window, and where the window begins. `is_cut` says that
    it ended before its time: max_time was over, or stop_after reached; `is_stopped`: a callback ended it.
    """

    best: BestWeights
    step: int = 0
    history: list[Metrics] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    position: tuple[int, Position] | None = None
    is_cut: bool = False
    is_stopped: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run: its name, the steps before it, and the most seconds it may take."""

    name: str = "tune"
    steps_before: int = 0
    max_seconds: float = math.inf


def train(
    network: Network,
    job: Job,
    checkpoints: Checkpointer | None = None,
    phase: Phase = Phase(),  # frozen
    best: BestWeights | None = None,
) -> Progress:
    """Train what requires gradients for hp.steps steps; with validation data, end with the best weights.

    `best` are weights known from before. Everything random depends on hp.seed and the step number alone, so a resumed
    run ends with the same bits. Raises RecipeError, which names the batch, for a loss that is not finite, and
    KeyboardInterrupt, after writing a checkpoint, on a signal to stop.
    """
    checkpoints = checkpoints or Checkpointer()
    step = TrainStep(network, job)
    progress = _resume(step, job, checkpoints, phase, best)
    with Bar("tune", job.hp.steps) as bar, torch.random.fork_rng(), stop_on_signal(checkpoints):
        bar.advance(progress.step)
        for loss in _steps(progress, step, job, phase):
            bar.advance(note=f"loss {progress.history[-1]['loss']:.3f}" if progress.history else "")
            progress.is_cut = _must_stop(progress, job.hp, phase)
            progress.is_stopped = callbacks.stepped(job.callbacks, phase.steps_before + progress.step, loss)
            _evaluate_when_due(progress, step, job, phase)
            if checkpoints.due():
                _save(progress, step, checkpoints, phase)
            if _is_finished(progress, job.hp):
                break
    if progress.best.first is not None:
        load_state(step.local, progress.best.first.state)
    step.copy_to(network)
    network.eval()
    return progress


def _steps(progress: Progress, step: TrainStep, job: Job, phase: Phase) -> Iterator[Tensor]:
    """Take the remaining steps; yield the loss of each."""
    if _is_finished(progress, job.hp):
        return
    start = time.monotonic() - progress.seconds
    hp = job.hp
    update = hp.batchnorm == "train"
    train_mode(step.local, freeze_stages=hp.freeze_stages, update_batchnorm=update, dropout=hp.dropout)
    for number, indices, batch in _batches(job, phase.steps_before, progress, step.device):
        loss = step(number, progress.step, indices, batch)
        progress.losses.append(loss)
        progress.step, progress.seconds = progress.step + 1, time.monotonic() - start
        yield loss


def _is_finished(progress: Progress, hp: Hyperparameters) -> bool:
    """Return whether all steps are taken, or the run was ended, or no evaluation since the warm-up is better."""
    if progress.is_cut or progress.is_stopped:
        return True
    return progress.step >= hp.steps or bool(hp.patience and progress.best.since_best >= hp.patience)


def _must_stop(progress: Progress, hp: Hyperparameters, phase: Phase) -> bool:
    """Return whether the time is over, or the last step reached."""
    over = math.isfinite(phase.max_seconds) and distributed.broadcast(progress.seconds >= phase.max_seconds)
    return bool(over) or phase.steps_before + progress.step == hp.stop_after


def _batches(job: Job, before: int, progress: Progress, device: torch.device) -> Iterator[tuple[int, Tensor, Batch]]:
    """Yield (number, indices, batch) of the remaining steps; what is random depends on the number alone."""
    data, hp = job.train, job.hp
    first, end = before + progress.step, before + hp.steps

    part = _part(data)

    def load(number: int, indices: Tensor, data: Dataset) -> tuple[int, Tensor, Batch]:
        shard = distributed.shard(len(indices)) if part == WHOLE else None
        draws = generator(hp.seed, "augment", number, *(() if part == WHOLE else part))
        return number, indices, data.batch(indices, BatchOptions(hp.augment, draws, shard))

    if isinstance(data, StreamedDataset):  # in threads: a window would have to be copied to processes
        with closing(data.steps(first, progress.position or data.position(first), part)) as steps:
            yield from prefetch(lambda step: load(*step), islice(steps, end - first), device, workers=hp.workers)
        return
    order = training_order(len(data), hp.batch_size, end, hp.seed, lengths=data.lengths, weights=job.sampling_weights)
    remaining = islice(order, first, None)
    augmented = hp.augment != "none"
    yield from prefetch(lambda step: load(*step, data), remaining, device, in_processes=augmented, workers=hp.workers)


def _part(data: Dataset) -> tuple[int, int]:
    """Return (i, n) for the i-th of n processes that read shards of their own, WHOLE where each reads all data."""
    parts = data.parts(distributed.world_size()) if isinstance(data, StreamedDataset) else 1
    return (distributed.rank(), parts) if parts > 1 else WHOLE


def _evaluate_when_due(progress: Progress, step: TrainStep, job: Job, phase: Phase) -> None:
    """At each of hp.evals evenly spaced steps, record the training loss, evaluate, and keep the best weights."""
    every = math.ceil(job.hp.steps / job.hp.evals)
    if progress.step % every and progress.step != job.hp.steps and not (progress.is_cut or progress.is_stopped):
        return
    number = phase.steps_before + progress.step
    row = {"step": number, "loss": step.mean_loss(progress.losses)}
    progress.losses.clear()
    if job.valid is not None:
        found = measure(step.local, job.task, job.valid, precision=job.hp.precision)
        progress.best.offer(Candidate.of(f"{phase.name}-{number}", number, job.task, found), step.local)
        if progress.step <= warmup_steps(job.hp):
            progress.best.since_best = 0
        row |= {f"valid_{name}": value for name, value in found.metrics.items()}
    progress.history.append(row)
    progress.is_stopped |= callbacks.evaluated(job.callbacks, row)


def _save(progress: Progress, step: TrainStep, checkpoints: Checkpointer, phase: Phase) -> None:
    """Write a checkpoint; a run that was asked to stop ends here."""
    step.check_finite()
    tensors = step.state()
    if progress.losses:
        tensors["losses"] = _over_processes(torch.stack(progress.losses))
    names = progress.best.save(checkpoints)
    facts = {
        "step": progress.step,
        "history": progress.history,
        "seconds": progress.seconds,
        "best": progress.best.facts(),
        "micro_batch": step.micro_batch,
    }
    if isinstance(step.job.train, StreamedDataset):
        first, position = step.job.train.position(phase.steps_before + progress.step)
        every = distributed.all_gather([first, position.to_dict()])
        facts["stream"] = every[: _part(step.job.train)[1]]
    checkpoints.save(phase.name, Saved(tensors, facts), names)
    if checkpoints.stop_requested:
        say("stopped", f"at step {phase.steps_before + progress.step}, saved; the same command with --resume continues")
        raise KeyboardInterrupt


def _over_processes(losses: Tensor) -> Tensor:
    """Return the losses (steps,) of the whole batches: the sums of those of the processes."""
    parts = distributed.all_gather(losses.tolist())
    return losses if len(parts) == 1 else torch.tensor(parts, dtype=losses.dtype).sum(0)


def _resume(step: TrainStep, job: Job, checkpoints: Checkpointer, phase: Phase, best: BestWeights | None) -> Progress:
    """Return the progress in a checkpoint, after restoring network and optimizer; without one, new progress."""
    saved = checkpoints.within(phase.name)
    if saved is None:
        best = best or BestWeights(job.hp.soup)
        best.begin_phase(step.local, phase.name)
        return Progress(best)
    facts = saved.facts
    with checkpoints.reading():
        step.load(saved.tensors)
        step.micro_batch = facts["micro_batch"]
        best = BestWeights(job.hp.soup)
        best.load(facts["best"], checkpoints)
        losses = (
            list(saved.tensors["losses"].to(step.device) / distributed.world_size())
            if "losses" in saved.tensors
            else []
        )
        position = _position(facts["stream"], job.train) if "stream" in facts else None
        return Progress(best, facts["step"], facts["history"], losses, facts["seconds"], position)


def _position(saved: Sequence[Any], data: Dataset) -> tuple[int, Position]:
    """Return where the stream of this process was; RecipeError where another number of processes divided it."""
    number, parts = _part(data)
    if len(saved) != parts:
        what = f"each of {len(saved)} processes read shards of its own in this run, and now there are {parts}"
        raise RecipeError(what, fix=f"torchrun --nproc-per-node {len(saved)}, or start anew without --resume")
    first, position = saved[number]
    return first, Position.from_dict(position)
