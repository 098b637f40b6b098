"""Score a backbone on data by cross-validation of the head that a probe fits on its frozen features: a job."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.catalogue.rows import entry_from_row
from zoo.data import split
from zoo.data.examples import Examples
from zoo.data.prepare import Validation
from zoo.data.seeding import derive_seed
from zoo.finetune import setup
from zoo.finetune.features import frozen_features, linear_probe
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.freezing import eval_mode
from zoo.finetune.heads import stages_of
from zoo.finetune.inference import Outputs
from zoo.finetune.job import Job
from zoo.finetune.network import autocast
from zoo.finetune.recipe import Recipe
from zoo.finetune.runtime.workers import one_thread_each
from zoo.finetune.training import execution
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.model.load import load_entry
from zoo.plugin import Backbone
from zoo.tasks import Task

Stages = tuple[StageOutput, ...]
TIMED = 4
"""Items of the batch whose computation is timed."""
TIMINGS = 3
"""Times that it is computed; the shortest counts."""
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """How a backbone is scored.

    task     name of the task
    size     number of examples, the first ones of the order
    repeats  cross-validations, each with other folds
    seed     of folds and heads
    timed    whether to measure what an item costs
    """

    task: str
    size: int
    repeats: int
    seed: int
    timed: bool = True


def score(
    examples: Examples,
    order: Sequence[int],
    *,
    entry: Mapping[str, Any],
    plan: Mapping[str, Any],
    device: str = "cpu",
    **identity: str,
) -> dict[str, Any]:
    """Return the cross-validated scores of a backbone's frozen features on the first examples of an order.

    `entry` is its catalogue row; `identity` names data and weights for the job's hash. Returns

    items    scores (R, N) of N examples in R cross-validations: 0 or 1 for classes, else the negative loss; higher is
             better
    metrics  mean of each metric over the cross-validations; low, high: of the main one, its 95 % interval
    ms       milliseconds for an item here, in one thread
    gmacs    billions of multiply-accumulates for an item, counted
    params   of the backbone

    The heads have the penalty and the stages that the probe chooses on these examples. To choose the penalty anew
    within each fold (nested) costs eight times as much and changes the scores by less than chance (docs/log.md).
    Random weights are scored as well. The features are those of a probe on the same examples, and shared with it.
    """
    how = Plan(**plan)
    part = examples if how.size == len(examples) else examples.at(sorted(order[: how.size]))
    model = load_entry(entry_from_row(entry["name"], entry, catalogue=""), device)
    with one_thread_each():
        job = _job(model.backbone, part, how)
        settings = execution.choose(model.backbone, job, Checkpointer())
        job = replace(job, hp=replace(job.hp, precision=settings.precision))
        with execution.applied(model.backbone, settings):
            cost = _cost(model.backbone, job) if how.timed else {}
            stages, _ = frozen_features.readable_stages(model.backbone, job.task, job.train, job.hp)
            features, _ = frozen_features.features(model.backbone, job.task, job.train, job.hp.precision, stages)
        return cost | _cross_validate(job, (features, stages), part, how)


def _job(backbone: Backbone, examples: Examples, how: Plan) -> Job:
    """Return the job of a probe on all of the examples."""
    recipe = Recipe(strategy="probe", seed=how.seed, views=1)
    request = setup.Request(examples, recipe, how.task, valid=0)
    data = setup.Data(how.task, examples, Validation(), None, "")
    return setup.make_job(request, data, backbone, lambda _: None, pretrained=True)


def _cross_validate(job: Job, read: tuple[Outputs, Stages], examples: Examples, how: Plan) -> dict[str, Any]:
    """Return item scores (R, N), mean metrics, and the mean ends of the interval of the main metric.

    The features that were `read` end in the outputs of these stages.
    """
    task, (features, stages) = job.task, read
    rows = _rows(features, stages, job.groups)
    fitted = linear_probe.choose(task, rows, None, how.seed)
    seeds = [derive_seed(how.seed, "rank folds", repeat) for repeat in range(how.repeats)]
    splits = [split.folds(examples, FOLDS, stratify=task.single_label, seed=seed) for seed in seeds]
    scored = sorted(index for fold in splits[0] for index in fold)  # not the only example of a class
    rows_of = _rows_of(features)
    held = [[torch.cat([rows_of[index] for index in fold]) for fold in folds] for folds in splits]
    outputs = linear_probe.out_of_fold(task, rows.last_stages(len(stages_of(fitted.head))), held, fitted.l2)
    found = [_statistics(task, each, features, (scored, rows_of)) for each in outputs]
    metrics = [task.measure(each.values, each.targets) for each in found]
    ends = [task.intervals(each.values, each.targets).get(task.main_metric) for each in found]
    known = [each for each in ends if each is not None]
    low, high = (sum(pair[i] for pair in known) / len(known) if known else None for i in (0, 1))
    names = sorted(set.intersection(*map(set, metrics)))
    mean = {name: sum(each[name] for each in metrics) / len(metrics) for name in names}
    items = [_item_scores(task, each) for each in found]
    return {"items": items, "metrics": mean, "main": task.main_metric, "low": low, "high": high}


def _rows(features: Outputs, stages: Stages, groups: Tensor | None) -> ProbeData:
    """Return features as rows (M, D), of texts token by token; tokens of a text, or a group, share a fold."""
    if isinstance(features.values, Tensor):
        return ProbeData(features.values, features.targets, groups, stages)
    counts = torch.tensor([len(part) for part in features.values])
    groups = torch.arange(len(counts)) if groups is None else groups
    values, targets = torch.cat(features.values), torch.cat(features.targets)
    return ProbeData(values, targets, groups.repeat_interleave(counts), stages)


def _rows_of(features: Outputs) -> Sequence[Tensor]:
    """Return the indices of the rows of each example."""
    counts = [1] * len(features.values) if isinstance(features.values, Tensor) else [*map(len, features.values)]
    return list(torch.arange(sum(counts)).split(counts))


def _statistics(
    task: Task, outputs: Tensor, features: Outputs, places: tuple[Sequence[int], Sequence[Tensor]]
) -> Outputs:
    """Return the statistics and targets of the examples that were scored, given the outputs of all rows (M, K)."""
    scored, rows_of = places
    if isinstance(features.values, Tensor):
        kept = torch.tensor(scored)
        return Outputs(task.statistics(outputs[kept], features.targets[kept]), features.targets[kept])
    targets = [features.targets[index] for index in scored]
    rows = [outputs[rows_of[index]] for index in scored]
    return Outputs([task.statistics(*pair) for pair in zip(rows, targets, strict=True)], targets)


def _item_scores(task: Task, found: Outputs) -> list[float]:
    """Return the score of each example, higher is better: a hit (0 or 1) for one class, else the negative loss."""
    if task.single_label:
        hits: list[float] = (found.values.argmax(1) == found.targets).float().tolist()
        return hits
    pairs = zip(found.values, found.targets, strict=True)
    return [-float(task.loss(*_as_batch(values, target))) for values, target in pairs]


def _as_batch(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs and target of one example as a batch; the words of a text are one already."""
    return (outputs, target) if outputs.ndim > 1 else (outputs[None], target[None])


def _cost(backbone: Backbone, job: Job) -> dict[str, Any]:
    """Return what one item costs: milliseconds in one thread of this machine, and multiply-accumulates."""
    from torch.utils.flop_counter import FlopCounterMode

    module = backbone.module
    device = next(module.parameters()).device
    batch = job.train.batch(torch.arange(min(TIMED, len(job.train)))).to(device)
    clock = time.thread_time if device.type == "cpu" else time.perf_counter  # beside other processes, its own time
    spent = []
    with eval_mode(module), torch.inference_mode(), autocast(device, job.hp.precision):
        with FlopCounterMode(display=False) as counter:
            module(batch.inputs)
        for _ in range(TIMINGS):
            start = clock()
            module(batch.inputs)
            if device.type != "cpu":
                torch.accelerator.synchronize()
            spent.append(clock() - start)
    return {
        "ms": round(1e3 * min(spent) / batch.size, 3),
        "gmacs": counter.get_total_flops() / 2e9 / batch.size,
        "params": sum(parameter.numel() for parameter in module.parameters()),
    }
