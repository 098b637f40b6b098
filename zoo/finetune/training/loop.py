"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from zoo.console import Bar, say
from zoo.data.datasets import Batch
from zoo.data.sampler import training_order
from zoo.finetune import distributed
from zoo.finetune.job import Job
from zoo.finetune.network import Network, measured_rows, put, set_mode
from zoo.finetune.recipe import Recipe
from zoo.finetune.training.best_weights import Best, Row, measured
from zoo.finetune.training.checkpoint import Keeper, Saved, stoppable
from zoo.finetune.training.train_step import Optimisation


@dataclass(slots=True)
class Progress:
    """Where training is: steps taken, measurements, losses since the last of them, the best weights, seconds spent."""

    best: Best
    step: int = 0
    history: list[Row] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training: its name, the steps taken before it, and the most seconds it may take."""

    name: str = "tune"
    before: int = 0
    seconds: float = math.inf


def train(
    network: Network,
    job: Job,
    keeper: Keeper | None = None,
    phase: Phase = Phase(),  # frozen
    best: Best | None = None,
) -> Progress:
    """Train what requires gradients for recipe.steps steps; with validation data, end with the best weights.

    `best` is what the network is already known to reach. Everything random depends on recipe.seed and the number of
    the step alone, so a run that goes on from a checkpoint of `keeper` ends with the same bits. Raises RecipeError,
    which names the batch, when the loss is no longer finite, and KeyboardInterrupt, after a checkpoint, when it is
    asked to stop.
    """
    keeper = keeper or Keeper()
    optimisation = Optimisation(network, job)
    progress = _resumed(optimisation, job, keeper, phase, best)
    with Bar("tune", job.recipe.steps or 0) as bar, torch.random.fork_rng(), stoppable(keeper):
        bar.advance(progress.step)
        _steps(progress, optimisation, job, keeper, phase, bar)
    if progress.best.first is not None:
        put(optimisation.own, progress.best.first.state)
    optimisation.collect(network)
    network.eval()
    return progress


def _steps(progress: Progress, optimisation: Optimisation, job: Job, keeper: Keeper, phase: Phase, bar: Bar) -> None:
    """Take the steps that are left, measuring and saving on the way."""
    recipe, history = job.recipe, progress.history
    steps = recipe.steps or 0
    every = math.ceil(steps / (recipe.evals or 1))
    start = time.monotonic() - progress.seconds
    if _finished(progress, recipe):
        return
    set_mode(optimisation.own, job.frozen(), hold_norms=recipe.norm == "frozen", dropout=recipe.dropout == "on")
    for step, indices, batch in _batches(job, phase.before, progress.step):
        progress.losses.append(optimisation.step(step, progress.step, indices, batch))
        progress.step, progress.seconds = progress.step + 1, time.monotonic() - start
        bar.advance(note=f"loss {history[-1]['loss']:.3f}" if history else "")
        late = distributed.agreed(progress.seconds >= phase.seconds) if math.isfinite(phase.seconds) else False
        if progress.step % every == 0 or progress.step == steps or late:
            history.append({"step": phase.before + progress.step, "loss": optimisation.mean(progress.losses)})
            progress.losses.clear()
            if job.valid is not None:
                history[-1] |= _measure(progress, optimisation.own, job, phase)
        if keeper.due():
            _save(progress, optimisation, keeper, phase)
        if late or _finished(progress, recipe):
            return


def _finished(progress: Progress, recipe: Recipe) -> bool:
    """Tell whether all steps are taken, or enough measurements without a better one."""
    return progress.step >= (recipe.steps or 0) or bool(recipe.patience and progress.best.missed >= recipe.patience)


def _batches(job: Job, before: int, done: int) -> Iterator[tuple[int, Tensor, Batch]]:
    """Yield (number, indices, batch) of the steps that are left; all that is random depends on the number."""
    data, recipe = job.train, job.recipe
    last, lengths = before + (recipe.steps or 0), data.lengths
    turns = training_order(len(data), recipe.batch_size, last, recipe.seed, lengths=lengths, weights=job.draws)
    for step, indices in islice(turns, before + done, None):
        chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + 1)
        yield step, indices, data.batch(indices, recipe.augment, chance, distributed.share(len(indices)))


def _measure(progress: Progress, network: Network, job: Job, phase: Phase) -> Row:
    """Measure on the validation data, and keep the weights if they are among the best."""
    assert job.valid is not None
    rows = measured_rows(network, job.task, job.valid, job.recipe.precision)
    metrics = job.task.measure(rows.values, rows.targets)
    number = phase.before + progress.step
    progress.best.offer(measured(f"{phase.name}-{number}", number, job.task, metrics, rows.values), network)
    return {f"valid_{name}": value for name, value in metrics.items()}


def _save(progress: Progress, optimisation: Optimisation, keeper: Keeper, phase: Phase) -> None:
    """Write a checkpoint; if the run was asked to stop, it ends here."""
    optimisation.check()
    tensors = optimisation.tensors()
    if progress.losses:
        tensors["losses"] = torch.stack(progress.losses)
    names = progress.best.save(keeper)
    facts = {
        "step": progress.step,
        "history": progress.history,
        "seconds": progress.seconds,
        "best": progress.best.facts(),
        "micro": optimisation.micro,
    }
    keeper.save(phase.name, Saved(tensors, facts), names)
    if keeper.stop:
        say("stopped", f"at step {phase.before + progress.step}, saved; the same command with --resume goes on")
        raise KeyboardInterrupt


def _resumed(optimisation: Optimisation, job: Job, keeper: Keeper, phase: Phase, best: Best | None) -> Progress:
    """Return the progress that a checkpoint holds, with network and optimiser as they were; else a new one."""
    saved = keeper.at(phase.name)
    if saved is None:
        best = best or Best(job.recipe.soup or 1)
        best.begin(optimisation.own, phase.name)
        return Progress(best)
    facts = saved.facts
    optimisation.load(saved.tensors)
    optimisation.micro = facts["micro"]
    best = Best(job.recipe.soup or 1)
    best.load(facts["best"], keeper)
    losses = list(saved.tensors["losses"]) if "losses" in saved.tensors else []
    return Progress(best, facts["step"], facts["history"], losses, facts["seconds"])
