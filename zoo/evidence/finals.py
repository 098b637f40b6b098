"""Finals of a ranking: fine-tune the best few backbones by cross-validation, and choose among them and their probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zoo.catalogue.rows import entry_from_row, row_from_entry
from zoo.data import split
from zoo.data.examples import Examples
from zoo.data.seeding import derive_seed
from zoo.evidence import learning_curve, statistics, verdict
from zoo.evidence.frozen_score import FOLDS
from zoo.evidence.verdict import Final, Ranking, Row
from zoo.jobs.job import Job, Result
from zoo.model.load import load_entry
from zoo.plugin import Entry

TUNED, SCRATCH = "lp-ft", "scratch"
"""How a finalist is fine-tuned: from the head of a probe, or random weights."""


def finalists(found: Ranking, count: int) -> list[Row]:
    """Return the rows with the best scores of the last round."""
    last = max(row.round for row in found.rows)
    measured = [row for row in found.rows if row.round == last and not row.error]
    return sorted(measured, key=lambda row: (-row.mean, row.name))[:count]


def tuning_jobs(entry: Entry, data: Mapping[str, Any], seed: int, device: str) -> list[Job]:
    """Return a job for each fold; `data` identifies examples and weights."""
    memory = learning_curve.training_memory(entry.params or 0)
    fixed = {"entry": row_from_entry(entry), "seed": seed, "device": device, **data}
    return [Job(f"{__name__}:tune", {**fixed, "fold": fold}, memory=memory) for fold in range(FOLDS)]


def tune(
    examples: Examples,
    order: Sequence[int],
    *,
    entry: Mapping[str, Any],
    fold: int,
    seed: int,
    device: str = "cpu",
    **identity: Any,
) -> dict[str, Any]:
    """Fine-tune a backbone on all folds but one, nothing held out; returns that fold's indices and hits, 0 or 1.

    The folds are those of the first cross-validation of the probe.
    """
    held = split.folds(examples, FOLDS, stratify=True, seed=derive_seed(seed, "rank folds", 0))[fold]
    kept = sorted(set(range(len(examples))) - set(held))
    model = load_entry(entry_from_row(entry["name"], entry, catalogue=""), device)
    strategy = TUNED if model.pretrained else SCRATCH
    model.finetune(examples.at(kept), task="classify", valid=0, strategy=strategy, seed=seed, quiet=True)
    measured = model.measure(examples.at(held))
    hits = measured.task.item_scores(measured.outputs.values, measured.outputs.targets)
    return {"held": held, "hits": hits.tolist()}


def decide(found: Ranking, rows: Sequence[Row], results: Mapping[str, Sequence[Result]]) -> Ranking:
    """Return the ranking with the finals of `rows`, and the recommendation that follows from them.

    The finalists and their probes compete on the same folds. Recommended is the first of these that is within one
    standard error of the best: the probe of the static choice, the static choice tuned, the probe of the best backbone,
    the best. The expected score is corrected for the choice of the best (`verdict.expected_of_best`), but not for that
    of the finalists: their probes were compared on the same examples.
    """
    competing: list[tuple[Final, Row, list[list[float]]]] = []
    failed: list[Final] = []
    for row in rows:
        answers = [result.answer for result in results.get(row.name, ())]
        seconds = round(sum(answer.seconds for answer in answers), 1)
        errors = [answer.error for answer in answers if answer.error]
        strategy = TUNED if row.bytes else SCRATCH
        if errors or len(answers) < FOLDS:
            what = errors[0] if errors else "not finished: the budget of time was spent"
            failed.append(Final(row.name, strategy, seconds=seconds, error=what))
            continue
        hits = dict(pair for answer in answers for pair in zip(answer.value["held"], answer.value["hits"], strict=True))
        competing.append((Final(row.name, strategy, seconds=seconds), row, [[hits[index] for index in sorted(hits)]]))
        if strategy == TUNED:
            competing.append((Final(row.name, "probe"), row, [list(row.items[0])]))
    if not competing:
        return replace(found, finals=tuple(failed))
    items = [scores for *_, scores in competing]
    measured = [statistics.mean_score(scores, is_share=True) for scores in items]
    best = max(range(len(items)), key=lambda place: measured[place].mean)
    names = (found.static_choice, competing[best][1].name)
    good = [
        (row.name != found.static_choice, final.strategy != "probe", place)
        for place, (final, row, scores) in enumerate(competing)
        if row.name in names and verdict.as_good(scores, items[best], is_share=True)
    ]
    *_, chosen = min(good)
    finals = [
        replace(final, score=each.mean, low=each.low, high=each.high)
        for (final, *_), each in zip(competing, measured, strict=True)
    ]
    return replace(
        found,
        finals=(*sorted(finals, key=lambda final: -(final.score or 0)), *failed),
        recommended=finals[chosen].name,
        strategy=finals[chosen].strategy,
        expected=verdict.expected_of_best(items),
    )
