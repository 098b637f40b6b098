"""Conformance tests for every row of the catalogue."""

import pytest

import zoo
from zoo.testing import check_plugin


@pytest.mark.parametrize("name", [entry.name for entry in zoo.list(plugin="acme")])
def test_row_conforms(name):
    check_plugin("acme", [name])


def test_catalogue_is_found():
    assert zoo.info("mixer_nano").name == "acme/mixer_nano"
