"""Read a whole stream into memory, where it is small enough: to evaluate, rank, compare or report on it."""

from __future__ import annotations

from functools import partial
from itertools import islice

from zoo.data.examples import Columns, Examples, Parts
from zoo.data.streaming import opening
from zoo.data.streaming.scan import choose_columns
from zoo.data.streaming.shards import Source
from zoo.data.streaming.windows import Reader
from zoo.errors import DataError

MOST = 50_000
"""Examples at most."""


def parts(data: object, columns: Columns, modality: str) -> Parts:
    """Return a reader for each part of a stream."""
    return {name: partial(_read, source, columns, modality) for name, source in opening.splits(data).items()}


def _read(source: Source, columns: Columns, modality: str) -> Examples:
    """Return all examples of a stream; DataError for more than MOST."""
    chosen, _ = choose_columns(source, columns, modality)
    rows = list(islice(Reader(source, chosen, modality).rows(), MOST + 1))
    if len(rows) > MOST:
        what = f"{source.origin} has more than {MOST:,} examples, and they are all read into memory here"
        raise DataError(
            what, fix="give some of its shards (shards/train-{000..009}.tar); finetune reads as many as there are"
        )
    return Examples([row.input for row in rows], [row.label for row in rows], source.origin)
