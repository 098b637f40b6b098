"""Prefetching: in order, in threads or processes, with errors where they belong; on a CPU nothing is prefetched."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import threading
from types import SimpleNamespace

import pictures
import pytest
import torch

import zoo
from zoo.data.batch_options import BatchOptions
from zoo.data.datasets import LabelledDataset
from zoo.data.image_batches import Images
from zoo.data.seeding import generator
from zoo.errors import RecipeError, ZooError
from zoo.finetune.runtime import loader_processes
from zoo.finetune.runtime.loader_processes import from_processes
from zoo.finetune.runtime.prefetch import from_threads, loaders, prefetch
from zoo.plugin import ImageInput

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


forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked")


@forks
def test_processes_load_in_order_and_end_with_the_iterator():
    running = from_processes(lambda number: (number, os.getpid()), range(10_000), 2)
    found = [next(running) for _ in range(20)]
    running.close()
    assert [number for number, _ in found] == list(range(20))
    assert len({process for _, process in found[1:]} - {os.getpid()}) == 2
    assert not multiprocessing.active_children()


def noisy(image):
    """Augment with the random numbers of Python and of torch."""
    return (image + random.randrange(9) + torch.randint(9, ())).clamp(max=255)


@forks
@pytest.mark.parametrize("augment", ["randaugment", noisy])
def test_batches_do_not_depend_on_where_they_are_loaded(augment):
    spec = ImageInput(16, (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0)
    pixels = torch.randint(256, (12, 3, 20, 20), dtype=torch.uint8, generator=generator(0, "pixels"))
    data = LabelledDataset(Images(list(pixels), spec, torch.arange(12)), torch.arange(12.0))

    def load(step):
        number, indices = step
        return number, indices, data.batch(indices, BatchOptions(augment, generator(0, "augment", number)))

    steps = [(number, torch.randperm(12, generator=generator(1, "order", number))) for number in range(9)]
    state = torch.get_rng_state()
    expected = list(map(load, steps))
    for found in (from_processes(load, steps, 1), from_processes(load, steps, 2), from_threads(load, steps, 3)):
        for (number, indices, batch), (same, order, other) in zip(found, expected, strict=True):
            assert (number, batch.spec, batch.weight) == (same, other.spec, other.weight)
            assert all(map(torch.equal, (indices, batch.inputs, batch.targets), (order, other.inputs, other.targets)))
    assert torch.equal(torch.get_rng_state(), state)


@forks
def test_error_in_a_process_is_the_error_of_the_run():
    def load(number):
        if number == 3:
            raise RecipeError("augment raised TypeError", fix="another function")
        return (number,)

    with pytest.raises(RecipeError, match=r"augment raised TypeError\nfix: another function"):
        list(from_processes(load, range(9), 2))


@forks
def test_killed_process_is_an_error_with_a_fix():
    def load(number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return (number,)

    with pytest.raises(ZooError, match=r"a process that prepares batches was killed: .*\nfix: free some memory"):
        list(from_processes(load, range(9), 1))


@pytest.mark.parametrize(("free", "count"), [(10**6, 0), (6 * 10**6, 1), (10**9, 166)])
def test_processes_are_limited_by_shared_memory(monkeypatch, free, count):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert loader_processes._room([(torch.zeros(250_000),)]) == (
        count if loader_processes.sys.platform == "linux" else 0
    )


def test_without_room_for_processes_the_batches_come_from_this_one(monkeypatch):
    monkeypatch.setattr(loader_processes, "_room", lambda loaded: 0)
    assert list(from_processes(lambda number: (number, os.getpid()), range(3), 2)) == [
        (n, os.getpid()) for n in range(3)
    ]


def test_launched_processes_share_the_processors(monkeypatch):
    """Torchrun sets one thread for each process it starts."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.setattr("zoo.finetune.runtime.prefetch.quota", lambda: 12)
    monkeypatch.setattr("zoo.finetune.runtime.prefetch.threads", lambda: 1)
    alone = loaders()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (alone, loaders()) == (1, 2)


@forks
@pytest.mark.parametrize("data", ["images", "stream"])
def test_workers_change_no_result(data, pretrained):
    pairs = pictures.pairs(4)
    settings = {"strategy": "full", "steps": 3, "batch_size": 4, "valid": 0, "augment": "shift", "quiet": True}
    given = pairs if data == "images" else lambda: iter(pairs)
    weights = [
        zoo.load(pretrained, "cpu").finetune(given, workers=workers, **settings).module.state_dict()
        for workers in (None, 0, 1, 2)
    ]
    assert all(torch.equal(other[name], value) for other in weights[1:] for name, value in weights[0].items())


def test_workers_asked_for_load_for_a_cpu_too():
    def load(number):
        return (threading.current_thread().name, os.getpid())

    threads, processes = (list(prefetch(load, range(4), CPU, in_processes=ask, workers=1)) for ask in (False, True))
    assert all(name.startswith("zoo-load") for name, _ in threads)
    assert all(name == threading.current_thread().name for name, _ in prefetch(load, range(4), GPU, workers=0))
    if loader_processes._room([]):
        assert {process for _, process in processes[1:]} - {os.getpid()}
