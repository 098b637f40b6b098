"""Call the function of a job: in one thread an operation, quietly, with every failure as an answer."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.console import quiet
from zoo.errors import ZooError
from zoo.jobs.job import Answer


def call(function: str, arguments: Mapping[str, Any], shared: Mapping[str, Any]) -> Answer:
    """Return the answer of function(**shared, **arguments).

    PyTorch has one thread, wherever the job runs: the bits of a result do not depend on the number of workers.
    """
    import torch

    start, threads = time.monotonic(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quiet():
            module, _, name = function.partition(":")
            value = getattr(import_module(module), name)(**shared, **arguments)
            value = json.loads(json.dumps(value))  # as it is read from its file
        return Answer(value, seconds=time.monotonic() - start)
    except ZooError as error:
        return Answer(error=error.what, fix=error.fix, seconds=time.monotonic() - start)
    except Exception as error:  # noqa: BLE001  # whatever it is, it costs this job alone
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        return Answer(error=what, fix="zoo doctor   (shows versions, for a report)", seconds=time.monotonic() - start)
    finally:
        torch.set_num_threads(threads)
