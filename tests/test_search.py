"""Search of the registry: patterns and filters."""

from __future__ import annotations

import pytest
from conftest import ROW

import zoo


@pytest.fixture
def searched(isolated):
    (isolated / "zoo.toml").write_text(
        f'["mine/Small.v1"]{ROW}params = 1000\nlicense = "MIT"\ntasks = ["classify"]\n'
        + f'["mine/large.v1"]{ROW}params = 9000\nplugin = "native"\naliases = ["huge"]\n'
        + '["mine/words"]\nmodality = "text"\ninput = { files = [], max_length = 9 }'
    )  # fmt: skip
    return lambda *args, **kw: [entry.name for entry in zoo.list(*args, **kw) if entry.name.startswith("mine/")]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("small", ["mine/Small.v1"]),
        ("HUGE", ["mine/large.v1"]),
        ("*.v1", ["mine/Small.v1", "mine/large.v1"]),
        ("small*", ["mine/Small.v1"]),
        ("mine/[lw]*", ["mine/large.v1", "mine/words"]),
        ("nothing like it", []),
    ],
)
def test_a_search_pattern_is_a_substring_or_a_glob(searched, pattern, names):
    assert searched(pattern) == names


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"plugin": "native"}, ["mine/large.v1"]),
        ({"modality": "text"}, ["mine/words"]),
        ({"task": "classify"}, ["mine/Small.v1"]),
        ({"max_params": 1000}, ["mine/Small.v1", "mine/words"]),  # a row without params comes last
        ({"license": "mit"}, ["mine/Small.v1"]),
    ],
)
def test_search_filters_by_each_field(searched, filters, names):
    assert searched(**filters) == names
