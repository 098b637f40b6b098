"""`pytest --zoo-plugin acme`: the conformance kit as one test for each row and rule. Without the option it is idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zoo.testing.kit import Check


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("zoo", "plugins of zoo")
    group.addoption("--zoo-plugin", action="append", default=[], metavar="NAME", help="check an installed plugin")
    group.addoption("--zoo-meta", action="store_true", help="check on the meta device only: large nets cost nothing")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each rule and row of the plugins that were asked for."""
    for name in config.getoption("zoo_plugin"):
        from zoo.testing.kit import checks

        for check in checks(name, run=not config.getoption("zoo_meta")):
            items.append(Conformance.from_parent(session, name=f"{check.where}: {check.rule}", check=check))


class Conformance(pytest.Item):
    """A rule of the contract, for a row."""

    def __init__(self, *, check: Check, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]  # pytest's own
        self.check: Callable[[], None] = check.hold

    def runtest(self) -> None:
        """Check the rule."""
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """Return what is broken and its fix, without a traceback where the kit explains it."""
        from zoo.errors import ZooError
        from zoo.testing.rules import Broken

        explained = isinstance(excinfo.value.__cause__, ZooError | Broken)
        if isinstance(excinfo.value, ZooError) and explained:
            return f"{excinfo.value.what}\nfix: {excinfo.value.fix}"
        return str(super().repr_failure(excinfo))
