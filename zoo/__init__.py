"""One way to turn any pretrained backbone into a model for your small data set."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.errors import ZooError
    from zoo.finetune.recipe import Recipe
    from zoo.loading import load
    from zoo.model import Model
    from zoo.registry import find as info
    from zoo.registry import search as list
    from zoo.tasks import Prediction

__version__ = "0.1.0"
__all__ = ["Model", "Prediction", "Recipe", "ZooError", "info", "list", "load", "pull"]

_HOMES = {
    "Model": ("zoo.model", "Model"),
    "Prediction": ("zoo.tasks", "Prediction"),
    "Recipe": ("zoo.finetune.recipe", "Recipe"),
    "ZooError": ("zoo.errors", "ZooError"),
    "info": ("zoo.registry", "find"),
    "list": ("zoo.registry", "search"),
    "load": ("zoo.loading", "load"),
}


def pull(name: str) -> dict[str, Path]:
    """Fetch and verify the weights of a catalogue name; returns the local files by their path in the source."""
    from zoo import registry, store

    return store.pull(registry.complete(registry.find(name)))


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that `import zoo` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value
