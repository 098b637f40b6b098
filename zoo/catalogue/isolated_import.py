"""Import plugins in a subprocess, so that one that hangs, crashes or prints cannot affect this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from zoo.catalogue.discovery import installed
from zoo.errors import PluginError

LIMIT = 60.0
"""Timeout of one import in seconds; the first one includes importing torch."""
ApiOrError = int | PluginError
"""The API version of a plugin, or the error that prevents its use."""


def apis(names: Sequence[str], *, quiet: bool = False) -> dict[str, ApiOrError]:
    """Return the API version of each plugin by name, or the error that prevents its use.

    `quiet` discards what the plugins print; otherwise it goes to stderr.
    """
    found: dict[str, ApiOrError] = {
        name: _failure(name, problem) for name in names if (problem := installed()[name].problem)
    }
    while left := [name for name in names if name not in found]:
        found |= _import_until_failure(left, quiet=quiet)
    return {name: found[name] for name in names}


@contextmanager
def python(arguments: Sequence[str], out: IO[bytes], err: IO[bytes] | int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with the import path of this process; at the end of the block, end it and what it has started.

    Its output goes to files, not pipes: a process that outlives it cannot block the reader.
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(part or "." for part in sys.path)}
    command = [sys.executable, "-P", *arguments]
    process = subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
        process.wait()


def _import_until_failure(names: Sequence[str], *, quiet: bool) -> dict[str, ApiOrError]:
    """Import plugins one by one in a subprocess, up to the first that ends it or times out."""
    found: dict[str, ApiOrError] = {}
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        path, arguments = Path(folder, "results"), ["-m", "zoo.catalogue.import_child", *names]
        with path.open("wb") as out, python(arguments, out, subprocess.DEVNULL if quiet else None) as process:
            deadline = time.monotonic() + LIMIT
            while len(found) < len(names):
                ended = process.poll()
                lines = path.read_bytes().split(b"\n")[:-1]
                if len(lines) > len(found):
                    answers = zip(names, lines, strict=False)  # lines: of the plugins imported so far
                    found = {name: _parsed(name, line) for name, line in answers}
                    deadline = time.monotonic() + LIMIT
                    continue
                name = names[len(found)]
                if ended is not None:
                    return found | {name: _failure(name, f"its import ends the process with exit code {ended}")}
                if time.monotonic() > deadline:
                    return found | {name: _failure(name, f"its import takes more than {LIMIT:g} seconds")}
                time.sleep(0.01)
    return found


def _parsed(name: str, line: bytes) -> ApiOrError:
    """Return what a line of the subprocess says of a plugin."""
    try:
        answer = json.loads(line)
        return int(answer["api"]) if "api" in answer else PluginError(answer["what"], fix=answer["fix"])
    except (ValueError, TypeError, KeyError):
        return _failure(name, f"its import writes to file descriptors of others: {line[:80]!r}")


def _failure(name: str, problem: str) -> PluginError:
    plugin = installed()[name]
    return PluginError(f"{plugin.label}: {problem}", fix=plugin.fix or f"pip uninstall {plugin.distribution}")
