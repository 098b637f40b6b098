"""Run independent jobs in this process, in local processes or on a Ray cluster; finished ones are not run again."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from zoo.errors import ZooError
from zoo.jobs import cluster, job, local
from zoo.jobs.call import call
from zoo.jobs.job import Answer, Job, Result

RAY = "ray"


def run(
    jobs: Sequence[Job], *, workers: int | str | None = None, shared: Mapping[str, Any] | None = None
) -> Generator[Result, None, None]:
    """Yield the result of each job as it comes, those of earlier runs first.

    workers  1: this process; N: so many local processes; None: as many as processors and memory allow; "ray": a cluster
    shared   arguments that all jobs take, any Python objects; what identifies them belongs into each job's arguments

    A job gives the same bits wherever it runs, on one kind of machine. One that fails has an error for an answer and is
    run again by the next call; answers are kept in the store's cache as they come, so that a run that is killed and
    started again goes on. Raises ZooError for workers that are none of these.
    """
    if not (workers is None or workers == RAY or (type(workers) is int and workers > 0)):
        raise ZooError(f"workers={workers!r} is not a whole number above 0, or 'ray'", fix="workers=2 (--workers 2)")
    unique = {each.key: each for each in jobs}
    todo: list[Job] = []
    for each in unique.values():
        kept = job.read(each)
        if kept is None:
            todo.append(each)
        else:
            yield Result(each, kept, is_kept=True)
    for each, answer in _answers(todo, workers, shared or {}):
        if not answer.error:
            job.write(each, answer)
        yield Result(each, answer)


def _answers(jobs: Sequence[Job], workers: int | str | None, shared: Mapping[str, Any]) -> Iterator[tuple[Job, Answer]]:
    if not jobs:
        return
    if workers == RAY:
        yield from cluster.run(jobs, shared)
        return
    count = min(int(workers), len(jobs)) if workers else local.fitting(jobs)
    if count > 1:
        yield from local.run(jobs, shared, count)
        return
    for each in jobs:
        yield each, call(each.function, each.arguments, shared)
