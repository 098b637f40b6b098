"""Windows of a stream: each row once an epoch, shards in a seeded order, a part of them for each process."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from zoo.data.datasets import Batch
from zoo.data.examples import Columns
from zoo.data.streaming import iterables, opening
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.data.streaming.windows import Limits, Position, Reader


def reader(rows: list, batch: int, most: int, *, shards: int = 1, **more) -> Reader:
    """Return the reader of a stream of texts in shards of equal length."""
    size = len(rows) // shards
    parts = [
        iterables.of_function(lambda at=at: rows[at * size : (at + 1) * size], f"part {at}") for at in range(shards)
    ]
    source = opening.Source("rows", [part.shards[0] for part in parts], "")
    return Reader(source, Columns(("input",), "label"), "text", Limits(batch, most, 1 << 40), **more)


class Listed:
    """A dataset that serves its inputs."""

    lengths = None

    def __init__(self, inputs: list) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: torch.Tensor, options: object = None) -> Batch:
        return Batch([self.inputs[i] for i in indices.tolist()])


ROWS = [(f"text {number}", number % 3) for number in range(60)]


def epoch(found: Reader, start: Position = Position()) -> list:  # noqa: B008
    windows = iter(found.windows(start))
    taken = []
    while (window := next(windows)).position.epoch == start.epoch:
        taken.append(window)
    return taken


def test_every_row_is_read_once_an_epoch_and_shards_are_mixed():
    windows = epoch(reader(ROWS, 4, 10, shards=6))
    inputs = [item for window in windows for item in window.examples.inputs]
    assert sorted(inputs) == sorted(text for text, _ in ROWS)
    assert [len(window.examples) for window in windows] == [12] * 5
    assert {int(item.split()[1]) // 10 for item in windows[0].examples.inputs} == set(range(6))


def test_order_of_shards_differs_by_epoch_and_follows_from_the_seed():
    def first(seed: int, number: int) -> list:
        return epoch(reader(ROWS, 4, 10, shards=20, seed=seed), Position(number))[0].examples.inputs

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(0, 1)
    assert first(0, 0) != first(1, 0)


@pytest.mark.parametrize("batch", [4, 5])
def test_processes_read_shards_of_their_own(batch):
    """Shards of 3, 6, 9 and 12 rows, two processes: another pair in each epoch, and parts of each batch."""
    sizes = {f"part {size}": [(f"{size}:{number}", number % 3) for number in range(size)] for size in (3, 6, 9, 12)}
    parts = [iterables.of_function(lambda rows=rows: rows, name).shards[0] for name, rows in sizes.items()]
    found = Reader(opening.Source("rows", parts, ""), Columns(("input",), "label"), "text", Limits(batch, 6, 1 << 40))
    data = StreamedDataset(found, lambda window: Listed(window.examples.inputs), 30)
    assert (data.parts(2), data.parts(5)) == (2, 1)
    batches = [
        [served.batch(rows) for _, rows, served in islice(data.steps(0, (0, Position()), (i, 2)), 40)] for i in (0, 1)
    ]
    for one, other in zip(*batches, strict=True):
        assert one.size + other.size == batch
        assert one.weight + other.weight == pytest.approx(1)
    rows = [[row for one in part for row in one.inputs] for part in batches]
    epochs = [[w.examples.inputs for w in epoch(replace(found, part=(i, 2)))] for i in (0, 1)]
    first = [{row for window in part for row in window} for part in epochs]
    assert not first[0] & first[1]
    assert len(first[0] | first[1]) == 30
    assert set(rows[0]) > first[0]


@pytest.mark.parametrize("at", [1, 3])
def test_a_window_is_read_again_from_its_position(at):
    found = reader(ROWS, 4, 10, shards=12, held={2: frozenset({0, 3})})
    windows = epoch(found)
    saved = Position.from_dict(json.loads(json.dumps(windows[at].position.to_dict())))
    assert [w.names for w in epoch(found, saved)] == [w.names for w in windows[at:]]
    assert "part 2:0" not in {name for w in windows for name in w.names}
