"""Cases that repeat what others hold: every fourth runs in the fast suite, all in `make real`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest


def every_fourth(cases: Iterable[object]) -> list:
    """Return the cases as parameters, the others marked for `make real`."""
    return [pytest.param(case, marks=[pytest.mark.real] if i % 4 else []) for i, case in enumerate(cases)]
