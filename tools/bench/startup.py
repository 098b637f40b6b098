"""Benchmark the process time of catalogue commands against importing click."""

from __future__ import annotations

import sys
from pathlib import Path

from timing import alternate, process, table

from zoo.catalogue import registry

ROUNDS = 15
ZOO = str(Path(sys.executable).with_name("zoo"))

if __name__ == "__main__":
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import click": [sys.executable, "-c", "import click"],
        "zoo --help": [ZOO, "--help"],
        "zoo list": [ZOO, "list"],
        "zoo list PATTERN": [ZOO, "list", "resnet50"],
        "zoo list --json": [ZOO, "list", "--json"],
        "zoo info": [ZOO, "info", "native/resnet50.tv_in1k"],
    }
    print(f"{len(registry.rows())} rows in the catalogue")
    table(alternate({name: process(command) for name, command in commands.items()}, ROUNDS), "import click")
