"""Run hostile cases in processes forked from one that has loaded zoo: a fraction of a second each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import hostile
from hostile.case import Case, Result

MODULES = sorted(
    f"hostile.{path.stem}"
    for path in Path(hostile.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "case", "runner")
)


def cases() -> list[tuple[str, Case]]:
    """Return all cases with the names of their modules."""
    found = [(module, case) for module in MODULES for case in import_module(module).CASES]
    names = [(module, case.name) for module, case in found]
    assert len(set(names)) == len(names), "two cases have one name"
    return found


class Runner:
    """A process that runs cases; `run` returns a case's result."""

    def __init__(self, home: Path) -> None:
        tests = Path(__file__).parents[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZOO_", "HF_"))}
        environment = {
            **kept,
            "PYTHONPATH": str(tests),
            "HOME": str(home),
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "RUST_BACKTRACE": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "hostile.case"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=home
        )

    def run(self, module: str, case: Case, folder: Path) -> Result:
        """Run one case in an empty folder, which becomes the working directory, ZOO_HOME is `store` in it."""
        assert self.process.stdin
        assert self.process.stdout
        work = folder / "case"
        work.mkdir(parents=True)
        print(
            json.dumps({"module": module, "name": case.name, "folder": str(work)}), file=self.process.stdin, flush=True
        )
        answer = json.loads(self.process.stdout.readline())
        assert "result" in answer, answer.get("failed")
        return Result(**answer["result"])

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
