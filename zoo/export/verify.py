"""Check an export: answer the same items with it in a fresh process without zoo, and compare."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.console import printable
from zoo.errors import ExportError
from zoo.export import formats
from zoo.export.quantize import Cost
from zoo.export.runner import IMPORTS, TEMPLATES
from zoo.export.source import Source, same_answer

TOLERANCE = 1e-4
"""Maximum difference of a probability, or of a number in units of its standard deviation."""
READERS = {"pipeline": "transformers.pipeline", "app": "app.py"}
LOOSER = "another format: --to onnx, torch-export or safetensors"


@dataclass(frozen=True, slots=True)
class Job:
    """What an export answers in a fresh process.

    items     JSON values that run.py takes
    pipeline  task of a transformers pipeline that answers the items of the numbers `short` too
    floats    folder of the float export of a quantised one, which answers in turn with it
    app       whether `answer` of app.py answers the first of them too
    """

    items: Sequence[Any]
    pipeline: str = ""
    short: Sequence[int] = ()
    floats: Path | None = None
    app: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of a check.

    items           number of items that were compared
    top1_equal      items whose likeliest label is the same; of numbers all within the tolerance
    max_difference  largest difference of a probability, or of a number in units of its standard deviation
    ms              milliseconds an item takes, one at a time
    libraries       versions of the libraries that answered
    cost            of a quantised export: what it costs against the float export, which the above is about
    """

    items: int
    top1_equal: int
    max_difference: float
    ms: float
    libraries: dict[str, str]
    cost: Cost | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what verified.json and --json hold."""
        found = {"items": self.items, "top1_equal": self.top1_equal, "max_difference": self.max_difference}
        return found | ({"int8": asdict(self.cost)} if self.cost else {})


def answers(folder: Path, form: str, job: Job) -> Any:
    """Return what an export answers in a fresh process: arrays by name, and the report of the process.

    Raises ExportError if the process fails.
    """
    import numpy as np

    work = folder / "verification"
    work.mkdir()
    libraries = {name.partition(".")[0] for name in IMPORTS[formats.inner(form)]} | {"transformers", form}
    written = {"items": list(job.items), "pipeline": job.pipeline, "short": list(job.short), "app": job.app}
    written |= {"float": job.floats and str(job.floats), "libraries": sorted(libraries)}
    written |= {"answers": str(work / "answers.npz"), "path": [os.path.abspath(path) for path in sys.path if path]}
    (work / "job.json").write_text(json.dumps(written), encoding="utf-8")
    (work / "verify.py").write_text((TEMPLATES / "verify.py.txt").read_text(encoding="utf-8"), encoding="utf-8")
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-I", "-B", str(work / "verify.py"), str(folder), str(work / "job.json")]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, check=False)
    if run.returncode:
        said = printable((run.stderr.strip() or "no message").splitlines()[-1], 300)
        raise ExportError(f"the {form} export does not run without zoo: {said}", fix=f"choose {LOOSER}")
    with np.load(work / "answers.npz") as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    shutil.rmtree(work)
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
            reader = READERS.get(name.partition(".")[0], "run.py")
            what = (
                f"the {form} export is not kept: {reader} answers {_shown(items[index])} with a difference of "
                f"{difference:.1e} (limit {TOLERANCE:.0e})"
            )
            raise ExportError(what, fix=f"choose {LOOSER}")
        largest = max(largest, difference)
        equal += name.startswith("run.") and same_answer(source, truth, answer)
    count = sum(name.startswith("run.") for name in order)
    return Verified(count, equal, largest, report["ms"]["run"], report["libraries"])


def _shown(item: Any) -> str:
    return printable(repr(Path(item).name) if isinstance(item, str) and os.sep in item else repr(item), 60)
