"""The commands predict and embed: answers for any number of inputs, shown or written to a file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import console
from zoo.cli import complete_name
from zoo.cli.startup import load
from zoo.errors import DataError, RecipeError

if TYPE_CHECKING:
    from zoo.data.items import Item
    from zoo.model.answers import Answer
    from zoo.model.model import Model
    from zoo.tasks import Prediction, Task

SHOWN, LONGEST_LABEL = 60, 200
"""Characters of an input and of a label that are shown."""
LINES = 32
"""Answers that are shown together, their columns aligned."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the inputs come from: arguments, texts, and the columns of tables that hold them."""

    inputs: tuple[str, ...]
    texts: tuple[str, ...]
    column: str | None


def _inputs(command: Any) -> Any:
    """Add the argument and the options that name the inputs, passed as one `sources`."""

    @wraps(command)
    def with_sources(inputs: tuple[str, ...], texts: tuple[str, ...], column: str | None, **others: Any) -> None:
        command(sources=Sources(inputs, texts, column), **others)

    found: Any = with_sources
    for add in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output."),
        click.option("--device", default="auto", help="auto, cpu, cuda, mps, …", show_default=True),
        click.option("--input", "column", help="Column of the inputs in a table; two, separated by a comma: pairs."),
        click.option("--text", "texts", multiple=True, help="A text, itself an input (may be repeated)."),
        click.argument("inputs", nargs=-1),
    ):
        found = add(found)
    return found


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@_inputs
@click.option("--out", type=click.Path(path_type=Path), help="Write a table: a new .csv, .jsonl or .parquet file.")
@click.option("--top", default=1, help="How many labels to show for each input.", show_default=True)
def predict(model: Path, sources: Sources, out: Path | None, top: int, device: str, as_json: bool) -> None:
    """Predict with a saved model.

    INPUTS are folders (all images or texts below them), tables (.csv, .tsv, .jsonl, .parquet), files, hf:user/dataset,
    or - for lines of standard input: paths of images, or texts. Any number of them takes the same memory. An input that
    cannot be read gets an error in its row, the others are predicted, and the command ends with 1.
    """
    from zoo.model import result_files

    start = time.monotonic()
    with console.to(sys.stderr if as_json else sys.stdout):
        _check(sources, out, result_files.TABLES)
        if top < 1:
            raise RecipeError(f"--top {top} is not a whole number above 0", fix="--top 1")
        loaded = load(model, device)
        from zoo.finetune.inference import BATCH_SIZE
        from zoo.model import answers, results

        _, task = answers.network(loaded)
        items, total = _items(loaded, sources)
        found = answers.each_prediction(loaded, items, top, BATCH_SIZE)
        count = _Count()
        if out:
            rows = (results.row(task, answer) for answer in count.of(found))
            _write(out, results.columns(task), rows, total)
        elif as_json:
            _stream(_document(task, answer) for answer in count.of(found))
        else:
            _show(task, count.of(found), ranked=top > 1)
        if out and as_json:
            console.document(count.document(out, start))
        count.finish(out, "predict")


@click.command()
@click.argument("name", shell_complete=complete_name)
@_inputs
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new .npy or .parquet file.")
@click.option("--normalize", is_flag=True, help="Scale each embedding to length 1.")
def embed(name: str, sources: Sources, out: Path, normalize: bool, device: str, as_json: bool) -> None:
    """Write the embeddings of inputs, the pooled features of a backbone or a saved model.

    INPUTS as for `zoo predict`. A .npy file holds an array (N, D), float32, in the order of the inputs, with NaN for
    one that cannot be read; a .parquet file the columns input, embedding and error.
    """
    from zoo.model import result_files

    start = time.monotonic()
    with console.to(sys.stderr if as_json else sys.stdout):
        _check(sources, out, result_files.ARRAYS)
        loaded = load(name, device)
        from zoo.finetune.inference import BATCH_SIZE
        from zoo.model import answers

        items, total = _items(loaded, sources)
        count = _Count()
        found = count.of(answers.each_embedding(loaded, items, BATCH_SIZE, normalize=normalize))
        _write(out, {"input": "text", "embedding": loaded.backbone.dim, "error": "text"}, map(_embedded, found), total)
        if as_json:
            console.document(count.document(out, start))
        count.finish(out, "embed")


class _Count:
    """Answers so far, and the errors among them."""

    def __init__(self) -> None:
        self.done, self.errors = 0, 0
        self.first: DataError | None = None

    def of(self, found: Iterable[Answer]) -> Iterator[Answer]:
        """Yield answers, counted."""
        for answer in found:
            self.done += 1
            self.errors += answer.error is not None
            self.first = self.first or answer.error
            yield answer

    def document(self, out: Path, start: float) -> dict[str, Any]:
        """Return what --json prints of a written file."""
        seconds = round(time.monotonic() - start, 2)
        return {"out": str(out), "inputs": self.done, "errors": self.errors, "seconds": seconds}

    def _where(self, out: Path | None) -> str:
        if out is None:
            return "them"
        return f"those whose rows in {out} are NaN" if out.suffix == ".npy" else f"those with an error in {out}"

    def finish(self, out: Path | None, topic: str) -> None:
        """Say what was written; of unreadable inputs say the first, and end the command with 1."""
        if out:
            unreadable = f", {self.errors:,} of them unreadable" if self.errors else ""
            console.say(topic, f"{console.counted(self.done, 'input')}{unreadable} -> {out}")
        if self.first is not None:
            what = f"{self.errors:,} of {self.done:,} inputs cannot be read; the first: {self.first.what}"
            console.line(f"error: {console.printable(what)}", error=True)
            console.line(f"fix: replace or remove {console.printable(self._where(out))}", error=True)
            click.get_current_context().exit(1)


def _check(sources: Sources, out: Path | None, writers: Any) -> None:
    """Raise before anything is loaded for inputs that do not exist, and a file that cannot be written."""
    from zoo.data import items
    from zoo.model import result_files

    if not sources.inputs and not sources.texts:
        raise click.UsageError('nothing to predict: give files, a folder, a table, - or --text "…"')
    if out:
        result_files.check(out, writers)
    for name in sources.inputs:
        if name != "-":
            items.check(name)


def _items(model: Model, sources: Sources) -> tuple[Iterator[Item], int | None]:
    """Return the items of all sources, and their number unless standard input is among them."""
    from zoo.data import items
    from zoo.data.examples import Columns
    from zoo.model import answers

    how = answers.reading(model, Columns.of(sources.column, None).input)
    if sources.texts and how.modality != "text":
        raise DataError(f"--text is for text models, and {model.entry.name} takes images", fix="give image files")
    parts: list[Iterable[Item]] = [[items.of_text(text, how) for text in sources.texts]]
    total: int | None = len(sources.texts)
    for name in sources.inputs:
        found, count = (items.of_lines(sys.stdin.buffer, how), None) if name == "-" else items.of_path(name, how)
        parts.append(found)
        total = None if total is None or count is None else total + count
    return chain.from_iterable(parts), total


def _write(out: Path, columns: Any, rows: Iterable[Any], total: int | None) -> None:
    """Write rows to a file, with a progress bar where their number is known."""
    from zoo.model import result_files
    from zoo.model.inputs import CHUNK

    with result_files.create(out, columns) as write, console.Bar("predict", total or 0) as bar:
        source = iter(rows)
        while part := list(islice(source, CHUNK)):
            write(part)
            if total is not None:
                bar.advance(len(part))


def _embedded(answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return {"input": answer.item.name, "error": answer.error.what}
    return {"input": answer.item.name, "embedding": answer.result.tolist()}


def _stream(rows: Iterable[dict[str, Any]]) -> None:
    """Print one JSON document, a list, row by row."""
    comma = "["
    for row in rows:
        console.line(comma + json.dumps(row))
        comma = ","
    console.line("]" if comma == "," else "[]")


def _document(task: Task, answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return {"input": answer.item.name, "error": answer.error.what, "fix": answer.error.fix}
    found = answer.result.prediction
    label = dict(_numbers(task, found)) or found.label
    return {"input": answer.item.name, "label": label, "top": _ranked(found.top)}


def _numbers(task: Task, answer: Prediction) -> Iterator[tuple[str, float]]:
    """Yield the name and value of each of several numbers (regress)."""
    if task.name == "regress" and isinstance(answer.label, tuple):
        yield from zip(task.labels, answer.label, strict=True)


def _show(task: Task, found: Iterator[Answer], *, ranked: bool) -> None:
    """Print a line for each answer, as soon as a few are there."""
    while part := list(islice(found, LINES)):
        shown = [_shortened(answer.item.name) for answer in part]
        width = max(map(len, shown))
        for name, answer in zip(shown, part, strict=True):
            error = answer.error and f"error: {console.printable(answer.error.what)}"
            console.line(f"{name:<{width}}  {error or _answer(task, answer.result.prediction, ranked=ranked)}")


def _shortened(name: Any) -> str:
    text = name if isinstance(name, str) else " | ".join(map(str, name))
    return console.printable(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def _ranked(top: tuple[tuple[Any, float], ...]) -> list[dict[str, Any]]:
    return [{"label": label, "probability": p} for label, p in top]


def _answer(task: Task, answer: Prediction, *, ranked: bool) -> str:
    """Return a prediction as text; several labels (multilabel, tags) are those predicted, unless ranked."""
    if numbers := list(_numbers(task, answer)):
        return "  ".join(f"{label_text(name)} {label_text(value)}" for name, value in numbers)
    several = isinstance(answer.label, tuple)
    if answer.top and (ranked or not several):
        return "  ".join(f"{label_text(label)} {p:.3f}" for label, p in answer.top)
    if several:
        return " ".join(map(label_text, answer.label)) or "(no label)"
    return label_text(answer.label)


def label_text(label: object) -> str:
    """Return a label as it is shown: printable, a number with four significant digits."""
    return console.printable(f"{label:.4g}" if isinstance(label, float) else str(label), LONGEST_LABEL)
