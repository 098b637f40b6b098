"""Rules that need a process of their own: what importing a plugin does, and whether it needs the other plugins."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from zoo.catalogue import plugins
from zoo.testing.rules import Broken

SECONDS = 20.0
"""What an import may take beyond that of torch, with a slow disk and a cold cache."""
LIMIT = 300.0
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


def imports(plugin: plugins.Installed, row: str) -> None:
    """Importing the plugin prints nothing and takes at most SECONDS beyond torch."""
    done = _python(IMPORT.format(module=plugin.target.partition(":")[0]))
    if done.returncode:
        raise Broken(f"cannot be imported: {_last(done.stderr)}", "mend the import")
    if done.stdout:
        raise Broken(f"prints at import: {done.stdout[:80]!r}", "print nothing at import: use the logging library")
    seconds = json.loads(_last(done.stderr))["seconds"]
    if seconds > SECONDS:
        fix = "import heavy libraries inside build, and do no work at import"
        raise Broken(f"takes {seconds:.0f} seconds to import, more than {SECONDS:g}", fix)


def builds(plugin: plugins.Installed, row: str) -> None:
    """A row is built in a process where the packages of all other plugins are missing."""
    mine = _package(plugin)
    others = {_package(other) for other in plugins.installed().values()} - {mine}
    done = _python(BUILD.format(others=others, plugin=plugin.name, row=row))
    if done.returncode:
        fix = "import no other plugin: name what you need of it as a dependency of your own"
        raise Broken(f"{row} is not built without the other plugins: {_last(done.stderr)}", fix)


def _package(plugin: plugins.Installed) -> str:
    return plugin.target.partition(":")[0].partition(".")[0]


def _python(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(part or "." for part in sys.path)
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1]
