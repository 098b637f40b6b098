"""Worker of test_distributed: fine-tune a model in each process; rank 0 prints the results as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys

import pictures
import torch
import words

import zoo
from zoo.console import quiet


def main(name: str, out: str, settings: str) -> None:
    torch.set_num_threads(1)
    options = json.loads(settings)
    stop = options.pop("stop", 0)
    data = words.reviews(24) if options.pop("texts", False) else pictures.pairs(9)
    with quiet():
        model = zoo.load(name, "cpu")
        if stop:
            calls = [stop]

            def count(*_: object) -> None:
                calls[0] -= 1
                if calls[0] == 0:
                    os.kill(os.getpid(), signal.SIGTERM)

            model.backbone.module.register_forward_hook(count)
        try:
            model.finetune(data, out=out, **options)
        except KeyboardInterrupt:
            return
    if os.environ.get("RANK", "0") == "0":
        found = {"history": model.history, "metrics": model.metrics, "tested": model.tested}
        print(json.dumps(found | {"embedded": model.embed([data[0][0]]).tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
