"""Streamed data of a request: its columns, classes and held-out rows, and the training dataset of its windows."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch

from zoo import tasks
from zoo.console import counted, printable, say
from zoo.data import prepare
from zoo.data.datasets import Dataset
from zoo.data.examples import TRAIN, VALID, Columns, Examples, Label
from zoo.data.prepare import Preprocessing
from zoo.data.streaming import opening
from zoo.data.streaming.scan import Scan, choose_columns, draw, scan
from zoo.data.streaming.shards import Source
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.data.streaming.windows import Limits, Reader, Row
from zoo.data.summary import DataSummary
from zoo.errors import DataError, RecipeError
from zoo.finetune.recipe import Recipe
from zoo.plugin import Entry
from zoo.tasks import Task
from zoo.tasks.multilabel import label_sets

Place = tuple[int, int, Row]
"""Shard, number of the row in it, and the row."""
WINDOW, WINDOW_BYTES = 16_384, 256_000_000
"""Examples of a window, and bytes of its inputs: two windows are in memory, the one that trains and the next."""
VALID_MOST = 5_000
"""Validation examples of a stream: an accuracy of them has a standard error of at most 0.7 points."""


@dataclass(frozen=True, slots=True)
class Held:
    """Validation examples of a stream, in memory, with their names; `rows` by shard are those it does not train on."""

    examples: Examples
    names: Sequence[str]
    rows: Mapping[int, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as training data.

    columns   its input and label columns, and the task
    scan      what a pass over its labels found; without a pass its classes alone
    head      its first examples, from which columns and task are inferred
    """

    source: Source
    modality: str
    columns: Columns
    scan: Scan
    head: Examples
    held: Held | None = None

    @property
    def examples(self) -> int | None:
        """Number of training examples; None if it is not known."""
        held = sum(map(len, self.held.rows.values())) if self.held else 0
        return None if self.scan.rows is None else self.scan.rows - held

    def task_labels(self) -> Sequence[Label]:
        """Return labels from which the task is made: all that there are, or of numbers a sample."""
        several = self.columns.task in ("multilabel", "tag")
        return [(label,) for label in self.scan.labels] if several else self.scan.labels or [None]

    def balanced(self, task: Task, how: str) -> Task:
        """Return the task with a class-balanced loss, by the labels of all training examples."""
        if how == "none":
            return task
        counts = Counter(self.scan.totals)
        if self.held and self.held.rows:
            counts.subtract(chain.from_iterable(_sets(task.name, self.held.examples.labels)))
        return task.balanced_by_counts(how, torch.tensor([counts[one] for one in task.labels]), self.examples or 0)

    def dataset(self, task: Task, how: Preprocessing, recipe: Recipe) -> StreamedDataset:
        """Return the training dataset; DataError if there is nothing to train on."""
        if how.tokenizer is not None:  # windows are prepared in a thread of their own
            how = replace(how, tokenizer=replace(how.tokenizer, fast=copy.deepcopy(how.tokenizer.fast)))
        given = recipe.shuffle_buffer
        limits = Limits(recipe.batch_size, given or WINDOW, (1 << 62) if given else WINDOW_BYTES)
        held = self.held.rows if self.held else {}
        reader = Reader(self.source, self.columns, self.modality, limits, recipe.seed, held)
        tokenizer = "" if how.tokenizer is None else hashlib.sha256(how.tokenizer.fast.to_str().encode()).hexdigest()
        facts = (
            self.source.identity,
            self.scan.digest,
            self.columns,
            limits,
            recipe.seed,
            [(k, sorted(held[k])) for k in sorted(held)],
        )
        identity = repr((facts, how.input, how.length, how.truncation, how.blocks, how.skip_bad, tokenizer))
        data = StreamedDataset(
            reader, lambda part: dataset(part.examples, part.names, task, how), self.examples, identity
        )
        _ = data.first_window  # what is wrong with it is said before the training
        return data


def dataset(examples: Examples, names: Sequence[str], task: Task, how: Preprocessing) -> Dataset:
    """Return the dataset of some examples of a stream; DataError naming the one at fault."""
    kind = tasks.KINDS[task.name]

    def build(some: Examples, called: Sequence[str]) -> Dataset:
        kind.check(some.inputs, some.labels)
        prepared = prepare.prepare_for_evaluation(some, how, called)
        return task.dataset(prepared.inputs, prepared.examples.labels, how.tokenizer)

    try:
        return build(examples, names)
    except DataError:
        for index, name in enumerate(names):
            try:
                build(examples.at([index]), [name])
            except DataError as error:
                what = error.what if name in error.what else f"{name}: {error.what}"
                raise DataError(what, fix=error.fix) from error
        raise


def read(data: object, asked: Columns, task: str | None, entry: Entry) -> tuple[Stream, Source | None]:
    """Open a stream, and infer its columns and its task; also returns its validation part, if it has one.

    Raises DataError for what cannot be read.
    """
    parts = opening.splits(data)
    train = parts[next((name for name in TRAIN if name in parts), next(iter(parts)))]
    columns, head = choose_columns(train, replace(asked, task=task), entry.modality)
    name = task or tasks.infer(head.inputs, head.labels, entry.tasks)
    valid = next((parts[part] for part in VALID if part in parts), None)
    return Stream(train, entry.modality, replace(columns, task=name), Scan(), head), valid


def scanned(stream: Stream, classes: Sequence[Label] | None, *, needs_count: bool) -> Stream:
    """Return a stream with its classes and its number of rows, by a pass over its labels where one is needed."""
    name = stream.columns.task
    assert name is not None
    if classes and all(isinstance(label, int) for label in stream.head.labels):
        classes = [int(one) if str(one).removeprefix("-").isdigit() else one for one in classes]
    recorded = stream.source.classes(stream.columns.label or "")
    known = classes or recorded if name in ("classify", "multilabel", "tag") else None
    if not tasks.KINDS[name].labelled:
        known = (None,)
    if known and not needs_count:
        found = Scan(labels=tuple(known), digest=stream.source.identity)
    else:
        found = scan(stream.source, stream.columns, label_sets if name == "multilabel" else None)
        found = replace(found, labels=tuple(classes)) if classes else found
    if name == "classify" and len(set(found.labels)) < 2:
        what = f"{stream.source.origin} has one class only, {found.labels[0]!r}; classification needs two"
        raise DataError(what, fix="add shards with a second class")
    if found.rows is None:
        return replace(stream, scan=found)
    rows = found.rows
    say("scan", f"{counted(rows, 'example')} in {counted(len(stream.source.shards), 'shard')}")
    return replace(stream, scan=found)


def first_rows(source: Source, stream: Stream) -> Held:
    """Return the first rows of another stream as validation data, VALID_MOST at most."""
    return _held(list(islice(_reader(stream, source).rows(), VALID_MOST)), source.origin, {})


def hold_out(stream: Stream, share: float, seed: int) -> Stream:
    """Return a stream with a share of its rows as validation data, VALID_MOST at most, drawn by the seed.

    The last examples of a class are never held out. Raises DataError for an invalid share.
    """
    rows = stream.scan.rows
    assert rows is not None
    if not 0 < share < 1:
        raise DataError(f"valid={share!r} is not a share between 0 and 1", fix="valid=0.2, or valid=0 for none")
    places: dict[int, set[int]] = defaultdict(set)
    for shard, number in stream.scan.places(draw(min(VALID_MOST, max(1, round(share * rows))), rows, seed)):
        places[shard].add(number)
    reader = _reader(stream, stream.source)
    found: list[Place] = []
    for shard, wanted in places.items():
        for number, row in islice(reader.shard(shard), max(wanted) + 1):
            if number in wanted:
                found.append((shard, number, row))
    if stream.scan.totals:
        found = _keeping_one_of_each(found, stream.scan.totals, stream.columns.task)
    kept = {shard: frozenset(number for at, number, _ in found if at == shard) for shard in places}
    return replace(stream, held=_held([row for _, _, row in found], stream.source.origin, kept))


def _keeping_one_of_each(found: Sequence[Place], totals: Mapping[Label, int], task: str | None) -> list[Place]:
    """Return the rows that can be held out so that an example of each label stays in training."""
    left, kept = Counter(totals), []
    for place, labels in zip(found, _sets(task, [row.label for _, _, row in found]), strict=True):
        own = Counter(labels)
        if all(left[one] > count for one, count in own.items()):
            kept.append(place)
            left.subtract(own)
    return kept


def _sets(task: str | None, labels: Sequence[Label]) -> list[tuple[Label, ...]]:
    """Return the labels of each example, one or several."""
    return label_sets(labels) if task == "multilabel" else [one if isinstance(one, tuple) else (one,) for one in labels]


def _reader(stream: Stream, source: Source) -> Reader:
    return Reader(source, stream.columns, stream.modality)


def _held(rows: Sequence[Row], origin: str, places: Mapping[int, frozenset[int]]) -> Held:
    examples = Examples([row.input for row in rows], [row.label for row in rows], origin)
    return Held(examples, [row.name for row in rows], places)


def check_supported(recipe: Recipe, **given: object) -> None:
    """Raise RecipeError for what needs all examples at once: groups, folds, fixes, a share for test data, a sampler."""
    fixes = {
        "groups": "hold out the groups yourself: valid=DATA",
        "folds": "folds=0, or data that is no stream",
        "fixes": "correct the shards",
        "test": "test=DATA keeps data of its own apart",
    }
    for name, value in given.items():
        if value:
            raise RecipeError(f"{name}={value!r:.40} needs all examples at once, and this is a stream", fix=fixes[name])
    if recipe.class_balance == "sampler":
        what = 'class_balance="sampler" draws from all examples, and this is a stream'
        raise RecipeError(what, fix='class_balance="weights"')


def summary(stream: Stream, asked: Columns, valid: Examples | None, test: Sized | None) -> DataSummary:
    """Return what a saved model records of a stream; `asked` are the columns that the user named."""
    return DataSummary(
        origin=printable(stream.source.origin),
        columns=asked,
        train=stream.examples or 0,
        valid=len(valid) if valid else 0,
        test=len(test) if test else 0,
        pairs=isinstance(stream.head.inputs[0], tuple),
        skipped=0,
        fingerprint=stream.scan.digest,
        near_duplicates=None,
        test_duplicates=None,
    )
