"""The subprocess of zoo.catalogue.isolated_import: python -m zoo.catalogue.import_child NAME..."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from zoo.catalogue import plugins
from zoo.errors import PluginError


def main(names: Sequence[str]) -> None:
    """Import each plugin and print its API version or its error as one line of JSON."""
    out = os.dup(1)
    os.dup2(2, 1)  # keep anything a plugin prints out of the results
    try:
        for name in names:
            os.write(out, f"{json.dumps(_try_load(name))}\n".encode())
    except OSError:  # a plugin has closed it
        os._exit(1)
    os._exit(0)  # do not wait for threads that a plugin started


def _try_load(name: str) -> dict[str, Any]:
    try:
        return {"api": plugins.load(name).api}
    except PluginError as error:
        return {"what": error.what, "fix": error.fix}


if __name__ == "__main__":
    main(sys.argv[1:])
