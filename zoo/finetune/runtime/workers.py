"""Workers: parts of a CPU computation in parallel threads, one thread an operation.

PyTorch divides each operation between threads that wait for each other, hundreds of times a step: beside another busy
process every operation takes as long as its slowest thread, and the result depends on the number of threads. Here the
caller divides the work into parts that do not depend on the threads, and each thread computes whole parts: they wait
once, and the bits are the same with one thread or two (docs/log.md).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from zoo.errors import RecipeError

Part = TypeVar("Part")
Result = TypeVar("Result")

CPU = torch.device("cpu")
CGROUP = Path("/sys/fs/cgroup/cpu.max")
_allotted: int | None = None
"""Threads of the run, inside `one_thread_each`."""
_running = threading.RLock()
"""Held inside `one_thread_each`: the number of threads, and torch's random numbers, belong to the process."""


def threads() -> int:
    """Return the threads that computations may use: PyTorch's number, at most the processors of a container's quota."""
    return _allotted or min(torch.get_num_threads(), quota())


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let each operation use one thread inside the block, and `parallel` all of `threads()`.

    Raises RecipeError while another Python thread is in such a block.
    """
    global _allotted
    if not _running.acquire(blocking=False):
        what = "another thread of this process trains, and both would share PyTorch's threads and random numbers"
        raise RecipeError(what, fix="train one model after the other, or each in a process of its own")
    before = _allotted
    try:
        count = threads()
        with _threads_per_operation(1):
            _allotted = count
            yield
    finally:
        _allotted = before
        _running.release()


@contextmanager
def all_threads_each() -> Iterator[None]:
    """Let each operation use all of `threads()` inside the block, for work that has no parts."""
    with _threads_per_operation(threads()):
        yield


def parallel(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device = CPU) -> Iterator[Result]:
    """Yield function(part) for each part, in order, computed in at most `threads()` threads; on a GPU one by one.

    Where there are fewer parts than threads, an operation uses several. Gradient mode and autocast are those of a new
    thread: `function` sets its own.
    """
    workers = min(threads(), len(parts)) if device.type == "cpu" else 1
    if workers < 2:
        with all_threads_each():
            yield from map(function, parts)
        return
    each = threads() // workers
    with _threads_per_operation(each), ThreadPoolExecutor(workers, "zoo", torch.set_num_threads, (each,)) as pool:
        yield from pool.map(function, parts)


@contextmanager
def _threads_per_operation(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quota(path: Path = CGROUP) -> int:
    """Return the processors of a container's quota (cgroup v2), rounded up; a large number without one."""
    try:
        quota, period = path.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return 1 << 16
