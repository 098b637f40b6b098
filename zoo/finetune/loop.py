"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.console import Bar
from zoo.data.batches import training_order
from zoo.data.sets import Batch
from zoo.errors import RecipeError
from zoo.finetune import optim
from zoo.finetune.job import Job
from zoo.finetune.network import Network, autocast, channels_last, measure, set_mode, to_device
from zoo.finetune.recipe import Recipe
from zoo.tasks.task import Task, score

Row = dict[str, float]


@dataclass(slots=True)
class Best:
    """The best weights so far, by the task's metric, then by the loss."""

    step: int = 0
    score: tuple[float, float] = (-math.inf, -math.inf)
    metrics: Row = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    missed: int = 0

    def offer(self, step: int, metrics: Row, task: Task, network: Network) -> None:
        """Keep the network's weights if its metrics are better than the best so far."""
        reached = (score(task, metrics), -metrics["loss"])
        if reached <= self.score:
            self.missed += 1
            return
        self.step, self.score, self.metrics, self.missed = step, reached, metrics, 0
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


class _Optimisation:
    """What one step changes: the network's parameters, the optimiser's state and the learning rate."""

    def __init__(self, network: Network, task: Task, recipe: Recipe) -> None:
        from accelerate import Accelerator

        self.task, self.recipe = task, recipe
        self.device = next(network.parameters()).device
        self.accelerator = Accelerator(cpu=self.device.type == "cpu", device_placement=False)
        solver = optim.optimizer(network, recipe)
        rate = optim.schedule(solver, recipe)
        self.network, self.solver, self.rate = self.accelerator.prepare(network, solver, rate)

    def step(self, batch: Batch) -> Tensor:
        """Take one step on a batch; returns the loss, a scalar."""
        batch = to_device(batch, self.device)
        assert batch.targets is not None
        with autocast(self.device, self.recipe.precision):
            outputs = self.network(batch.inputs, batch.where)
            loss = self.task.loss(outputs, batch.targets, self.recipe.label_smoothing)
        self.accelerator.backward(loss)
        if self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.solver.step()
        self.rate.step()
        self.solver.zero_grad()
        return loss.detach()


def train(network: Network, job: Job, *, measure_first: bool = False) -> tuple[list[Row], Best]:
    """Train what requires gradients for recipe.steps steps; with validation data, end with the best weights.

    Returns one row per measurement (step, loss, and metrics as valid_…) and the best one; with `measure_first` the
    network as it comes, which may know its task already, is one of them. Everything random depends on recipe.seed and
    the step alone. Raises RecipeError when the loss is no longer finite.
    """
    task, recipe = job.task, job.recipe
    channels_last(network)
    optimisation = _Optimisation(network, task, recipe)
    history: list[Row] = []
    best = Best()
    steps = recipe.steps or 0
    every = math.ceil(steps / (recipe.evals or 1))
    running: list[Tensor] = []
    if measure_first and job.valid is not None:
        metrics = measure(network, task, job.valid, recipe.precision)
        history.append({"step": 0, "loss": metrics["loss"]} | {f"valid_{k}": v for k, v in metrics.items()})
        best.offer(0, metrics, task, network)
    with Bar("tune", steps) as bar, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        set_mode(network, hold_norms=recipe.norm == "frozen")
        for step, batch in _batches(job):
            running.append(optimisation.step(batch))
            bar.advance(note=f"loss {history[-1]['loss']:.3f}" if history else "")
            if (step + 1) % every and step + 1 < steps:
                continue
            history.append(_row(step + 1, running))
            running.clear()
            if job.valid is not None:
                metrics = measure(network, task, job.valid, recipe.precision)
                history[-1] |= {f"valid_{name}": value for name, value in metrics.items()}
                best.offer(step + 1, metrics, task, network)
                if recipe.patience and best.missed >= recipe.patience:
                    break
    if best.state:
        network.load_state_dict(best.state)
    network.eval()
    return history, best


def _batches(job: Job) -> Iterator[tuple[int, Batch]]:
    """Yield (step, batch); a step's augmentation depends on seed and step alone."""
    data, recipe = job.train, job.recipe
    steps = recipe.steps or 0
    turns = training_order(len(data), recipe.batch_size, steps, recipe.seed, lengths=data.lengths, weights=job.draws)
    for step, indices in turns:
        chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + 1)
        yield step, data.batch(indices, recipe.augment, chance)


def _row(step: int, losses: list[Tensor]) -> Row:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        first = next(i for i, loss in enumerate(losses) if not torch.isfinite(loss)) - len(losses) + step + 1
        raise RecipeError(f"the loss is {mean} at step {first}: training has diverged", fix="a smaller rate: lr=1e-4")
    return {"step": step, "loss": mean}
