"""Prefetching: in order, in several threads, with errors where they belong; on a CPU nothing is prefetched."""

from __future__ import annotations

import threading

import pytest
import torch

from zoo.finetune.runtime.prefetch import prefetch

GPU = torch.device("meta")
CPU = torch.device("cpu")


@pytest.mark.parametrize("device", [CPU, GPU])
def test_results_come_in_order(device):
    assert list(prefetch(lambda number: (number, number**2), range(50), device)) == [(n, n**2) for n in range(50)]


def test_a_gpu_is_loaded_for_in_other_threads():
    found = list(prefetch(lambda _: (threading.current_thread().name,), range(4), GPU))
    assert all(name.startswith("zoo-load") for (name,) in found)


def test_a_cpu_loads_where_the_batch_is_used():
    loaded = []
    running = prefetch(lambda number: (loaded.append(number),), range(9), CPU)
    next(running)
    assert loaded == [0]


def test_few_items_are_loaded_ahead():
    taken = iter(range(10_000))
    running = prefetch(lambda number: (number,), taken, GPU)
    next(running)
    running.close()
    assert next(taken) < 100


def test_an_error_is_raised_where_its_item_is_due():
    running = prefetch(lambda number: (1 // (2 - number),), range(4), GPU)
    assert [next(running), next(running)] == [(0,), (1,)]
    with pytest.raises(ZeroDivisionError):
        next(running)
