"""Functions that tests run as jobs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from zoo.errors import DataError


def product(seed: int, size: int = 200) -> list[float]:
    """Return numbers whose last bits depend on the order of summation."""
    made = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return [float((made @ made).sum()), float(made.flatten().softmax(0).std())]


def threads() -> int:
    return torch.get_num_threads()


def add(number: int, shared: list[int]) -> int:
    return number + sum(shared)


def noisy(text: str) -> str:
    os.write(1, b"printed by a library\n")
    return text


def refuse(what: str) -> None:
    raise DataError(what, fix="another file")


def divide(number: int) -> float:
    return number / 0


def kill(folder: str) -> None:
    """Kill the process that runs this, and leave a trace."""
    (Path(folder) / f"{os.getpid()}.killed").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(marker: str) -> None:
    part = Path(f"{marker}.part")
    part.write_text(str(os.getpid()))
    part.rename(marker)
    time.sleep(60)
