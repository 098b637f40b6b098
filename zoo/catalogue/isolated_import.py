"""Import plugins in a process of their own: one that hangs, crashes or prints does so there, and is found broken."""

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
"""Seconds that an import may take; torch's own is a part of the first."""
Told = int | PluginError


def apis(names: Sequence[str]) -> dict[str, Told]:
    """Return, by plugin, the number of the contract it is written for, or why it cannot be used."""
    found: dict[str, Told] = {}
    while left := [name for name in names if name not in found]:
        found |= _some(left)
    return found


def _some(names: Sequence[str]) -> dict[str, Told]:
    """Import plugins one after the other, up to the first that does not come back."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", "zoo.catalogue.isolated_import", *names]
    found: dict[str, Told] = {}
    lines: SimpleQueue[str | None] = SimpleQueue()
    with subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        threading.Thread(target=_listen, args=(process.stdout, lines), daemon=True).start()
        try:
            for name in names:
                line = lines.get(timeout=LIMIT)
                if line is None:
                    return found | {name: _lost(name, f"its import ends the process, with {process.wait(LIMIT)}")}
                found[name] = _told(**json.loads(line))
        except Empty:
            return found | {name: _lost(name, f"its import takes more than {LIMIT:g} seconds")}
        finally:
            process.kill()
    return found


def _listen(source: Iterable[str], lines: SimpleQueue[str | None]) -> None:
    for line in source:
        lines.put(line)
    lines.put(None)


def _told(api: int | None = None, what: str = "", fix: str = "") -> Told:
    return PluginError(what, fix=fix) if api is None else api


def _lost(name: str, problem: str) -> PluginError:
    plugin = plugins.installed()[name]
    return PluginError(f"{plugin.label}: {problem}", fix=f"pip uninstall {plugin.distribution}")


def main(names: Sequence[str]) -> None:
    """Say of each plugin, on a line of its own, what became of its import."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # whatever a plugin writes, and whenever, is no answer
        for name in names:
            print(json.dumps(_look(name)), file=out, flush=True)
    os._exit(0)  # without waiting for what a plugin has started


def _look(name: str) -> dict[str, Any]:
    try:
        return {"api": plugins.load(name).api}
    except PluginError as error:
        return {"what": error.what, "fix": error.fix}


if __name__ == "__main__":
    main(sys.argv[1:])
