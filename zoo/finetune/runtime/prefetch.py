"""Prefetching for a GPU: the next batches are prepared in threads while the device computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from zoo.data.datasets import Batch
from zoo.finetune.runtime.workers import threads

Item = TypeVar("Item")
Loaded = TypeVar("Loaded", bound=tuple[Any, ...])
MOST = 16
"""Threads at most."""
READY = 4
"""Finished batches that wait in memory, beside those under way."""


def prefetch(load: Callable[[Item], Loaded], items: Iterable[Item], device: torch.device) -> Iterator[Loaded]:
    """Yield load(item) of each item, in order; for a GPU computed ahead in threads, batches in page-locked memory.

    On a CPU the items are loaded one by one, where they are used: the step needs all processors. `load` must not depend
    on the order of the calls.
    """
    if device.type == "cpu":
        yield from map(load, items)
        return
    waiting: deque[Future[Loaded]] = deque()
    count = min(MOST, max(1, threads() - 1))

    def loaded(item: Item) -> Loaded:
        return _pinned(load(item)) if device.type == "cuda" else load(item)

    with ThreadPoolExecutor(count, "zoo-load", torch.set_num_threads, (1,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(loaded, item))
                if len(waiting) >= READY + count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pinned(loaded: Loaded) -> Loaded:
    """Return a tuple with its batches in page-locked memory."""
    return type(loaded)(part.pinned() if isinstance(part, Batch) else part for part in loaded)
