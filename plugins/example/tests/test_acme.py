"""The whole test suite of a plugin: the conformance kit, for every row of the catalogue."""

import pytest

import zoo
from zoo.testing import check_plugin


@pytest.mark.parametrize("name", [entry.name for entry in zoo.list(plugin="acme")])
def test_the_row_keeps_the_contract(name):
    check_plugin("acme", [name])


def test_the_catalogue_is_found():
    assert zoo.info("mixer_nano").name == "acme/mixer_nano"
