"""One way to turn any pretrained backbone into a model for your small data set."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.catalogue.registry import find as info
    from zoo.catalogue.registry import pull
    from zoo.catalogue.search import search as list
    from zoo.errors import ZooError
    from zoo.evidence.compare import compare
    from zoo.evidence.ranking import rank
    from zoo.evidence.report.report import report
    from zoo.finetune.callbacks import Callback
    from zoo.finetune.recipe import Recipe
    from zoo.model.load import load
    from zoo.model.model import Model
    from zoo.tasks import Prediction

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Model",
    "Prediction",
    "Recipe",
    "ZooError",
    "compare",
    "info",
    "list",
    "load",
    "pull",
    "rank",
    "report",
]

_HOMES = {
    "Callback": ("zoo.finetune.callbacks", "Callback"),
    "Model": ("zoo.model.model", "Model"),
    "Prediction": ("zoo.tasks", "Prediction"),
    "Recipe": ("zoo.finetune.recipe", "Recipe"),
    "ZooError": ("zoo.errors", "ZooError"),
    "compare": ("zoo.evidence.compare", "compare"),
    "info": ("zoo.catalogue.registry", "find"),
    "list": ("zoo.catalogue.search", "search"),
    "load": ("zoo.model.load", "load"),
    "pull": ("zoo.catalogue.registry", "pull"),
    "rank": ("zoo.evidence.ranking", "rank"),
    "report": ("zoo.evidence.report.report", "report"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that `import zoo` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value
