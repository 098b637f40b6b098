"""The whole test suite of a plugin: the conformance kit, for every row of the catalogue."""

import pytest

from zoo import registry
from zoo.testing import check_plugin


@pytest.mark.parametrize("name", [entry.name for entry in registry.search(plugin="acme")])
def test_the_row_keeps_the_contract(name):
    check_plugin("acme", [name])


def test_the_catalogue_is_found():
    assert registry.find("mixer_nano").name == "acme/mixer_nano"
