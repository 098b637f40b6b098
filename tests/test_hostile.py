"""Hostile inputs are refused in two lines, in bounded time and memory, and leave nothing behind."""

from __future__ import annotations

import pytest
from hostile import runner
from hostile.case import verdict

LIGHT = [(module, case) for module, case in runner.cases() if not case.heavy]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = runner.Runner(tmp_path_factory.mktemp("hostile"))
    yield server
    server.close()


@pytest.mark.parametrize(
    ("module", "case"),
    [
        pytest.param(module, case, id=f"{module.removeprefix('hostile.')}: {case.name}")
        for module, case in LIGHT[::4]  # tests/real/test_hostile.py runs all
    ],
)
def test_refused(server, tmp_path, module, case):
    result = server.run(module, case, tmp_path)
    assert not verdict(case, result), f"{verdict(case, result)}\n{result}"
