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
