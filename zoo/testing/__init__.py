"""Conformance tests for plugin authors: call `check_plugin("acme")` in the plugin's test suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.testing.kit import check_plugin, checks

__all__ = ["check_plugin", "checks"]


def __getattr__(name: str) -> Any:
    """Import the kit lazily (PEP 562): every start of pytest imports `zoo.testing.pytest_plugin`."""
    if name not in __all__:
        raise AttributeError(f"module 'zoo.testing' has no attribute {name!r}")
    from zoo.testing import kit

    return getattr(kit, name)
