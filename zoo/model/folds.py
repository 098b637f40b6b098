"""Cross-validation: the score of a recipe as the mean over folds, each held out once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from zoo import tasks
from zoo.console import counted, quiet, say
from zoo.data import split
from zoo.finetune import messages
from zoo.finetune.setup import Data, Request
from zoo.tasks.intervals import Interval, corrected_t, is_share, wilson


def cross_validate(model: Any, request: Request, data: Data, run: Callable[[Request, Data], None]) -> dict[str, Any]:
    """Train a copy of the model on all folds but one, and measure it on that one, for each; the model is unchanged.

    `run` fine-tunes the model and measures `tested`. Returns "scores" (a dict of metrics for each fold), "mean" and
    "intervals" of each metric.
    """
    kind = tasks.KINDS[data.task]
    held_out = split.folds(data.train, request.folds, stratify=kind.single_label, seed=request.recipe.seed)
    scores: list[dict[str, float]] = []
    for number, held in enumerate(held_out, 1):
        kept = sorted(set(range(len(data.train))) - set(held))
        part = replace(data, train=data.train.at(kept), test=data.train.at(held))
        with _unchanged(model):
            with quiet():
                run(replace(request, callbacks=(), track=()), part)
            scores.append(model.tested)
        shown = f"{messages.metrics(scores[-1], {})}   ({counted(len(held), 'example')})"
        say("fold", f"{number}/{request.folds}  {shown}")
    names = [name for name in scores[0] if all(name in score for score in scores)]
    mean = {name: sum(score[name] for score in scores) / len(scores) for name in names}
    intervals = {name: _interval([score[name] for score in scores], name) for name in names}
    if kind.single_label:  # the folds together are all examples, each measured once
        hits = sum(score["accuracy"] * len(held) for score, held in zip(scores, held_out, strict=True))
        intervals["accuracy"] = wilson(round(hits), sum(map(len, held_out)))
    task = tasks.make(data.task, data.train.labels)
    reference = f", {task.baseline(data.train.labels)}" if task.labelled else ""
    where = f"(mean of {request.folds} folds{reference}; the model trains on all of them)"
    say("folds", f"{messages.metrics(mean, intervals)}   {where}")
    if request.recipe.class_balance == "none" and task.is_no_better_than_baseline(mean, data.train.labels):
        say("warning", messages.no_better_than_baseline(task, data.train.labels, request.recipe.strategy))
    return {"scores": scores, "mean": mean, "intervals": intervals}


def _interval(scores: list[float], name: str) -> Interval:
    """Return the interval of a mean, within 0 and 1 for metrics that are shares."""
    low, high = corrected_t(scores)
    return (max(0.0, low), min(1.0, high)) if is_share(name) else (low, high)


@contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """Restore the model, its weights included, after the block."""
    before, head = dict(vars(model)), copy.deepcopy(model.head)
    module = model.backbone.module
    state = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        yield
    finally:
        module.load_state_dict(state)
        vars(model).update(before | {"head": head})
