"""Pytest plugin: `pytest --zoo-plugin acme` runs the conformance kit as one test per row and rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zoo.testing.kit import Check


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --zoo-plugin and --zoo-meta."""
    group = parser.getgroup("zoo", "plugins of zoo")
    group.addoption("--zoo-plugin", action="append", default=[], metavar="NAME", help="check an installed zoo plugin")
    group.addoption("--zoo-meta", action="store_true", help="check on the meta device only")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test per row and rule of the plugins named by --zoo-plugin."""
    for name in config.getoption("zoo_plugin"):
        from zoo.testing.kit import checks

        for check in checks(name, run=not config.getoption("zoo_meta")):
            items.append(Conformance.from_parent(session, name=f"{check.where}: {check.rule}", check=check))


class Conformance(pytest.Item):
    """A test of one rule for one row."""

    def __init__(self, *, check: Check, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]  # pytest's arguments
        self.check: Callable[[], None] = check.hold

    def runtest(self) -> None:
        """Check the rule."""
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """Return the problem and its fix, without a traceback if the kit raised the error."""
        from zoo.errors import ZooError
        from zoo.testing.rules import Broken

        explained = isinstance(excinfo.value.__cause__, ZooError | Broken)
        if isinstance(excinfo.value, ZooError) and explained:
            return f"{excinfo.value.what}\nfix: {excinfo.value.fix}"
        return str(super().repr_failure(excinfo))
