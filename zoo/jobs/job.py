"""Job: one independent computation, named by the hash of what it computes; its result in a file of that name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from zoo.store import caches


@dataclass(frozen=True, slots=True)
class Job:
    """A call of a function of an installed module, whose arguments and result are JSON values.

    function   "package.module:function"
    arguments  keyword arguments, which identify the result: the hash of a data set rather than its path
    memory     bytes that it takes at most, as estimated; 0: little. Not part of the identity
    gpus       share of a GPU, for a cluster that has them. Not part of the identity
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 0
    gpus: float = 0.0

    @property
    def key(self) -> str:
        """SHA-256 of the function, its arguments, zoo's code, and the processor and PyTorch that compute it."""
        from zoo.finetune.runtime import machine

        what = [self.function, dict(self.arguments), _code(), machine.identity()]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: a JSON value, or an error with its fix; and the seconds that it took."""

    value: Any = None
    error: str = ""
    fix: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """A job with its answer; `is_kept`: the answer was read from a file of an earlier run."""

    job: Job
    answer: Answer
    is_kept: bool = False


def folder() -> Path:
    """Return the folder of results, one of the store's caches: <home>/cache/jobs."""
    return caches.folder("jobs")


def read(job: Job) -> Answer | None:
    """Return the answer of an earlier run; None without one, or if its file is damaged."""
    path = folder() / f"{job.key}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        answer = Answer(found["value"], seconds=float(found["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    with suppress(OSError):  # a read-only store
        os.utime(path)  # the cache keeps what was used last
    return answer


def write(job: Job, answer: Answer) -> None:
    """Keep an answer, unless the cache has no room; a disk that cannot be written costs the result alone."""
    path = folder() / f"{job.key}.json"
    what = {"function": job.function, "arguments": dict(job.arguments)}
    text = json.dumps({**what, "value": answer.value, "seconds": answer.seconds}).encode()
    if not caches.make_room(len(text)):
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = caches.new_part(path)
        part.write_bytes(text)
        part.replace(path)


@cache
def _code() -> str:
    """Return the SHA-256 of zoo's own modules: results of another version are computed again."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
