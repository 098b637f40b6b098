"""The one training loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.console import Bar
from zoo.data.batches import Images, training_order
from zoo.errors import RecipeError
from zoo.finetune import optim
from zoo.finetune.network import Network, autocast, channels_last, outputs, set_mode
from zoo.finetune.recipe import Recipe
from zoo.tasks.task import Task

Row = dict[str, float]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images with their encoded targets (N,)."""

    images: Images
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(slots=True)
class Best:
    """The best weights so far, by the task's metric, then by the loss."""

    step: int = 0
    score: tuple[float, float] = (-math.inf, -math.inf)
    metrics: Row = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    missed: int = 0

    def offer(self, step: int, metrics: Row, key: str, network: Network) -> None:
        """Keep the network's weights if its metrics are better than the best so far."""
        score = (metrics[key], -metrics["loss"])
        if score <= self.score:
            self.missed += 1
            return
        self.step, self.score, self.metrics, self.missed = step, score, metrics, 0
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

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Take one step on inputs (N, C, H, W) and targets (N,); returns the loss, a scalar."""
        with autocast(self.device, self.recipe.precision):
            outputs = self.network(inputs.to(self.device))
            loss = self.task.loss(outputs, targets.to(self.device), self.recipe.label_smoothing)
        self.accelerator.backward(loss)
        if self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.solver.step()
        self.rate.step()
        self.solver.zero_grad()
        return loss.detach()


def train(
    network: Network, task: Task, train_set: Labelled, valid_set: Labelled | None, recipe: Recipe
) -> tuple[list[Row], Best]:
    """Train what requires gradients for recipe.steps steps; with validation data, end with the best weights.

    Returns one row per measurement (step, loss, and metrics as valid_…) and the best one. Everything random
    depends on recipe.seed and the step alone. Raises RecipeError when the loss is no longer finite.
    """
    channels_last(network)
    optimisation = _Optimisation(network, task, recipe)
    history: list[Row] = []
    best = Best()
    steps = recipe.steps or 0
    every = math.ceil(steps / recipe.evals)
    running: list[Tensor] = []
    with Bar("tune", steps) as bar, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        set_mode(network, hold_norms=recipe.norm == "frozen")
        for step, inputs, targets in _batches(train_set, recipe):
            running.append(optimisation.step(inputs, targets))
            bar.advance(note=f"loss {history[-1]['loss']:.3f}" if history else "")
            if (step + 1) % every and step + 1 < steps:
                continue
            history.append(_row(step + 1, running))
            running.clear()
            if valid_set is not None:
                metrics = measure(network, task, valid_set, recipe.precision)
                history[-1] |= {f"valid_{name}": value for name, value in metrics.items()}
                best.offer(step + 1, metrics, task.best, network)
                if recipe.patience and best.missed >= recipe.patience:
                    break
    if best.state:
        network.load_state_dict(best.state)
    network.eval()
    return history, best


def measure(network: Network, task: Task, data: Labelled, precision: str) -> Row:
    """Return the task's metrics of a network on labelled images."""
    return task.measure(outputs(network, data.images, precision=precision), data.targets)


def _batches(data: Labelled, recipe: Recipe) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (step, images (N, C, H, W), targets (N,)); a step's augmentation depends on seed and step alone."""
    for step, indices in training_order(len(data), recipe.batch_size, recipe.steps or 0, recipe.seed):
        chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + 1)
        yield step, data.images.batch(indices, recipe.augment, chance), data.targets[indices]


def _row(step: int, losses: list[Tensor]) -> Row:
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        first = next(i for i, loss in enumerate(losses) if not torch.isfinite(loss)) - len(losses) + step + 1
        raise RecipeError(f"the loss is {mean} at step {first}: training has diverged", fix="a smaller rate: lr=1e-4")
    return {"step": step, "loss": mean}
