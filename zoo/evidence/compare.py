"""Compare strategies and backbones on the same draws of training data, over a curve of data sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.console import Bar, counted, say
from zoo.data import duplicates, prepare
from zoo.data.examples import Columns
from zoo.errors import RecipeError, ZooError
from zoo.evidence import learning_curve, sentences, statistics
from zoo.evidence.comparison import Comparison, Pair, Row
from zoo.evidence.learning_curve import DRAWS, SIZES, STRATEGIES, Data, Design, Settings, Size
from zoo.finetune import messages, setup
from zoo.finetune import recipe as recipes
from zoo.jobs.job import Job, Result
from zoo.jobs.run import run
from zoo.model.load import load
from zoo.model.model import Model
from zoo.tasks import KINDS
from zoo.tasks.intervals import Z
from zoo.tasks.task import LOWER_IS_BETTER


def compare(
    names: str | Sequence[str],
    data: object,
    *,
    strategies: Sequence[str] = STRATEGIES,
    sizes: Sequence[Size] = SIZES,
    draws: int = DRAWS,
    test: object = None,
    task: str | None = None,
    input: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    groups: str | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | str | None = None,
    **fields: Any,
) -> Comparison:
    """Measure strategies and backbones from few to all training examples, and say what is shown and what is not.

    names       a backbone, or several of the same modality
    strategies  scratch, probe, auto, full, lp-ft, gradual, lora
    sizes       numbers of training examples, or shares up to 1 of those beside the test items
    draws       random choices of training examples; the smaller ones are part of the larger ones
    test        share kept apart, or test data; None: a test or validation part of the data, else half, at most 1,000
    workers     1: this process; N: local processes; None: as many as fit; "ray": a cluster

    The other arguments are those of `Model.finetune`; of each draw a fifth is held out for validation. Started again
    after an interruption, it goes on. Raises DataError, RecipeError, or the error of a run that failed.
    """
    backbones = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not strategies:
        raise RecipeError("there are no strategies to compare", fix='strategies=["scratch", "probe", "auto"]')
    for strategy in strategies:
        recipes.make({**fields, "strategy": strategy})
    loaded = _load(backbones)
    entries = [model.entry for model in loaded.values()]
    columns = replace(Columns.of(input, label, groups), task=task)
    planned = learning_curve.design(Data(data, test, columns), entries[0], sizes, draws, seed)
    kind = KINDS[planned.task]
    say("compare", _describe(planned, len(backbones), kind.item_metric))
    settings = {name: Settings(model.weights_id, device, fields) for name, model in loaded.items()}
    leaked = _leaked(planned, loaded[backbones[0]], recipes.make(fields))
    del loaded
    models = list(itertools.product(backbones, strategies))
    memory = learning_curve.training_memory(max(entry.params or 0 for entry in entries))
    results = _run(planned, models, settings, memory, workers)
    higher = kind.item_metric not in LOWER_IS_BETTER
    rows = tuple(_row(results[model, size], model, size, higher) for model in models for size in planned.sizes)
    pairs = tuple(_pairs(results, models, planned.sizes, is_share=higher))
    found = Comparison(
        planned.task, kind.item_metric, planned.pool.origin, len(planned.pool), len(planned.test), leaked, rows, pairs
    )
    return replace(found, sentences=tuple(sentences.of(found)))


Name = tuple[str, str]
"""Backbone and strategy."""
Results = Mapping[tuple[Name, int], Sequence[Result]]


def _load(backbones: Sequence[str]) -> dict[str, Model]:
    """Load each backbone once: fetched before the workers start, and known to be of one modality."""
    if not backbones:
        raise RecipeError("there is no backbone to compare", fix='zoo.compare("native/resnet14.letters", data)')
    found = {name: load(name, "cpu") for name in backbones}
    first, *others = (model.entry for model in found.values())
    other = next((entry for entry in others if entry.modality != first.modality), None)
    if other is not None:
        what = f"{first.name} takes {first.modality}s and {other.name} takes {other.modality}s"
        raise RecipeError(what, fix="compare backbones of one modality on the same data")
    return found


def _leaked(planned: Design, model: Model, recipe: recipes.Recipe) -> int:
    """Report and return the number of test items with a near-duplicate in the pool."""
    how = setup.preprocessing(model.backbone, recipe)
    pool, test = prepare.prepare(planned.pool, how), prepare.prepare(planned.test, how)
    found = duplicates.near(pool.inputs, test.inputs)
    if found.held:
        say("leak", messages.leak(test, pool, found, ("test", "training")))
    return len(found.held)


def _run(
    planned: Design,
    models: Sequence[Name],
    settings: Mapping[str, Settings],
    memory: int,
    workers: int | str | None,
) -> Results:
    """Run all jobs, largest first; returns the results of each model and size, in the order of the draws."""
    order: dict[str, tuple[Name, int, int]] = {}
    todo: list[Job] = []
    for size, (backbone, strategy), number in itertools.product(reversed(planned.sizes), models, range(planned.draws)):
        each = learning_curve.job(planned, (backbone, strategy), (size, number), settings[backbone], memory)
        order[each.key] = ((backbone, strategy), size, number)
        todo.append(each)
    found: dict[tuple[Name, int, int], Result] = {}
    shared = {"pool": planned.pool, "test": planned.test}
    with Bar("compare", len(todo)) as bar:
        for result in run(todo, workers=workers, shared=shared):
            place = order[result.job.key]
            (backbone, strategy), size, number = place
            if result.answer.error:
                what = f"{backbone}, {strategy}, {counted(size, 'example')}, draw {number + 1}: {result.answer.error}"
                raise ZooError(what, fix=result.answer.fix)
            found[place] = result
            bar.advance(note=f"{strategy}, {counted(size, 'example')}")
    return {
        (model, size): [found[model, size, number] for number in range(planned.draws)]
        for model in models
        for size in planned.sizes
    }


def _scores(results: Sequence[Result]) -> np.ndarray[Any, Any]:
    """Return the scores of the test items (D, N)."""
    return np.array([result.answer.value["scores"] for result in results], dtype=float)


def _row(results: Sequence[Result], model: Name, size: int, higher: bool) -> Row:
    found = statistics.mean_score(_scores(results), is_share=higher)
    values = [result.answer.value for result in results]
    train = sum(value["train"] for value in values) / len(values)
    chosen = [value["strategy"] for value in values]
    return Row(
        *model,
        size,
        len(results),
        found.mean,
        found.low,
        found.high,
        Z * found.items_error,
        found.draws_std,
        train,
        (train - found.mean) * (1 if higher else -1),
        {name: chosen.count(name) for name in sorted(set(chosen))},
        round(sum(result.answer.seconds for result in results), 1),
    )


def _pairs(results: Results, models: Sequence[Name], sizes: Sequence[int], *, is_share: bool) -> Iterator[Pair]:
    several = len({backbone for backbone, _ in models}) > 1
    names = {model: " ".join(model) if several else model[1] for model in models}
    tested = []
    for size, (a, b) in itertools.product(sizes, itertools.combinations(names, 2)):
        first, second = _scores(results[a, size]), _scores(results[b, size])
        difference = statistics.mean_difference(first, second, is_share=is_share)
        tested.append((a, b, size, difference, statistics.permutation(first, second)))
    adjusted = statistics.holm([p for *_, p in tested])
    for (a, b, size, found, p), corrected in zip(tested, adjusted, strict=True):
        detectable = statistics.smallest_detectable(found)
        yield Pair(names[a], names[b], size, found.mean, found.low, found.high, p, corrected, detectable)


def _describe(planned: Design, backbones: int, metric: str) -> str:
    draws = f"{counted(planned.draws, 'draw')} of {', '.join(f'{size:,}' for size in planned.sizes)}"
    pool = f"{planned.pool.origin}: {len(planned.pool):,} training examples, {len(planned.test):,} test items"
    return f"{pool} -> {planned.task}, {metric}; {draws}" + (f"; {backbones} backbones" if backbones > 1 else "")
