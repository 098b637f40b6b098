"""The error tree: every error a user can meet is a ZooError with what happened and how to go on.

ZooError
├── NameNotFound      a backbone name that is unknown or fits several
├── CatalogueError    a registry.toml, zoo.toml or plugin catalogue that cannot be read
├── PluginError       a plugin that is missing, broken or breaks the contract
├── StoreError        weights that cannot be fetched, or arrive with the wrong bytes
├── WeightsError      a weight file that is no safetensors file or does not fit its net
├── DataError         examples that cannot be read, split or understood
├── RecipeError       fine-tuning settings that make no sense together
└── ArtefactError     a saved model folder that cannot be written or read
"""

from __future__ import annotations


class ZooError(Exception):
    """Say what happened (`what`, quoting the value received) and how to go on (`fix`, a command or edit)."""

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}\nfix: {self.fix}"


class NameNotFound(ZooError):
    """A backbone name is unknown or fits several."""


class CatalogueError(ZooError):
    """A registry.toml, zoo.toml or plugin catalogue cannot be read."""


class PluginError(ZooError):
    """A plugin is missing, broken or breaks the contract."""


class StoreError(ZooError):
    """Weights cannot be fetched, or arrive with the wrong bytes."""


class WeightsError(ZooError):
    """A weight file is no safetensors file or does not fit its net."""


class DataError(ZooError):
    """Examples cannot be read, split or understood."""


class RecipeError(ZooError):
    """Fine-tuning settings make no sense, alone or together."""


class ArtefactError(ZooError):
    """A saved model folder cannot be written or read."""
