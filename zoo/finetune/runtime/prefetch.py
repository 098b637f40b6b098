"""Prefetching: the next batches are prepared in threads or processes while the device computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from zoo.data.datasets import Batch
from zoo.finetune.runtime.loader_processes import from_processes
from zoo.finetune.runtime.workers import quota, threads

Item = TypeVar("Item")
Loaded = TypeVar("Loaded", bound=tuple[Any, ...])
MOST = 16
"""Threads or processes at most."""
READY = 4
"""Finished batches of threads that wait in memory, beside those under way."""


def prefetch(
    load: Callable[[Item], Loaded],
    items: Iterable[Item],
    device: torch.device,
    *,
    in_processes: bool = False,
    workers: int | None = None,
) -> Iterator[Loaded]:
    """Yield load(item) of each item, in order, computed ahead by `workers`; for CUDA batches in page-locked memory.

    In threads, or `in_processes` where the system can fork: many small operations in threads take Python's lock from
    the thread that launches kernels. Without a number it is that of `loaders` for a GPU, and 0 for a CPU, whose step
    needs all processors; with 0 the items are loaded one by one, where they are used. `load` must not depend on the
    order of the calls.
    """
    pin = device.type == "cuda"
    if workers is None:
        workers = 0 if device.type == "cpu" else loaders()
    if not workers:
        found: Iterable[Loaded] = map(load, items)
    else:
        found = (from_processes if in_processes else from_threads)(load, items, workers, pin=pin)
    for loaded in found:
        yield _pinned(loaded) if pin else loaded


def loaders() -> int:
    """Return the threads or processes that load: a processor is left to each process of the run on this machine.

    Torchrun sets a thread for each process: there, the processors are shared out instead.
    """
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = threads() if launched == 1 else min(usable, quota()) // launched
    return min(MOST, max(1, count - 1))


def from_threads(
    load: Callable[[Item], Loaded], items: Iterable[Item], count: int, *, pin: bool = False
) -> Iterator[Loaded]:
    """Yield load(item) of each item, in order, computed ahead in `count` threads."""
    waiting: deque[Future[Loaded]] = deque()

    def loaded(item: Item) -> Loaded:
        return _pinned(load(item)) if pin else load(item)

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
    """Return a tuple with its batches in page-locked memory; what is there already is not copied."""
    return type(loaded)(part.pinned() if isinstance(part, Batch) else part for part in loaded)
