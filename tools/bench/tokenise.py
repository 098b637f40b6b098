"""Benchmark tokenising many texts: zoo, `encode_batch` alone and the `map` of datasets, same tokenizer and texts.

python tools/bench/tokenise.py TOKENIZER.json [--texts 20000]

Made-up texts of 20 to 180 words, truncated to 256 tokens. Each side runs in a process of its own, one after the other;
CPU seconds count all its threads and processes, memory is its peak above that before.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable
from typing import Any

LENGTH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", help="tokenizer.json of a text backbone")
    parser.add_argument("--texts", type=int, default=20_000)
    given = parser.parse_args()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; {given.texts:,} texts")
    first = None
    for name, side, threads in (
        ("zoo, 1 thread", ours, False),
        ("zoo", ours, True),
        ("encode_batch, ids dropped, 1 thread", alone, False),
        ("encode_batch, ids dropped", alone, True),
        ("datasets.map", mapped, True),
        ("datasets.map, 2 processes", mapped_by_two, False),
    ):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            wall, cpu, memory = pool.apply(measure, (side, given.tokenizer, given.texts, threads))
        first = first or cpu
        rates = f"{given.texts / wall:,.0f} texts/s, {given.texts / cpu:,.0f} a CPU s, {cpu / first:.2f} of the first"
        print(f"{name}: {rates}, {memory / 1e6:,.0f} MB", flush=True)


def measure(side: Callable[..., Any], path: str, count: int, threads: bool) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and bytes of peak memory of one side."""
    os.environ["TOKENIZERS_PARALLELISM"] = str(threads).lower()
    found = made_up(count)
    run = side(path, found)
    before, start, used = peak(), time.perf_counter(), cpu_seconds()
    kept = run()
    wall, cpu = time.perf_counter() - start, cpu_seconds() - used
    del kept
    return wall, cpu, peak() - before


def ours(path: str, found: list[str]) -> Callable[[], Any]:
    from zoo.data.texts import tokenise
    from zoo.plugin import TextInput, Tokenizer

    tokenizer = Tokenizer(load(path), pad=0)
    spec = TextInput((), LENGTH)
    return lambda: tokenise(found, spec, tokenizer, length=LENGTH, truncation="head-tail")


def alone(path: str, found: list[str]) -> Callable[[], Any]:
    tokenizer = load(path)
    tokenizer.enable_truncation(LENGTH)
    return lambda: [len(tokenizer.encode_batch(found[at : at + 1_000])) for at in range(0, len(found), 1_000)]


def mapped(path: str, found: list[str], processes: int | None = None) -> Callable[[], Any]:
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    datasets.disable_caching()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=path)
    table = datasets.Dataset.from_dict({"text": found})

    def encode(rows: dict[str, list[str]]) -> Any:
        return tokenizer(rows["text"], truncation=True, max_length=LENGTH)

    return lambda: table.map(encode, batched=True, num_proc=processes, remove_columns=["text"])


def mapped_by_two(path: str, found: list[str]) -> Callable[[], Any]:
    return mapped(path, found, 2)


def load(path: str) -> Any:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(path)
    found.no_padding()
    found.no_truncation()
    return found


def made_up(count: int) -> list[str]:
    draws = random.Random(0)
    words = ["".join(draws.choices("abcdefghijklmnopqrstuvwxyz", k=draws.randint(2, 9))) for _ in range(5_000)]
    return [" ".join(draws.choices(words, k=draws.randint(20, 180))) for _ in range(count)]


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
