"""Benchmark catalogue commands without and with twenty extra plugins: five broken, one of 100,000 rows."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from timing import alternate, table

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import crowd

ZOO = str(Path(sys.executable).with_name("zoo"))


def zoo(*words: str, path: str = "") -> Callable[[], object]:
    environ = {**os.environ, "PYTHONPATH": path}
    return lambda: subprocess.run([ZOO, *words], env=environ, check=True, capture_output=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as site:
        crowd.crowd(Path(site))
        for words in (("list",), ("list", "resnet50"), ("info", "native/resnet50.tv_in1k")):
            name = f"zoo {' '.join(words)}"
            table(alternate({name: zoo(*words), f"{name}, crowded": zoo(*words, path=site)}, 9), name)
