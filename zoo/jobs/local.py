"""Run jobs in processes of this machine: as many at once as it has processors and memory for."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from zoo.errors import ZooError
from zoo.jobs.job import Answer, Job

ATTEMPTS = 2
"""Times that a job is started whose worker dies."""
PROCESS = 500_000_000
"""Bytes of a worker without a job: Python, PyTorch and a plugin's library."""
RESERVE = 0.1
"""Share of the available memory that no worker is given."""


def processors() -> int:
    """Return the processors that this process may use: its affinity, at most the quota of its container."""
    from zoo.finetune.runtime import workers

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, workers.quota()))


def available_memory() -> int:
    """Return the bytes of memory that are free for new processes; a large number where that is not known."""
    found = [1 << 50]
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # the limit of a container (cgroup v2), "max" without one
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found))


def fitting(jobs: Sequence[Job]) -> int:
    """Return how many workers this machine has room for: one a processor, each with memory for the largest job."""
    largest = PROCESS + max((job.memory for job in jobs), default=0)
    by_memory = int(available_memory() * (1 - RESERVE) / largest)
    return max(1, min(processors(), by_memory, len(jobs)))


def run(jobs: Sequence[Job], shared: Mapping[str, Any], count: int) -> Iterator[tuple[Job, Answer]]:
    """Yield jobs with their answers as they come, from `count` worker processes.

    A worker that dies costs the job it was at, which is started once more. Leaving the iterator ends the workers.
    """
    pool = _Pool(jobs, _pickled(shared))
    threads = [threading.Thread(target=pool.work, name=f"zoo-job-{i}", daemon=True) for i in range(count)]
    try:
        for thread in threads:
            thread.start()
        for _ in jobs:
            yield pool.answers.get()
    finally:
        pool.stop()
        for thread in threads:
            thread.join()


def _pickled(shared: Mapping[str, Any]) -> bytes:
    try:
        return pickle.dumps(dict(shared))
    except Exception as error:
        what = f"the data cannot be sent to other processes: {type(error).__name__}: {error}"
        raise ZooError(
            what, fix="workers=1 (--workers 1) computes in this process; or pass a file or folder"
        ) from error


class _Pool:
    """Jobs that wait, and the worker processes; each thread that runs `work` has one worker."""

    def __init__(self, jobs: Sequence[Job], shared: bytes) -> None:
        self.waiting = deque(jobs)
        self.shared = shared
        self.answers: SimpleQueue[tuple[Job, Answer]] = SimpleQueue()
        self.lock = threading.Lock()
        self.stopped = False
        self.workers: set[_Worker] = set()

    def work(self) -> None:
        """Compute jobs, one after the other, until there are no more."""
        worker: _Worker | None = None
        while (job := self._next()) is not None:
            answer = Answer()
            for _ in range(ATTEMPTS):
                worker = worker or self._start()
                if worker is None:
                    return
                given = worker.answer(job)
                if given is not None:
                    answer = given
                    break
                answer, worker = self._lost(worker), None
            self.answers.put((job, answer))
        if worker:
            self._end(worker)

    def stop(self) -> None:
        """End all workers; jobs that wait are not started."""
        with self.lock:
            self.stopped = True
            self.waiting.clear()
            for worker in self.workers:
                worker.process.kill()

    def _next(self) -> Job | None:
        with self.lock:
            return self.waiting.popleft() if self.waiting else None

    def _start(self) -> _Worker | None:
        with self.lock:
            if self.stopped:
                return None
            worker = _Worker(self.shared)
            self.workers.add(worker)
            return worker

    def _end(self, worker: _Worker) -> int:
        """End a worker; returns its exit status."""
        with self.lock:
            self.workers.discard(worker)
        return worker.close()

    def _lost(self, worker: _Worker) -> Answer:
        """Return the answer for a job whose worker died."""
        status = self._end(worker)
        how = f"ended with exit status {status}"
        if status < 0:
            how = f"was killed by signal {-status} ({signal.Signals(-status).name})"
        said = f": {worker.last_words}" if worker.last_words else ""
        what = f"the worker process {how}, {ATTEMPTS} times{said}"
        return Answer(error=what, fix="free some memory, or take fewer workers: workers=1 (--workers 1)")


class _Worker:
    """A worker process with the pipes to it; what it prints goes to a temporary file."""

    def __init__(self, shared: bytes) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        self.last_words = ""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join(each or os.getcwd() for each in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "zoo.jobs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )
        self._send(shared)

    def answer(self, job: Job) -> Answer | None:
        """Return the answer to a job; None if the process died."""
        assert self.process.stdout is not None
        self._send(pickle.dumps((job.function, dict(job.arguments))))
        try:
            found: Answer = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        return found

    def close(self) -> int:
        """Let the process end, and return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        self.last_words = lines[-1] if lines else ""
        self.errors.close()
        return status

    def _send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # the process died: there will be no answer
            self.process.stdin.write(content)
            self.process.stdin.flush()
