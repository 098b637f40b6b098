"""Best weights: the best evaluations of a run, their greedy soup, and the choice of what to keep at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.console import say
from zoo.finetune.inference import Measurement, measure
from zoo.finetune.job import Job
from zoo.finetune.network import Network, copy_state, load_state
from zoo.finetune.training.calibration import Calibration, calibrate
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.tasks import Task, score
from zoo.tasks.intervals import Interval

Metrics = dict[str, float]
RESOLUTION = 0.25
"""Difference of the main metric that chance makes, times the root of the number of validation examples.

It is half of the standard error of an accuracy of one half. Evaluations that differ by less are ranked by their loss,
which depends on every example, and not on the few that are only just right or wrong (docs/log.md).
"""


@dataclass(slots=True)
class Candidate:
    """An evaluation with its weights; `outputs` (N, K) are those on the validation data, where examples have one row.

    `score` is the main metric and the negated loss, `resolution` the difference of the metric that chance makes.
    `intervals` are those of the metrics where tokens are read, whose outputs are not kept.
    """

    name: str
    step: int
    score: tuple[float, float]
    metrics: Metrics
    state: dict[str, Tensor] = field(default_factory=dict)
    outputs: Tensor | None = None
    resolution: float = 0.0
    intervals: dict[str, Interval] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, step: int, task: Task, found: Measurement) -> Candidate:
        """Return the candidate of a measurement, still without weights."""
        values, metrics = found.outputs.values, found.metrics
        found_score, resolution = (score(task, metrics), -metrics["loss"]), RESOLUTION / math.sqrt(len(values))
        if isinstance(values, Tensor):
            return cls(name, step, found_score, metrics, outputs=values, resolution=resolution)
        intervals = task.intervals(values, found.outputs.targets)
        return cls(name, step, found_score, metrics, resolution=resolution, intervals=intervals)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint stores beside the tensors."""
        scores = {"score": self.score, "resolution": self.resolution, "intervals": self.intervals}
        return {"name": self.name, "step": self.step, "metrics": self.metrics} | scores


@dataclass(slots=True)
class BestWeights:
    """The best few candidates, best first.

    limit        how many are kept
    start        the candidate before training, where the network knew the task already
    since_best   evaluations since the best one, or the one with the lowest loss, whichever is later
    lowest_loss  of all evaluations of the phase
    top          highest main metric of all evaluations
    """

    limit: int = 1
    kept: list[Candidate] = field(default_factory=list)
    start: Candidate | None = None
    since_best: int = 0
    lowest_loss: float = math.inf
    top: float = -math.inf

    @property
    def first(self) -> Candidate | None:
        """The best candidate, if there is one."""
        return self.kept[0] if self.kept else None

    def begin_phase(self, network: nn.Module, phase: str) -> None:
        """Begin a phase from the best weights, which are those of the network.

        More parameters may train than before, so the candidates get their weights anew, under another name.
        """
        state = copy_state(network)
        self.kept, self.since_best, self.lowest_loss = self.kept[:1], 0, math.inf
        for one in self.kept:
            one.state, one.name = state, f"{phase}-from-{one.step}"
        if self.start is not None:
            self.start.state, self.start.name = {**state, **self.start.state}, f"{phase}-from-0"

    def rank(self, one: Candidate) -> tuple[bool, float]:
        """Return the key that orders candidates: by loss where the metric is as high as any, else by the metric."""
        metric, negated_loss = one.score
        as_high = metric >= self.top - one.resolution
        return as_high, negated_loss if as_high else metric

    def offer(self, one: Candidate, network: nn.Module) -> None:
        """Keep a candidate, with the weights of the network, if it is better than the worst that is kept."""
        self.top = max(self.top, *(each.score[0] for each in (*self.kept, one)))
        better = self.first is None or self.rank(one) > self.rank(self.first) or one.metrics["loss"] < self.lowest_loss
        self.since_best = 0 if better else self.since_best + 1
        self.lowest_loss = min(self.lowest_loss, one.metrics["loss"])
        ranked = sorted((*self.kept, one), key=self.rank, reverse=True)  # stable: of equals the earlier one is first
        self.kept = ranked[: self.limit]
        if any(each is one for each in self.kept):
            one.state = copy_state(network)

    def save(self, checkpoints: Checkpointer) -> set[str]:
        """Write the weights that are not written yet; returns the names of all."""
        every = {one.name: one for one in (*self.kept, *([self.start] if self.start else []))}
        for name, one in every.items():
            outputs = {} if one.outputs is None else {"outputs": one.outputs}
            if not checkpoints.has_weights(name):
                state = {f"state.{key}": value for key, value in one.state.items()}
                checkpoints.write_weights(name, state | outputs)
        return set(every)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint stores beside the weights."""
        kept = [one.facts() for one in self.kept]
        start = self.start and self.start.facts()
        best = {"since_best": self.since_best, "lowest_loss": self.lowest_loss, "top": self.top}
        return {**best, "kept": kept, "start": start}

    def load(self, facts: Mapping[str, Any], checkpoints: Checkpointer) -> None:
        """Restore what `save` and `facts` stored."""
        self.since_best, self.lowest_loss, self.top = facts["since_best"], facts["lowest_loss"], facts["top"]
        self.kept = [_restored(one, checkpoints) for one in facts["kept"]]
        self.start = _restored(facts["start"], checkpoints) if facts["start"] else None


def _restored(facts: Mapping[str, Any], checkpoints: Checkpointer) -> Candidate:
    tensors = checkpoints.read_weights(facts["name"])
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    metric, negated_loss = facts["score"]
    known = Candidate(facts["name"], facts["step"], (metric, negated_loss), facts["metrics"], state)
    intervals = {name: (low, high) for name, (low, high) in facts["intervals"].items()}
    return replace(known, outputs=tensors.get("outputs"), resolution=facts["resolution"], intervals=intervals)


def select(network: Network, job: Job, best: BestWeights) -> tuple[Metrics, Calibration | None]:
    """Load the weights to keep into the network: the soup or the best, or the probe where nothing beat it; calibrate.

    Returns the metrics on the validation data, {} without any.
    """
    valid = job.valid
    if valid is None or best.first is None:
        return {}, None

    def evaluate() -> Measurement:
        return measure(network, job.task, valid, precision=job.hp.precision)

    if job.hp.soup > 1 and (count := greedy_soup(best, network, job.task, evaluate)) > 1:
        say("soup", f"{count} of the best {len(best.kept)} averaged: {headline(job.task, best.first)}")
    first, start = best.first, best.start
    if job.recipe.strategy == "auto" and start is not None and not improves(job, start, first):
        load_state(network, start.state)
        best.kept = [start]
        return start.metrics, None
    return _calibrated(network, job, first)


def improves(job: Job, start: Candidate, found: Candidate) -> bool:
    """Return whether fine-tuning beats the probe, beyond chance where the task can test it."""
    if found.score <= start.score:
        return False
    if start.outputs is None or found.outputs is None:
        return True
    assert job.valid is not None
    return job.task.improves(start.outputs, found.outputs, job.valid.targets)


def _calibrated(network: Network, job: Job, found: Candidate) -> tuple[Metrics, Calibration | None]:
    """Apply temperature scaling to a tuned classifier; returns its metrics afterwards."""
    head = network.head
    if not (job.hp.calibrate and job.task.single_label and isinstance(head, nn.Linear) and found.step):
        return found.metrics, None
    if found.outputs is None or job.valid is None:
        return found.metrics, None
    scaling = calibrate(head, found.outputs, job.valid.targets, job.hp.seed)
    if scaling is None or scaling.temperature == 1:
        return found.metrics, scaling
    error = f"expected calibration error {scaling.before:.3f} -> {scaling.after:.3f}"
    say("calibrate", f"temperature {scaling.temperature:.2f}: {error}")
    return job.task.measure(found.outputs / scaling.temperature, job.valid.targets), scaling


def headline(task: Task, one: Candidate | None) -> str:
    """Return the main metric of a candidate as text, "" without one."""
    return f"{task.main_metric} {one.metrics[task.main_metric]:.3f}  " if one else ""


def greedy_soup(best: BestWeights, network: nn.Module, task: Task, evaluate: Callable[[], Measurement]) -> int:
    """Average the best weights, adding one after the other while validation improves; returns how many were averaged.

    Greedy soup (Wortsman et al. 2022, arXiv 2203.05482, recipe 1). Network and `best` end with the winner.
    """
    chosen = [one.state for one in best.kept[:1]]
    for one in best.kept[1:]:
        state = average([*chosen, one.state])
        load_state(network, state)
        found = Candidate.of("soup", best.kept[0].step, task, evaluate())
        best.top = max(best.top, found.score[0])
        if best.rank(found) > best.rank(best.kept[0]):
            chosen.append(one.state)
            found.state = state
            best.kept[0] = found
    if best.kept:
        load_state(network, best.kept[0].state)
    return len(chosen)


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of several states, on the device of the first; integer tensors are those of the first."""
    return {
        name: torch.stack([state[name].to(value.device) for state in states]).mean(0)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
