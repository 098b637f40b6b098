"""Batches from forked processes, over PyTorch's DataLoader: images are sent back in shared memory."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.errors import ZooError
from zoo.finetune.runtime.torch_internals import tree_flatten, tree_unflatten

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
AHEAD = 2
"""Batches that each process is ahead: DataLoader's default."""
SMALL = 1 << 16
"""Bytes below which a tensor is sent by value: a segment of shared memory costs more (docs/log.md)."""
SHARED_MEMORY = Path("/dev/shm")


def from_processes(
    load: Callable[[Item], Loaded], items: Iterable[Item], count: int, *, pin: bool = False
) -> Iterator[Loaded]:
    """Yield load(item) of each item, in order, computed ahead in at most `count` forked processes.

    The first item is loaded by this process, and all of them where processes cannot be forked or their batches do not
    fit into half of the free shared memory. Raises the errors of `load`, and ZooError where a process was killed.
    """
    items = iter(items)
    first = [load(item) for item in islice(items, 1)]
    yield from first
    count = min(count, _room(first))
    following = list(islice(items, 1))  # without one, no process is worth its start
    if not count or not following:
        yield from map(load, chain(following, items))
        return
    loader: DataLoader[Any] = DataLoader(
        _Loads(load),
        batch_size=None,
        sampler=map(_by_value, chain(following, items)),
        num_workers=count,
        collate_fn=_unchanged,
        pin_memory=pin,
        multiprocessing_context="fork",
        prefetch_factor=AHEAD,
        generator=torch.Generator(),  # its seed is drawn from the global one otherwise
    )
    batches = iter(loader)
    try:
        for found in batches if pin else _received(batches):  # DataLoader has a thread that pins
            if isinstance(found, _Failed):
                raise found.error from None
            yield _from_values(found)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise ZooError(
            f"a process that prepares batches was killed: {str(error).splitlines()[0]:.200}",
            fix="free some memory, then the same command with --resume; a smaller batch_size needs less of it",
        ) from error


def _received(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches, each received in a thread while the one before is used: a sender has to run for it."""
    with ThreadPoolExecutor(1, "zoo-receive") as pool:
        following = pool.submit(next, batches, None)
        while (found := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield found


def _room(loaded: Any) -> int:
    """Return how many processes may run, by the shared memory for batches such as `loaded`; 0 where none can fork."""
    if sys.platform != "linux" or "fork" not in multiprocessing.get_all_start_methods():
        return 0
    size = sum(tensor.nbytes for tensor in tree_flatten(loaded)[0] if isinstance(tensor, Tensor))
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return 0
    return free // 2 // max(1, (AHEAD + 1) * size)


class _Failed:
    """A ZooError on its way between processes: PyTorch would raise it as another type."""

    def __init__(self, error: ZooError) -> None:
        self.type, self.what, self.fix = type(error), error.what, error.fix

    @property
    def error(self) -> ZooError:
        return self.type(self.what, fix=self.fix)


class _Loads(Dataset[Any]):
    """What `load` returns, by item."""

    def __init__(self, load: Callable[[Any], Any]) -> None:
        self.load = load

    def __getitem__(self, item: Any) -> Any:
        try:
            return _by_value(self.load(_from_values(item)))
        except ZooError as error:
            return _Failed(error)


def _by_value(value: Any) -> Any:
    """Return a tree with its small tensors as arrays, which are pickled."""
    leaves, tree = tree_flatten(value)
    return tree_unflatten([_array(leaf) if _is_small(leaf) else leaf for leaf in leaves], tree)


def _is_small(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.nbytes < SMALL and leaf.dtype != torch.bfloat16


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.array(tensor.numpy())


def _from_values(value: Any) -> Any:
    leaves, tree = tree_flatten(value)
    return tree_unflatten([torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves], tree)


def _unchanged(value: Any) -> Any:
    return value
