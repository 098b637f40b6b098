"""The best weights of a run by its validation data, and the average of several where that is better still."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.finetune import distributed
from zoo.finetune.network import put, weights
from zoo.finetune.training.checkpoint import Keeper
from zoo.tasks.task import Task, score

Row = dict[str, float]
Measure = Callable[[], tuple[Row, Any]]


@dataclass(slots=True)
class Kept:
    """A measurement with its weights; `outputs` are those on the validation data, where each example has one row."""

    name: str
    step: int
    score: tuple[float, float]
    metrics: Row
    state: dict[str, Tensor] = field(default_factory=dict)
    outputs: Tensor | None = None


@dataclass(slots=True)
class Best:
    """The best few measurements, by the task's metric and then by the loss; the best comes first.

    `start` is what training started from, where that knew the task already. `missed` counts the measurements since
    the best.
    """

    most: int = 1
    kept: list[Kept] = field(default_factory=list)
    start: Kept | None = None
    missed: int = 0

    @property
    def first(self) -> Kept | None:
        """The best measurement, if there was one."""
        return self.kept[0] if self.kept else None

    def begin(self, network: nn.Module, phase: str) -> None:
        """Begin a phase with a network whose weights are the best, and in which more may train than before.

        What is kept has more weights from now on, and so another name.
        """
        state = weights(network)
        self.kept, self.missed = self.kept[:1], 0
        for one in self.kept:
            one.state, one.name = state, f"{phase}-from-{one.step}"
        if self.start is not None:
            self.start.state, self.start.name = {**state, **self.start.state}, f"{phase}-from-0"

    def offer(self, one: Kept, network: nn.Module) -> None:
        """Keep a measurement and the network's weights if it is better than the worst that is kept."""
        self.missed = 0 if not self.kept or one.score > self.kept[0].score else self.missed + 1
        if len(self.kept) == self.most and one.score <= self.kept[-1].score:
            return
        one.state = weights(network)
        self.kept.append(one)
        self.kept.sort(key=lambda each: each.score, reverse=True)  # stable: of equals the earlier one is first
        del self.kept[self.most :]

    def save(self, keeper: Keeper) -> set[str]:
        """Write the weights that are not written yet; returns the names of all."""
        every = {one.name: one for one in (*self.kept, *([self.start] if self.start else []))}
        for name, one in every.items():
            outputs = {} if one.outputs is None else {"outputs": one.outputs}
            if keeper.lacks(name):
                state = {f"state.{key}": distributed.whole(value) for key, value in one.state.items()}
                keeper.best(name, state | outputs)
        return set(every)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint says of the best, beside the weights."""
        kept = [_facts(one) for one in self.kept]
        return {"missed": self.missed, "kept": kept, "start": self.start and _facts(self.start)}

    def load(self, facts: Mapping[str, Any], keeper: Keeper) -> None:
        """Take back what `save` and `facts` told."""
        self.missed = facts["missed"]
        self.kept = [_kept(one, keeper) for one in facts["kept"]]
        self.start = _kept(facts["start"], keeper) if facts["start"] else None


def _facts(one: Kept) -> dict[str, Any]:
    return {"name": one.name, "step": one.step, "score": one.score, "metrics": one.metrics}


def _kept(facts: Mapping[str, Any], keeper: Keeper) -> Kept:
    tensors = keeper.best_of(facts["name"])
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    first, second = facts["score"]
    return Kept(facts["name"], facts["step"], (first, second), facts["metrics"], state, tensors.get("outputs"))


def measured(name: str, step: int, task: Task, metrics: Row, outputs: Any) -> Kept:
    """Describe a measurement; only outputs of one row an example are kept."""
    reached = (score(task, metrics), -metrics["loss"])
    return Kept(name, step, reached, metrics, outputs=outputs if isinstance(outputs, Tensor) else None)


def scored(task: Task, one: Kept | None) -> str:
    """Write the task's own metric of a measurement, nothing without one."""
    return f"{task.best} {one.metrics[task.best]:.3f}  " if one else ""


def stirred(best: Best, network: nn.Module, task: Task, measure: Measure) -> int:
    """Average the best weights, the next one as long as validation gains by it; returns how many were averaged.

    A greedy soup (Wortsman et al. 2022, arXiv 2203.05482, recipe 1). The network and `best` end with the winner.
    """
    chosen = [one.state for one in best.kept[:1]]
    for one in best.kept[1:]:
        state = average([*chosen, one.state])
        put(network, state)
        metrics, outputs = measure()
        found = measured("soup", best.kept[0].step, task, metrics, outputs)
        if found.score > best.kept[0].score:
            chosen.append(one.state)
            found.state = state
            best.kept[0] = found
    if best.kept:
        put(network, best.kept[0].state)
    return len(chosen)


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several weights; what is no floating-point number is that of the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def beyond_noise(before: Tensor, after: Tensor, targets: Tensor) -> bool:
    """Tell whether class outputs (N, K) are right more often than others before, by more than chance would have it.

    Of the examples on which one is right and the other wrong, the surplus has to exceed its standard error, the root
    of their number (McNemar 1947).
    """
    gain = (after.argmax(1) == targets).long() - (before.argmax(1) == targets).long()
    return bool(gain.sum() > gain.abs().sum().sqrt())
