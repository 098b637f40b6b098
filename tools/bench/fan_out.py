"""Fan-out: wall and CPU seconds of independent jobs in two local processes against one process, equal results.

    python tools/bench/fan_out.py [JOBS]

Each job trains a small network for 20 steps. On idle processors the wall ratio is the efficiency; on busy ones only the
CPU ratio means something: what starting the processes costs, which is per process and not per job.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from typing import Any

STEPS, EXAMPLES = 20, 100


def train(seed: int) -> list[float]:
    """Train on digits; returns the weights of the head."""
    import zoo
    from zoo.model.demo import digits

    model = zoo.load("native/resnet14", "cpu")
    model.finetune(digits()[:EXAMPLES], valid=0, strategy="scratch", steps=STEPS, seed=seed, quiet=True)
    assert model.head is not None
    weights: list[float] = model.head.weight.flatten().tolist()
    return weights


def measure(count: int, workers: int) -> tuple[float, float, dict[int, Any]]:
    """Run the jobs with an empty store; returns wall and CPU seconds, and the results by seed."""
    from zoo.jobs.job import Job
    from zoo.jobs.run import run

    with tempfile.TemporaryDirectory() as home:
        os.environ["ZOO_HOME"] = home
        wall, cpu = time.monotonic(), _cpu()
        results = list(run([Job("fan_out:train", {"seed": seed}) for seed in range(count)], workers=workers))
    assert not any(result.answer.error for result in results), results
    found = {result.job.arguments["seed"]: result.answer.value for result in results}
    return time.monotonic() - wall, _cpu() - cpu, found


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    """Print both sides and the ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    train(0)  # imports and first calls, which a process pays once
    wall, cpu, one = measure(count, 1)
    wall_of_two, cpu_of_two, two = measure(count, 2)
    print(f"{count} jobs: {wall:.1f} s in one process, {wall_of_two:.1f} s in two")
    print(f"CPU time: {cpu:.1f} s in one process, {cpu_of_two:.1f} s in two")
    print(f"efficiency of two processes: {wall / wall_of_two / 2:.2f}, at most {cpu / cpu_of_two:.2f} by CPU time")
    print("the same results, bit for bit" if one == two else "DIFFERENT RESULTS")


if __name__ == "__main__":
    main()
