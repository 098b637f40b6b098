"""Exception hierarchy: every user-facing error is a ZooError with a description and a fix.

ZooError
├── NameNotFound      unknown or ambiguous backbone name
├── CatalogueError    invalid registry.toml, zoo.toml or plugin catalogue
├── PluginError       plugin missing, broken or violating the plugin API
├── StoreError        download failed, or the size or hash does not match
├── WeightsError      not a safetensors file, or keys or shapes do not match the model
├── DataError         dataset cannot be read, parsed or split
├── RecipeError       invalid or conflicting fine-tuning settings
├── ArtefactError     saved model folder cannot be written or read
└── ExportError       another format cannot express a model, or answers differently
"""

from __future__ import annotations

import re

CREDENTIALS = re.compile(r"(https?://)[^\s/?#]*@", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Remove user names and passwords from the URLs in a text."""
    return CREDENTIALS.sub(r"\1", text)


class ZooError(Exception):
    """Base class: `what` describes the failure and quotes the value received, `fix` is a command or an edit.

    Neither shows the credentials in a URL.
    """

    def __init__(self, what: str, *, fix: str) -> None:
        self.what = without_credentials(what)
        self.fix = without_credentials(fix)
        super().__init__(self.what)

    def __str__(self) -> str:
        return f"{self.what}\nfix: {self.fix}"


class NameNotFound(ZooError):
    """A backbone name is unknown or ambiguous."""


class CatalogueError(ZooError):
    """A registry.toml, zoo.toml or plugin catalogue is invalid."""


class PluginError(ZooError):
    """A plugin is missing, broken or violates the plugin API."""


class StoreError(ZooError):
    """A download failed, or the size or hash of a file does not match."""


class WeightsError(ZooError):
    """A weight file is not safetensors, or its keys or shapes do not match the model."""


class DataError(ZooError):
    """A dataset cannot be read, parsed or split."""


class RecipeError(ZooError):
    """Fine-tuning settings are invalid or conflict."""


class ArtefactError(ZooError):
    """A saved model folder cannot be written or read."""


class ExportError(ZooError):
    """A model cannot be expressed in another format, or answers differently there."""
