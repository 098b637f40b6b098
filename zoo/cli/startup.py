"""Start-up of the commands that load a model."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.model.model import Model


def load(name: str | Path, device: str) -> Model:
    """Load a model as `zoo.load` does, without garbage collection."""
    with without_gc():
        from zoo.model.load import load

        return load(name, device)


@contextmanager
def without_gc() -> Iterator[None]:
    """Disable cyclic garbage collection while torch, its libraries and a model are loaded.

    They create a million objects that live until the process ends: collections during the imports, and the last one at
    exit, take a third of the time of `zoo predict`. If torch is first imported in the block, objects alive at its end
    are exempt from later collections (gc.freeze).
    """
    is_first, before = "torch" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_first:
            gc.freeze()
        if before:
            gc.enable()
