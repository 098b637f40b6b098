"""All hostile cases, those that take long or would take much memory included."""

from __future__ import annotations

import pytest
from hostile import runner
from hostile.case import verdict

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = runner.Runner(tmp_path_factory.mktemp("hostile"))
    yield server
    server.close()


def test_every_case_is_refused(server, tmp_path):
    wrong, seconds, peak = {}, 0.0, 0
    for number, (module, case) in enumerate(runner.cases()):
        result = server.run(module, case, tmp_path / str(number))
        seconds, peak = max(seconds, result.seconds), max(peak, result.peak)
        if found := verdict(case, result):
            wrong[f"{module}: {case.name}"] = found
    print(f"{number + 1} cases, at most {seconds:.1f} s and {peak / 1e6:,.0f} MB each")
    assert not wrong
