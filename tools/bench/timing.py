"""Both sides of a ratio, timed in turn in one run."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Call each side in turn, `rounds` times after one to warm up; returns the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def process(command: Sequence[str]) -> Callable[[], object]:
    """Return a call that runs a command as a whole process and insists on exit code 0."""
    return lambda: subprocess.run(command, check=True, capture_output=True)


def table(medians: Mapping[str, float], against: str) -> None:
    """Print each side's seconds and its ratio to the side called `against`."""
    width = max(map(len, medians))
    for name, seconds in medians.items():
        print(f"{name:<{width}}  {seconds:8.3f} s  {seconds / medians[against]:6.2f} x {against}")
