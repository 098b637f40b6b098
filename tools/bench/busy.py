"""Benchmark training beside 0, 1 and 2 busy processes: zoo, fastai and transformers' Trainer.

python tools/bench/busy.py [--seeds 1] [--quick] [--only SIDE …]

Each side times its training within its own process. The fair share of C processors beside B busy ones is the larger of
C - B and C / (1 + B): the last column is the slowdown as a multiple of what that share would give.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product

import fastai_photos
import peers
import trainer
from peers import Given

LOADS = (0, 1, 2)
BUSY = "while True: sum(i * i for i in range(10_000))"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep `count` single-threaded processes busy inside the block."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def zoo_photos(given: Given, strategy: str) -> float:
    import zoo

    train, _ = peers.halves(given)
    model = zoo.load(peers.LITE0, "cpu")
    length = {} if strategy == "probe" else {"steps": 2 if given.quick else 20}
    start = time.perf_counter()
    model.finetune(train, valid=0, strategy=strategy, seed=given.seed, **length)
    return time.perf_counter() - start


def zoo_mails(given: Given) -> float:
    import zoo

    train, _ = peers.mails(given)
    model = zoo.load(peers.MINILM, "cpu")
    start = time.perf_counter()
    model.finetune(train, valid=0, strategy="full", seed=given.seed, steps=2 if given.quick else 20)
    return time.perf_counter() - start


def fastai(given: Given) -> float:
    """Train all layers for two epochs: 8 steps of 64, of which the last is partial."""
    learn, _ = fastai_photos.learner(given)
    learn.unfreeze()
    with learn.no_bar():
        start = time.perf_counter()
        learn.fit(1 if given.quick else 2)
        return time.perf_counter() - start


def their_mails(given: Given) -> float:
    return trainer.trainer(given, num_train_epochs=1)["training"]


CASES: dict[str, Callable[[Given], float]] = {
    "zoo, photos, probe": partial(zoo_photos, strategy="probe"),
    "zoo, photos, full": partial(zoo_photos, strategy="full"),
    "fastai, photos, full": fastai,
    "zoo, mails, full": zoo_mails,
    "Trainer, mails, full": their_mails,
}


def side(given: Given, case: str, load: int) -> Mapping[str, float]:
    with busy(load):
        return {"training": CASES[case](given)}


SIDES = {f"{case}, {load} busy": partial(side, case=case, load=load) for case, load in product(CASES, LOADS)}


def report(found: peers.Found) -> None:
    rows = [["training, mean of the seeds", "seconds", "x quiet", "x fair share"]]
    processors = len(os.sched_getaffinity(0))
    for case, load in product(CASES, LOADS):
        took, quiet = (peers.mean(found[f"{case}, {count} busy"], "training") for count in (load, 0))
        share = max(processors - load, processors / (1 + load)) / processors
        slowdown = took / quiet
        rows.append([f"{case}, {load} busy", f"{took:.1f}", f"{slowdown:.2f}", f"{slowdown * share:.2f}"])
    peers.table(rows)


if __name__ == "__main__":
    peers.bench(SIDES, report, [peers.LITE0, peers.MINILM], [peers.photos, peers.fastai])
