"""Run jobs as tasks of Ray, on one machine or many: the extra `ray`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.jobs.call import call
from zoo.jobs.job import Answer, Job

RETRIES = 1
"""Times that a job is started again whose worker or machine is lost."""


def run(jobs: Sequence[Job], shared: Mapping[str, Any]) -> Iterator[tuple[Job, Answer]]:
    """Yield jobs with their answers as they come, from the cluster at RAY_ADDRESS or a local one of this machine.

    A job takes one processor, its memory and its share of a GPU. Leaving the iterator cancels what waits.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(address=os.environ.get("RAY_ADDRESS"), logging_level=logging.ERROR, log_to_driver=False)
    try:
        data = ray.put(dict(shared))
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_task)
        waiting = {
            task.options(memory=job.memory or None, num_gpus=job.gpus).remote(
                job.function, dict(job.arguments), data
            ): job
            for job in jobs
        }
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(done[0]), _answer(ray, done[0])
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)
    finally:
        if started:
            ray.shutdown()


def _task(function: str, arguments: dict[str, Any], shared: dict[str, Any]) -> Answer:
    return call(function, arguments, shared)


def _answer(ray: Any, reference: Any) -> Answer:
    """Return the answer of a task, or the error of one whose worker was lost."""
    try:
        found: Answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        what = f"the Ray task was lost, {RETRIES + 1} times: {type(error).__name__}: {first}"
        return Answer(error=what, fix="ray status   (shows machines and memory)")
    return found


def _ray() -> Any:
    """Import Ray. Raises ZooError if it is not installed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ZooError(
            "workers='ray' needs Ray, which is not installed", fix="pip install 'backbone-zoo[ray]'"
        ) from error
    return ray
