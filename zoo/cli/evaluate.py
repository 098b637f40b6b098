"""The command evaluate: metrics with their intervals, scores of each class, confusion matrix, mistakes."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import console
from zoo.cli import columns
from zoo.cli.predict import label_text
from zoo.cli.startup import load

if TYPE_CHECKING:
    from zoo.model.measurement import Measurement
    from zoo.tasks import Mistake, Task

NUMBERS = {"probability": "number", "loss": "number"}
SHOWN, LONGEST_INPUT = 5, 60
"""Mistakes that are shown; characters of an input."""
FEW_CLASSES, MOST_CONFUSED = 20, 10
"""Classes that are printed as a matrix; pairs that are printed of more."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@columns
@click.option(
    "--errors",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the wrong examples, worst first, to a .csv, .jsonl or .parquet file.",
)
@click.option("--confusion", is_flag=True, help="Show which classes are taken for which.")
@click.option("--device", default="auto", help="auto, cpu, cuda, mps, …", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def evaluate(
    model: Path, data: str, errors: Path | None, confusion: bool, device: str, as_json: bool, **names: str | None
) -> None:
    """Measure a saved model on labelled data, in any of the forms of `zoo finetune`.

    The main metric comes with its 95 % confidence interval. With --errors and many classes, --confusion writes the
    pairs of confused classes to a file beside FILE.
    """
    from zoo.model import result_files

    start = time.monotonic()
    with console.to(sys.stderr if as_json else sys.stdout):
        beside = errors and errors.with_name(f"{errors.stem}.confusion{errors.suffix}")
        for target in filter(None, (errors, beside if confusion else None)):
            result_files.check(target, result_files.TABLES, "--errors")
        loaded = load(model, device)
        measured = loaded.measure(data, input=names["column"], label=names["label"])
        wrong = measured.errors if errors else []
        pairs = measured.confusion if confusion else []
    if errors:
        _write(errors, measured.task, wrong)
    if beside and len(measured.task.labels) > FEW_CLASSES and pairs:
        _write_pairs(beside, pairs)
    if as_json:
        strategy = loaded.recipe.strategy if loaded.recipe else None
        found = {"metrics": measured.metrics, "intervals": measured.intervals, "strategy": strategy}
        found |= {"seconds": round(time.monotonic() - start, 2), "out": str(model)}
        classes = measured.per_class
        found |= {"per_class": classes} if classes else {}
        found |= {"confusion": [list(pair) for pair in pairs]} if confusion else {}
        console.document(found | ({"errors": str(errors), "wrong": len(wrong)} if errors else {}))
        return
    _show_scores(measured)
    if (loaded.recipe is None or loaded.recipe.class_balance == "none") and measured.is_no_better_than_baseline:
        console.line()
        console.say(
            "warning", f"no better than ignoring the inputs ({measured.baseline}): --errors shows where it fails"
        )
    if confusion:
        _show_confusion([label_text(label) for label in measured.task.labels], pairs)
    if errors:
        _show_errors(measured, wrong, errors)


def _show_scores(measured: Measurement) -> None:
    """Print the metrics with their intervals, then the scores of each class."""
    intervals = measured.intervals
    for key, value in measured.metrics.items():
        low_high = f"  [{intervals[key][0]:.4f}, {intervals[key][1]:.4f}]" if key in intervals else ""
        console.line(f"{key:<9} {value:.4f}{low_high}")
    if intervals:
        how = "Wilson's" if measured.task.name == "classify" else "by the bootstrap"
        known = f"{console.counted(len(measured), 'example')}, {measured.baseline}"
        console.line(f"({known}; in brackets: 95 % confidence interval, {how})")
    classes, is_class = measured.per_class, measured.task.name != "regress"
    if classes:
        _show_each([(label_text(name), row) for name, row in classes.items()], "class" if is_class else "value")


def _show_each(scores: Sequence[tuple[str, Mapping[str, float]]], kind: str) -> None:
    """Print a table with the scores of each class, or of each of several numbers."""
    rows = [[kind, *scores[0][1]]]
    for name, row in scores:
        rows.append([name, *(f"{value:.{0 if metric == 'support' else 3}f}" for metric, value in row.items())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    console.line()
    for name, *cells in rows:
        shown = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        console.line("  ".join([name.ljust(widths[0]), *shown]))


def _show_confusion(labels: Sequence[str], pairs: list[tuple[Any, Any, int]]) -> None:
    """Print a matrix of few classes if it fits into the terminal, else the pairs that are confused most often."""
    console.line()
    width = max(map(len, labels))
    widths = [max(len(label), len(str(max((count for _, _, count in pairs), default=0)))) for label in labels]
    room = shutil.get_terminal_size((100, 24)).columns
    if len(labels) <= FEW_CLASSES and width + sum(widths) + 2 * len(widths) <= room:
        counts = {(label_text(truth), label_text(answer)): count for truth, answer, count in pairs}
        console.line("confusion (a row for each true class, a column for each answer)")
        console.line("  ".join([" " * width, *(label.rjust(n) for label, n in zip(labels, widths, strict=True))]))
        for truth in labels:
            row = (str(counts.get((truth, answer), 0)).rjust(n) for answer, n in zip(labels, widths, strict=True))
            console.line("  ".join([truth.ljust(width), *row]))
        return
    confused = list(_most_confused(pairs))
    console.line(f"confused pairs of classes: {len(confused):,}" + (", the most frequent:" if confused else ""))
    for truth, answer, count in confused[:MOST_CONFUSED]:
        console.line(f"{count:>7,}  {label_text(truth)} taken for {label_text(answer)}")


def _most_confused(pairs: list[tuple[Any, Any, int]]) -> Iterator[tuple[Any, Any, int]]:
    """Yield the pairs of different classes, most frequent first."""
    return (pair for pair in sorted(pairs, key=lambda pair: -pair[2]) if pair[0] != pair[1])


def _show_errors(measured: Measurement, wrong: list[Mistake], target: Path) -> None:
    """Print where the mistakes are, and the worst of them."""
    count = f"{len(wrong):,} of {len(measured):,} wrong"
    if measured.task.name == "regress":
        count = f"{console.counted(len(wrong), 'example')} by absolute error"
    console.line()
    console.line(console.printable(f"{count}, worst first -> {target}"))
    for mistake in wrong[:SHOWN]:
        probability = "" if mistake.probability is None else f" {mistake.probability:.3f}"
        shown = console.printable(_input(mistake), LONGEST_INPUT)
        truth, answer = (label_text(_joined(label)) for label in (mistake.truth, mistake.answer))
        console.line(f"  {truth} -> {answer}{probability}  {shown}")


def _input(mistake: Mistake) -> str:
    """Return an input as text: a path, a text (of a pair both, of words all), or the index of an image in memory."""
    item = mistake.input
    if isinstance(item, tuple | list) and all(isinstance(part, str) for part in item):
        return (" | " if isinstance(item, tuple) else " ").join(item)
    return str(item) if isinstance(item, str | os.PathLike) else f"image {mistake.index}"


def _joined(label: Any) -> Any:
    """Return several labels as one text, between "|" as in tables."""
    several = isinstance(label, tuple)
    shown = (f"{part:.4g}" if isinstance(part, float) else str(part) for part in label) if several else ()
    return "|".join(shown) if several else label


def _write(target: Path, task: Task, wrong: list[Mistake]) -> None:
    """Write the mistakes to a new file."""
    from zoo.model import result_files

    kind = {"classify": "text", "regress": "number"}.get(task.name, "labels")
    names = [f"_{label}" for label in task.labels] if kind == "number" and len(task.labels) > 1 else [""]
    answers = {f"{side}{name}": kind for side in ("truth", "answer") for name in names}
    with result_files.create(target, {"index": "integer", "input": "text"} | answers | NUMBERS) as write:
        write([_row(mistake, kind, names) for mistake in wrong])


def _row(mistake: Mistake, kind: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the columns of a mistake; of several numbers truth and answer have a column for each of the `names`."""

    def cells(side: str, label: Any) -> dict[str, Any]:
        if kind == "number":
            return dict(zip([f"{side}{n}" for n in names], label if isinstance(label, tuple) else [label], strict=True))
        return {side: list(map(str, label)) if kind == "labels" else str(label)}

    answers = cells("truth", mistake.truth) | cells("answer", mistake.answer)
    numbers = {"probability": mistake.probability, "loss": mistake.loss}
    return {"index": mistake.index, "input": _input(mistake), **answers, **numbers}


def _write_pairs(target: Path, pairs: list[tuple[Any, Any, int]]) -> None:
    """Write the pairs of confused classes to a new file, most frequent first."""
    from zoo.model import result_files

    with result_files.create(target, {"truth": "text", "answer": "text", "count": "integer"}) as write:
        write([{"truth": str(a), "answer": str(b), "count": count} for a, b, count in _most_confused(pairs)])
