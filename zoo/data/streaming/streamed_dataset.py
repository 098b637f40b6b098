"""StreamedDataset: a stream served to the training loop as batches of shuffled windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.data.batch_options import EVALUATION, BatchOptions
from zoo.data.datasets import Batch, Dataset
from zoo.data.sampler import epoch_batches
from zoo.data.seeding import derive_seed
from zoo.data.streaming.windows import Position, Reader, Window
from zoo.errors import DataError

REMEMBERED = 1_000
"""Windows of which the position is remembered: those that are prepared ahead, and the one that trains."""
NAMED = 8
"""Windows of which the names of examples are remembered."""


class _Placed(NamedTuple):
    """A window with its first step, and the number of examples before it."""

    first_step: int
    position: Position
    offset: int


@dataclass(frozen=True, slots=True)
class _WindowDataset:
    """The dataset of a window whose indices count all examples of the run, so that a batch names them.

    `weight` is the share of a batch of all processes that this one reads.
    """

    data: Dataset
    offset: int
    weight: float
    lengths: None = None
    targets: None = None

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        batch = self.data.batch(indices - self.offset, options)
        return batch._replace(weight=batch.weight * self.weight)


class StreamedDataset:
    """The training examples of a stream; as a Dataset it has those of its first window.

    prepare   returns the dataset of a window
    examples  their number in an epoch; None if it is not known
    identity  differs where the examples, or how they are prepared, differ
    """

    targets = None
    lengths = None

    def __init__(
        self, reader: Reader, prepare: Callable[[Window], Dataset], examples: int | None, identity: str = ""
    ) -> None:
        self.reader, self.prepare, self.examples, self.identity = reader, prepare, examples, identity
        self.batch_size = reader.limits.batch_size
        self._placed: deque[_Placed] = deque(maxlen=REMEMBERED)
        self._names: deque[tuple[int, list[str]]] = deque(maxlen=NAMED)

    def __len__(self) -> int:
        return len(self.first_window)

    @cached_property
    def first_window(self) -> Dataset:
        """The dataset of the first window, for what looks at a few examples."""
        return self.prepare(next(self.reader.windows()))

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Return examples of the first window."""
        return self.first_window.batch(indices, options)

    @property
    def is_identified(self) -> bool:
        """Whether equal identities mean equal examples."""
        return bool(self.identity) and self.reader.source.is_fixed

    def epoch(self) -> Iterator[Dataset]:
        """Yield the datasets of the windows of the first epoch; the next window is read ahead."""
        for window, data in self._ahead(Position(), self.reader):
            if window.position.epoch:
                return
            yield data

    def parts(self, processes: int) -> int:
        """Return by how many processes the shards are divided: 1, where there are fewer of them, and each reads all."""
        return processes if len(self.reader.source.shards) >= processes else 1

    def steps(
        self, first: int, start: tuple[int, Position], part: tuple[int, int] = (0, 1)
    ) -> Generator[tuple[int, Tensor, Dataset]]:
        """Yield (step, indices, dataset) without end, from step `first` on; the next window is read ahead.

        `start` is the first step of a window at or before it, and its position; windows are read from there until the
        step is reached. With `part` (i, n) the batches are those of process i, which reads every n-th shard and takes
        its share of the batch size. They depend on the seed, the limits of a window and the part alone.
        """
        reader = self._part(*part)
        size = reader.limits.batch_size
        self.__dict__.pop("first_window", None)  # two windows are in memory, not three
        step, position = start
        offset, served_epoch = 0, position.epoch
        for window, data in self._ahead(position, reader):
            batches = self._batches(window, data, size)
            self._placed.append(_Placed(step, window.position, offset))
            self._names.append((offset, window.names))
            served = _WindowDataset(data, offset, size / self.batch_size)
            for number, indices in enumerate(batches, step):
                if number >= first:
                    yield number, indices + offset, served
            step, offset = step + len(batches), offset + len(window.examples)
            if len(batches):
                served_epoch = window.position.epoch
            elif window.position.epoch > served_epoch + reader.patience:
                what = f"no window of {self.reader.source.origin} holds a batch of {size}"
                raise DataError(what, fix="a smaller batch_size, or a larger shuffle_buffer")

    def _part(self, number: int, parts: int) -> Reader:
        """Return the reader of one of several processes, with the batch size that is its share."""
        if parts == 1:
            return self.reader
        size = (number + 1) * self.batch_size // parts - number * self.batch_size // parts
        limits = replace(self.reader.limits, batch_size=max(1, size))
        return replace(self.reader, part=(number, parts), limits=limits)

    def position(self, step: int) -> tuple[int, Position]:
        """Return the first step of the window in which a step falls, and where the window begins."""
        before = [placed for placed in self._placed if placed.first_step <= step]
        return (before[-1].first_step, before[-1].position) if before else (0, Position())

    def name(self, index: int) -> str:
        """Return the name of an example by its index in the run."""
        for offset, names in self._names:
            if offset <= index < offset + len(names):
                return names[index - offset]
        return f"example {index + 1:,} of the run"

    def _ahead(self, position: Position, reader: Reader) -> Iterator[tuple[Window, Dataset]]:
        """Yield the windows with their datasets, each prepared while the one before is used."""
        windows = reader.windows(position)

        def following() -> tuple[Window, Dataset]:
            window = next(windows)
            return window, self.prepare(window)

        with ThreadPoolExecutor(1, "zoo-stream", torch.set_num_threads, (1,)) as pool:
            future = pool.submit(following)
            while True:
                found = future.result()
                future = pool.submit(following)
                yield found

    def _batches(self, window: Window, data: Dataset, size: int) -> Tensor:
        """Return the shuffled batches of a window; of one that is a whole epoch those of the same data in memory.

        An incomplete batch at the end of an epoch is dropped, unless it is the whole epoch, of one process.
        """
        if window.is_last and not window.position.window and size == self.batch_size:
            size = min(size, len(data))
        number, seed = window.position.window, self.reader.seed
        if number:
            seed = derive_seed(seed, "window", number)
        return epoch_batches(len(data), size, seed, window.position.epoch, lengths=data.lengths)
