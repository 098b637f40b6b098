"""Import plugins in a subprocess, so that one that hangs, crashes or prints cannot affect this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from zoo.catalogue import plugins
from zoo.errors import PluginError

LIMIT = 60.0
"""Timeout of one import in seconds; the first one includes importing torch."""
Told = int | PluginError


def apis(names: Sequence[str]) -> dict[str, Told]:
    """Return the API version of each plugin by name, or the error that prevents its use."""
    found: dict[str, Told] = {}
    while left := [name for name in names if name not in found]:
        found |= _import_until_failure(left)
    return found


def _import_until_failure(names: Sequence[str]) -> dict[str, Told]:
    """Import plugins one by one in a subprocess, up to the first that ends it or times out."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", "zoo.catalogue.isolated_import", *names]
    found: dict[str, Told] = {}
    lines: SimpleQueue[str | None] = SimpleQueue()
    with subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        threading.Thread(target=_enqueue_lines, args=(process.stdout, lines), daemon=True).start()
        try:
            for name in names:
                line = lines.get(timeout=LIMIT)
                if line is None:
                    exit_code = process.wait(LIMIT)
                    return found | {name: _failure(name, f"its import ends the process with exit code {exit_code}")}
                found[name] = _result(**json.loads(line))
        except Empty:
            return found | {name: _failure(name, f"its import takes more than {LIMIT:g} seconds")}
        finally:
            process.kill()
    return found


def _enqueue_lines(source: Iterable[str], lines: SimpleQueue[str | None]) -> None:
    for line in source:
        lines.put(line)
    lines.put(None)


def _result(api: int | None = None, what: str = "", fix: str = "") -> Told:
    return PluginError(what, fix=fix) if api is None else api


def _failure(name: str, problem: str) -> PluginError:
    plugin = plugins.installed()[name]
    return PluginError(f"{plugin.label}: {problem}", fix=f"pip uninstall {plugin.distribution}")


def main(names: Sequence[str]) -> None:
    """Import each plugin and print its API version or its error as one line of JSON."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # keep anything a plugin prints out of the results
        for name in names:
            print(json.dumps(_try_load(name)), file=out, flush=True)
    os._exit(0)  # do not wait for threads that a plugin started


def _try_load(name: str) -> dict[str, Any]:
    try:
        return {"api": plugins.load(name).api}
    except PluginError as error:
        return {"what": error.what, "fix": error.fix}


if __name__ == "__main__":
    main(sys.argv[1:])
