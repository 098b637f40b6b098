"""Worker of test_distributed: fine-tune models one after the other in each process; rank 0 prints the results."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pictures
import torch
import words

import zoo
from zoo.console import quiet
from zoo.errors import ZooError


def finetune(name: str | Path, out: str | Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune a model and return its results; {} if it was stopped in forward pass number `stop`.

    In the second process, unless it is started again, the pass number `die` is its last.
    """
    options = dict(settings)
    stop, die = options.pop("stop", 0), options.pop("die", 0)
    if (os.environ.get("RANK"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) != ("1", "0"):
        die = 0
    known = words.reviews(24) if options.pop("texts", False) else pictures.pairs(9)
    data = options.pop("folder", known)
    with quiet():
        model = zoo.load(name, "cpu")
        if stop or die:
            calls = [stop or die]

            def count(*_: object) -> None:
                calls[0] -= 1
                if calls[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL if die else signal.SIGTERM)

            model.backbone.module.register_forward_hook(count)
        try:
            model.finetune(data, out=out, **options)
        except KeyboardInterrupt:
            return {}
        except ZooError as error:
            return {"error": str(error)}
    found = {"history": model.history, "metrics": model.metrics, "tested": model.tested}
    return found | {"embedded": model.embed([known[0][0]]).tolist()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = [finetune(*run) for run in json.loads(sys.argv[1])]
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(results))
