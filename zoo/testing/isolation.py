"""Conformance rules that run in a subprocess: import output, import time and independence of other plugins."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from zoo.catalogue import isolated_import
from zoo.catalogue.discovery import Installed, installed
from zoo.testing.rules import Broken

SECONDS = 20.0
"""Maximum import time in addition to torch; generous, for slow disks and cold caches."""
TIMEOUT = 300.0
"""Timeout of a subprocess in seconds."""
IMPORT = """
import json, sys, time, torch
from importlib import import_module
start = time.perf_counter()
import_module({module!r})
print(json.dumps({{"seconds": time.perf_counter() - start}}), file=sys.stderr)
"""
BUILD = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {others!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import torch
from zoo.catalogue import plugins, registry
plugin, entry = plugins.load({plugin!r}), registry.find({row!r})
with torch.device("meta"):
    plugin.build(entry, {{}})
"""


def imports(plugin: Installed, row: str) -> None:
    """Importing the plugin prints nothing and takes at most SECONDS beyond torch."""
    result = _run_python(IMPORT.format(module=plugin.target.partition(":")[0]))
    if result.returncode:
        raise Broken(f"cannot be imported: {_last_line(result.stderr)}", "fix the import error")
    if result.stdout:
        raise Broken(f"prints at import: {result.stdout[:80]!r}", "print nothing at import: use the logging library")
    seconds = json.loads(_last_line(result.stderr))["seconds"]
    if seconds > SECONDS:
        fix = "import heavy libraries inside build, and run no code at import"
        raise Broken(f"takes {seconds:.0f} seconds to import, more than {SECONDS:g}", fix)


def builds(plugin: Installed, row: str) -> None:
    """A row can be built if the packages of all other plugins cannot be imported."""
    mine = _package(plugin)
    others = {_package(other) for other in installed().values()} - {mine}
    result = _run_python(BUILD.format(others=others, plugin=plugin.name, row=row))
    if result.returncode:
        fix = "do not import other plugins: declare their dependencies as your own"
        raise Broken(f"{row} cannot be built without the other plugins: {_last_line(result.stderr)}", fix)


def _package(plugin: Installed) -> str:
    return plugin.target.partition(":")[0].partition(".")[0]


def _run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a subprocess. Raises Broken if it does not end in time."""
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with (
            out.open("wb") as first,
            err.open("wb") as second,
            isolated_import.python(["-c", code], first, second) as run,
        ):
            try:
                run.wait(TIMEOUT)
            except subprocess.TimeoutExpired as error:
                fix = "run no endless code at import or in build"
                raise Broken(f"has not finished after {TIMEOUT:g} seconds in a process of its own", fix) from error
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
        return subprocess.CompletedProcess(code, run.returncode, *texts)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
