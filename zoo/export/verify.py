"""Check an export: answer the same items with it in a fresh process without zoo, and compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.console import printable
from zoo.errors import ExportError
from zoo.export.runner import IMPORTS, TEMPLATES
from zoo.export.source import Source

TOLERANCE = 1e-4
"""Maximum difference of a probability, or of a number in units of its standard deviation."""
LOOSER = "another format: --to onnx, torch-export or safetensors"


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of a check.

    items           number of items that were compared
    top1_equal      items whose likeliest label is the same; of numbers all within the tolerance
    max_difference  largest difference of a probability, or of a number in units of its standard deviation
    ms              milliseconds an item takes, one at a time
    libraries       versions of the libraries that answered
    """

    items: int
    top1_equal: int
    max_difference: float
    ms: float
    libraries: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return what verified.json and --json hold."""
        return {"items": self.items, "top1_equal": self.top1_equal, "max_difference": self.max_difference}


def answers(folder: Path, items: Sequence[Any], form: str, pipeline: str = "", short: Sequence[Any] = ()) -> Any:
    """Return what an export answers in a fresh process: arrays by name, and the report of the process.

    `pipeline` is the task of a transformers pipeline that answers the `short` items too. Raises ExportError if the
    process fails.
    """
    import numpy as np

    work = folder / "verification"
    work.mkdir()
    job = {"items": list(items), "pipeline": pipeline, "short": list(short), "answers": str(work / "answers.npz")}
    job["libraries"] = sorted({name.partition(".")[0] for name in IMPORTS[form]} | {"transformers"})
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    (work / "verify.py").write_text((TEMPLATES / "verify.py.txt").read_text(encoding="utf-8"), encoding="utf-8")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-I", "-B", str(work / "verify.py"), str(folder), str(work / "job.json")]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, check=False)
    if run.returncode:
        said = printable((run.stderr.strip() or "no message").splitlines()[-1], 300)
        raise ExportError(f"the {form} export does not run without zoo: {said}", fix=f"choose {LOOSER}")
    with np.load(work / "answers.npz") as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    return found, json.loads(run.stdout.splitlines()[-1])


def verify(source: Source, form: str, expected: Sequence[Tensor], found: Any, items: Sequence[Any]) -> Verified:
    """Compare the answers of an export, alone and in a batch, with those of the network.

    Raises ExportError, which names the item and the difference, unless all are within TOLERANCE.
    """
    arrays, report = found
    order = {name: int(name.partition(".")[2]) for name in arrays}
    largest, equal = 0.0, 0
    for name, index in order.items():
        truth, answer = expected[index].double(), arrays[name].double()
        if truth.shape != answer.shape:
            what = f"{form}, {_shown(items[index])}: an answer of shape {tuple(answer.shape)}, not {tuple(truth.shape)}"
            raise ExportError(what, fix=f"choose {LOOSER}")
        difference = float(((truth - answer).abs() / source.unit[1]).max()) if truth.numel() else 0.0
        if not difference <= TOLERANCE:
            reader = "transformers.pipeline" if name.startswith("pipeline") else "run.py"
            what = (
                f"the {form} export is not kept: {reader} answers {_shown(items[index])} with a difference of "
                f"{difference:.1e} (limit {TOLERANCE:.0e})"
            )
            raise ExportError(what, fix=f"choose {LOOSER}")
        largest = max(largest, difference)
        equal += name.startswith("run.") and _same_answer(source, truth, answer)
    count = sum(name.startswith("run.") for name in order)
    return Verified(count, equal, largest, report["ms"], report["libraries"])


def _same_answer(source: Source, truth: Tensor, answer: Tensor) -> bool:
    """Return whether the decoded answer is the same: top label, labels above 1/2, tags of all words."""
    if source.activation == "sigmoid":
        return bool(((truth >= 0.5) == (answer >= 0.5)).all())
    if source.task.name == "regress":
        return True
    return bool((truth.argmax(-1) == answer.argmax(-1)).all())


def _shown(item: Any) -> str:
    return printable(repr(Path(item).name) if isinstance(item, str) and os.sep in item else repr(item), 60)
