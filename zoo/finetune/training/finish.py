"""The end of a training: which weights are kept, and how sure they may be."""

from __future__ import annotations

from typing import Any

from torch import nn

from zoo.console import say
from zoo.data.datasets import Set
from zoo.finetune.job import Job
from zoo.finetune.network import Network, measured_rows, put
from zoo.finetune.training.best_weights import Best, Kept, Row, beyond_noise, scored, stirred
from zoo.finetune.training.calibration import Calibration, calibrate
from zoo.tasks import Classify, Task


def finish(net: Network, job: Job, best: Best) -> tuple[Row, Calibration | None]:
    """Average the best weights if it helps, fall back on the probe if nothing did, calibrate; returns the metrics."""
    task, valid, recipe = job.task, job.valid, job.recipe
    if valid is None or best.first is None:
        return {}, None

    def measure() -> tuple[Row, Any]:
        rows = measured_rows(net, task, valid, recipe.precision)
        return task.measure(rows.values, rows.targets), rows.values

    if recipe.soup and recipe.soup > 1 and (count := stirred(best, net, task, measure)) > 1:
        say("soup", f"{count} of the best {len(best.kept)} averaged: {scored(task, best.first)}")
    first, start = best.first, best.start
    if job.cautious and start is not None and not _better(task, start, first, valid):
        put(net, start.state)
        best.kept = [start]
        return start.metrics, None
    return _calibrated(net, job, first)


def _better(task: Task, start: Kept, found: Kept, valid: Set) -> bool:
    """Tell whether tuning has won over the probe: of classifiers, beyond chance."""
    if found.score <= start.score:
        return False
    if isinstance(task, Classify) and start.outputs is not None and found.outputs is not None:
        return beyond_noise(start.outputs, found.outputs, valid.targets)
    return True


def _calibrated(net: Network, job: Job, found: Kept) -> tuple[Row, Calibration | None]:
    """Make the probabilities of a tuned classifier honest; returns the metrics, which say how honest they are."""
    usual = isinstance(job.task, Classify) and isinstance(net.head, nn.Linear) and job.recipe.calibrate
    if not usual or found.outputs is None or job.valid is None or found.step == 0:
        return found.metrics, None
    assert isinstance(net.head, nn.Linear)
    done = calibrate(net.head, found.outputs, job.valid.targets, job.recipe.seed)
    if done is None or done.temperature == 1:
        return found.metrics, done
    say(
        "calibrate",
        f"temperature {done.temperature:.2f}: expected calibration error {done.before:.3f} -> {done.after:.3f}",
    )
    return job.task.measure(found.outputs / done.temperature, job.valid.targets), done
