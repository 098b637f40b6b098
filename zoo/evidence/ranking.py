"""Rank backbones on data: a funnel of filters, frozen features and successive halving; which one to take, and why."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoo import store, tasks
from zoo.catalogue import registry
from zoo.catalogue.rows import row_from_entry
from zoo.console import counted, duration, say
from zoo.data.examples import Columns, Examples
from zoo.data.fingerprint import fingerprint
from zoo.errors import RecipeError, ZooError
from zoo.evidence import candidates, subsets, verdict
from zoo.evidence.candidates import Limits
from zoo.evidence.finals import decide, finalists, tuning_jobs
from zoo.evidence.frozen_score import FOLDS
from zoo.evidence.verdict import Ranking, Row
from zoo.finetune.recipe import Recipe
from zoo.finetune.setup import Request, read_data
from zoo.jobs.job import Job, Result
from zoo.jobs.run import run
from zoo.model.device import resolve_device
from zoo.plugin import Entry

SCORE = "zoo.evidence.frozen_score:score"
FINALISTS = 3
"""Candidates that are so few that all of them go to the last round."""
REPEATS = 3
"""Cross-validations of the last round; earlier ones have one."""
UNKNOWN = 100_000_000
"""Parameters that a backbone is assumed to have where its row does not say."""
OVER_BUDGET = "not measured: the budget of time was spent"
LONGER = "a longer budget: --budget 1h (budget=3600); what was measured is kept"


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all rounds share; `order` are indices of the examples, of which each round takes the first ones."""

    examples: Examples
    order: Sequence[int]
    task: str
    fingerprint: str
    limits: Limits
    workers: int | str | None
    device: str
    seed: int
    deadline: float


def rank(
    data: object,
    names: str | Sequence[str] = (),
    *,
    task: str | None = None,
    max_params: int | None = None,
    license: str | None = None,
    max_bytes: int | None = None,
    max_ms: float | None = None,
    finals: int = 0,
    budget: float | None = None,
    workers: int | str | None = None,
    device: str = "auto",
    seed: int = 0,
    input: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    groups: str | None = None,
) -> Ranking:
    """Rank backbones by how well a probe on their frozen features predicts the labels of `data`.

    names    names, globs ("timm/resnet*") and lists ("@small-image"); none: those recommended for the kind of data
    max_…    what a backbone may have at most: parameters, bytes of files, milliseconds for an item on this machine
    license  only backbones with this licence
    finals   how many of the best to fine-tune by cross-validation (classes only); they and their probes compete
    budget   seconds after which nothing new is started; what was measured is ranked
    workers  processes, "ray" for a cluster; None: as many as fit

    The first round measures all candidates on a part of the examples; each further one takes four times as many, and
    the better half of the candidates with those not shown to differ from the best. Results are kept: the same call goes
    on where it was stopped. Raises DataError for the data, NameNotFound for a name, and the error of the first backbone
    if all fail.
    """
    start = time.monotonic()
    columns = Columns.of(input, label, groups)
    named = [names] if isinstance(names, str) else list(names)
    _check_finals(finals)
    found = candidates.find(named, subsets.modality(data, columns) if not named else None)
    examples, kind = _read(data, found[0], columns, task)
    if finals and not tasks.KINDS[kind].single_label:
        what = f"finals compare right and wrong answers, and this is {kind}"
        raise RecipeError(what, fix="leave out --finals (finals=)")
    limits = Limits(max_params, license, max_bytes, max_ms)
    deadline = math.inf if budget is None else start + budget
    classes = tasks.KINDS[kind].single_label
    if len(examples) > subsets.MOST:
        examples = examples.at(sorted(subsets.nested_order(examples, classes=classes, seed=seed)))
    order = subsets.nested_order(examples, classes=classes, seed=seed)
    data_id, where = fingerprint(examples), str(resolve_device(device))
    setting = _Setting(examples, order, kind, data_id, limits, workers, where, seed, deadline)
    entries, out = _filter(found, setting)
    say(
        "rank", f"{counted(len(entries), 'backbone')} on {examples.origin}: {counted(len(examples), 'example')}, {kind}"
    )
    entries, failed = _pull(entries)
    rows = _rounds(entries, setting)
    made = tasks.make(kind, examples.labels)
    ranking = verdict.conclude([*rows, *out, *failed], entries[0].name, made.main_metric, is_share=made.single_label)
    return _finals(ranking, entries, finals, setting) if finals else ranking


def _read(data: object, entry: Entry, columns: Columns, task: str | None) -> tuple[Examples, str]:
    """Return the training examples of the data, and the task. Raises RecipeError for a task without labels."""
    found = read_data(Request(data, Recipe(), task, valid=0, columns=columns), entry)
    if not tasks.KINDS[found.task].labelled:
        raise RecipeError(
            f"{found.train.origin} has no labels, and backbones are ranked by how well they predict labels",
            fix="name the column of the labels: --label COLUMN (label=…)",
        )
    return found.train, found.task


def _filter(entries: Sequence[Entry], setting: _Setting) -> tuple[list[Entry], list[Row]]:
    """Return the entries within the limits, and the rows of the others. RecipeError without any."""
    reasons = {entry.name: candidates.excluded(entry, setting.limits) for entry in entries}
    kept = [entry for entry in entries if not reasons[entry.name]]
    if not kept:
        first = entries[0].name
        what = f"no backbone is within the limits: {first}: {reasons[first]}" + (", …" if len(entries) > 1 else "")
        raise RecipeError(what, fix="raise --max-params or --max-bytes, leave out --license, or name other backbones")
    return kept, [Row(name, error=reason) for name, reason in reasons.items() if reason]


def _pull(entries: Sequence[Entry]) -> tuple[list[Entry], list[Row]]:
    """Pull all entries, so that hash and size of their weights are known; returns them in static order, and rows of
    those that failed.
    """
    here, failed = [], []
    first: ZooError | None = None
    for entry in entries:
        try:
            whole = registry.complete(entry)
            store.pull(whole)
            here.append(whole)
        except ZooError as error:
            first = first or error
            what = error.what.removeprefix(f"{entry.name}: ")
            failed.append(Row(entry.name, error=what))
            say("failed", f"{entry.name}: {what}")
    if first and not here:
        raise first
    return candidates.static_order(here), failed


def _rounds(entries: Sequence[Entry], setting: _Setting) -> list[Row]:
    """Measure all, then the better ones on more examples, up to all examples; the static choice stays to the end."""
    by_name = {entry.name: entry for entry in entries}
    sizes = subsets.sizes(setting.examples)
    rows = {name: Row(name, bytes=candidates.download_bytes(entry)) for name, entry in by_name.items()}
    left, static = list(by_name), entries[0].name
    for number, size in enumerate(sizes, 1):
        if len(left) <= FINALISTS and number < len(sizes):
            continue  # so few go to the last round at once
        repeats = REPEATS if number == len(sizes) else 1
        timed = not any(row.round for row in rows.values())
        plan = {"task": setting.task, "size": size, "repeats": repeats, "seed": setting.seed, "timed": timed}
        if size < len(setting.examples) or left != list(by_name):
            what = f"{counted(len(left), 'backbone')} on {size:,} of {len(setting.examples):,} examples"
            say("round", f"{number}/{len(sizes)}  {what}")
        for result in _measure([by_name[name] for name in left], plan, setting):
            name = result.job.arguments["entry"]["name"]
            rows[name] = _row(rows[name], result, number, setting.limits)
            say("failed" if rows[name].error else "score", _described(rows[name], result))
        measured = [rows[name] for name in left if rows[name].round == number and not rows[name].error]
        if number == len(sizes) or not measured:
            break
        left = verdict.better_half(measured, keep=static)
    return [row if row.round or row.error else replace(row, error=OVER_BUDGET, fix=LONGER) for row in rows.values()]


def _measure(entries: Sequence[Entry], plan: Mapping[str, Any], setting: _Setting) -> Iterator[Result]:
    """Yield the results of one round until the time is over."""
    jobs = [
        Job(
            SCORE,
            {
                **{"entry": row_from_entry(entry), "plan": dict(plan), "device": setting.device},
                **{"weights": _weights(entry), "data": setting.fingerprint},
            },
            memory=8 * (entry.params or UNKNOWN) + 32 * plan["size"] * (entry.dim or 1024),
        )
        for entry in entries
    ]
    yield from _results(jobs, setting)


def _results(jobs: Sequence[Job], setting: _Setting) -> Iterator[Result]:
    """Yield the results of jobs until the time is over."""
    workers = setting.workers or (None if setting.device == "cpu" else 1)
    shared = {"examples": setting.examples, "order": setting.order}
    results = run(jobs, workers=workers, shared=shared)
    if time.monotonic() > setting.deadline:
        return
    for result in results:
        yield result
        if time.monotonic() > setting.deadline:
            results.close()
            return


def _check_finals(count: object) -> None:
    if type(count) is not int or count < 0:
        raise RecipeError(f"finals={count!r} is not a number of backbones", fix="finals=2 (--finals 2)")


def _finals(found: Ranking, entries: Sequence[Entry], count: int, setting: _Setting) -> Ranking:
    """Fine-tune the best backbones by cross-validation, and choose among them."""
    rows, by_name = finalists(found, count), {entry.name: entry for entry in entries}
    say("finals", f"{counted(len(rows), 'backbone')} fine-tuned on each of {FOLDS} folds")
    jobs: list[Job] = []
    for entry in (by_name[row.name] for row in rows):
        identity = {"weights": _weights(entry), "data": setting.fingerprint}
        jobs += tuning_jobs(entry, identity, setting.seed, setting.device)
    results: dict[str, list[Result]] = {row.name: [] for row in rows}
    for result in _results(jobs, setting):
        name = result.job.arguments["entry"]["name"]
        results[name].append(result)
        spent = "from an earlier run" if result.is_kept else duration(result.answer.seconds)
        say("final", f"{name}  fold {result.job.arguments['fold'] + 1}/{FOLDS}  {result.answer.error or spent}")
    return decide(found, rows, results)


def _weights(entry: Entry) -> Any:
    """Return what identifies the weights of a pulled entry: the hashes of its files."""
    receipt = store.receipt(entry.name)
    return {file["path"]: file["sha256"] for file in receipt["files"]} if receipt else entry.source


def _row(row: Row, result: Result, number: int, limits: Limits) -> Row:
    """Return a row with the result of a round."""
    seconds, found = row.seconds + result.answer.seconds, result.answer.value
    if result.answer.error:
        return replace(row, seconds=seconds, error=result.answer.error, fix=result.answer.fix)
    error = ""
    ms = found.get("ms", row.ms)
    if limits.ms is not None and ms > limits.ms:
        error = f"{ms:.1f} ms for an item here, more than {limits.ms:g}"
    return replace(
        row,
        score=found["metrics"][found["main"]],
        low=found["low"],
        high=found["high"],
        examples=len(found["items"][0]),
        round=number,
        params=found.get("params", row.params),
        ms=ms,
        gmacs=found.get("gmacs", row.gmacs),
        seconds=seconds,
        error=error,
        items=found["items"],
    )


def _described(row: Row, result: Result) -> str:
    """Describe a result for the log."""
    if row.error:
        return f"{row.name}: {row.error}"
    between = "" if row.low is None or row.high is None else f"  [{row.low:.3f}, {row.high:.3f}]"
    spent = "from an earlier run" if result.is_kept else duration(result.answer.seconds)
    return f"{row.score:.3f}{between}  {row.name}  {row.ms:.1f} ms an item  {spent}"
