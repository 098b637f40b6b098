"""Alternating timing of several functions, and a table of their ratios."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Call all sides alternately, `rounds` times after a warm-up; return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def process(command: Sequence[str]) -> Callable[[], object]:
    """Return a function that runs a command in a subprocess and raises unless it exits with 0."""
    return lambda: subprocess.run(command, check=True, capture_output=True)


def table(medians: Mapping[str, float], against: str) -> None:
    """Print the seconds of each side and its ratio to the side `against`."""
    width = max(map(len, medians))
    for name, seconds in medians.items():
        print(f"{name:<{width}}  {seconds:8.3f} s  {seconds / medians[against]:6.2f} x {against}")
