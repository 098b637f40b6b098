"""The conformance kit for plugin authors: `check_plugin("acme")` in a plugin's own tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.testing.kit import check_plugin, checks

__all__ = ["check_plugin", "checks"]


def __getattr__(name: str) -> Any:
    """Import the kit when it is first used (PEP 562): pytest loads `zoo.testing.pytest_plugin` at every start."""
    if name not in __all__:
        raise AttributeError(f"module 'zoo.testing' has no attribute {name!r}")
    from zoo.testing import kit

    return getattr(kit, name)
