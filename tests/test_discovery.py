"""Plugin discovery: entry points, lazy import, validation of the plugin API, and errors with a fix."""

from __future__ import annotations

import os
import sys

import pytest
from conftest import PLUGIN

from zoo import plugin as contract
from zoo.catalogue import discovery, plugins
from zoo.errors import PluginError


def test_a_plugin_is_discovered_without_import(distribution):
    folder = distribution("fake", catalogue="", name="Fake-Nets", version="2.1")
    found = discovery.installed()["fake"]
    assert (found.distribution, found.version) == ("Fake-Nets", "2.1")
    assert found.catalogue == folder / "catalogue.toml"
    assert found.problem is None
    assert folder.name not in sys.modules


def test_a_json_catalogue_is_discovered(distribution):
    folder = distribution("fake", catalogue="{}", file="catalogue.json")
    assert discovery.installed()["fake"].catalogue == folder / "catalogue.json"


def test_a_plugin_may_have_no_catalogue(distribution):
    distribution("fake")
    assert discovery.installed()["fake"].catalogue is None


def test_the_entry_points_equal_those_of_importlib_metadata():
    from importlib.metadata import entry_points

    theirs = {point.name: point.value for point in entry_points(group=discovery.GROUP)}
    assert {plugin.name: plugin.target for plugin in discovery.installed().values()} == theirs


def test_the_first_of_two_copies_of_a_distribution_is_used(distribution, tmp_path):
    folder = distribution("fake", name="fake", version="2.0")
    other = tmp_path / "later"
    info = other / "Fake-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(f"[zoo.plugins]\nfake = {folder.name}:plugin\n")
    sys.path.append(str(other))
    try:
        found = discovery.installed()["fake"]
    finally:
        sys.path.remove(str(other))
    assert (found.version, found.problem) == ("2.0", None)


def test_an_egg_info_distribution_is_discovered(distribution, tmp_path):
    folder = distribution("other")
    info = tmp_path / "egg" / "old_zoo.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Name: old-zoo\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(
        f"[console_scripts]\nfake = x:y\n\n[zoo.plugins]\nold = {folder.name}:plugin\n"
    )
    sys.path.append(str(info.parent))
    try:
        found = discovery.installed()["old"]
    finally:
        sys.path.remove(str(info.parent))
    assert (found.distribution, found.version) == ("old-zoo", "0.3")


def test_other_groups_comments_and_extras_are_ignored(distribution):
    folder = distribution("fake")
    points = next(folder.parent.glob("*.dist-info")) / "entry_points.txt"
    points.write_text(f"[a]\nb = c:d\n[zoo.plugins]\n# x = y\n\nfake = {folder.name} : plugin [extra]\n[z]\nq = r:s\n")
    assert discovery.installed()["fake"].target == f"{folder.name}:plugin"
    assert not {"b", "x", "q"} & set(discovery.installed())


def test_load_returns_the_plugin_and_imports_it_once(distribution):
    folder = distribution("fake")
    assert plugins.load("fake") is plugins.load("fake") is sys.modules[folder.name].plugin


def test_a_module_may_be_the_plugin(distribution):
    methods = ("build(entry, files)", "adapt(entry, state, files)", "resolve(name, look)")
    code = "api = 1\n" + "".join(f"def {method}: ...\n" for method in (*methods, "classifier(entry, state, files)"))
    folder = distribution("fake", code, attribute="")
    assert plugins.load("fake") is sys.modules[folder.name]


def test_output_of_a_plugin_at_import_goes_to_stderr(distribution, capsys):
    distribution("fake", "print('welcome')\n" + PLUGIN)
    plugins.load("fake")
    assert capsys.readouterr() == ("", "welcome\n")


def test_an_unknown_plugin_raises_with_the_installed_ones(distribution):
    distribution("fake")
    with pytest.raises(PluginError, match=r"no plugin 'fak' is installed; installed: .*fake") as caught:
        plugins.load("fak")
    assert caught.value.fix.startswith("zoo plugins")


def test_a_plugin_name_registered_by_two_distributions_raises(distribution):
    distribution("fake", name="one", version="1.0")
    distribution("fake", name="two", version="2.0")
    found = discovery.installed()["fake"]
    assert "registered by two distributions" in (found.problem or "")
    with pytest.raises(PluginError, match=r"(one 1.0 and two 2.0|two 2.0 and one 1.0)") as caught:
        plugins.load("fake")
    assert "pip uninstall" in caught.value.fix


def test_a_plugin_whose_package_is_missing_raises(distribution):
    folder = distribution("fake", name="fake-nets")
    (folder / "__init__.py").unlink()
    folder.rmdir()
    with pytest.raises(PluginError, match=f"its package '{folder.name}' is not installed") as caught:
        plugins.load("fake")
    assert caught.value.fix == "pip install --force-reinstall fake-nets"


@pytest.mark.parametrize("name", ["native", "timm", "hf", "NATIVE"])
def test_a_first_party_name_is_reserved(distribution, name):
    distribution(name, catalogue=f'["{name}/x"]', name="other-nets")
    found = discovery.installed()
    assert found["native"].distribution == found["timm"].distribution == "backbone-zoo"
    assert found["native"].problem is None
    assert f"the name '{name}' is reserved" in (found[f"{name} (other_nets)"].problem or "")
    assert found[f"{name} (other_nets)"].catalogue is None
    assert plugins.load("native").api == 1
    with pytest.raises(PluginError, match="reserved for the plugin of backbone-zoo") as caught:
        plugins.load(f"{name} (other_nets)")
    assert caught.value.fix.startswith("pip uninstall other-nets")


def test_metadata_that_claims_to_be_backbone_zoo_does_not_own_its_names(distribution):
    folder = distribution("native", name="other-nets")
    info = next(folder.parent.glob("*.dist-info"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: backbone-zoo\nVersion: 9.0\n")
    assert discovery.installed()["native"].target == "zoo_native:plugin"


ENTRY_POINTS = {
    "a Cyrillic letter": ("n\u0430tive = {}:plugin", "it has the letter U+0430 (cyrillic small letter a)"),
    "a NUL": ("b\0d = {}:plugin", "its name is not up to 255 ASCII letters"),
    "a long name": ("b" * 256 + " = {}:plugin", "its name is not up to 255 ASCII letters"),
    "a target with a NUL": ("bad = {}\0:plugin", "its entry point is not of the form module:object"),
    "a relative target": ("bad = ..{}:plugin", "its entry point is not of the form module:object"),
    "code as target": ("bad = {}:system('x')", "its entry point is not of the form module:object"),
}


@pytest.mark.parametrize("case", ENTRY_POINTS)
def test_an_invalid_entry_point_is_a_problem_of_its_plugin(distribution, case):
    line, problem = ENTRY_POINTS[case]
    folder = distribution("fake", catalogue="")
    points = next(folder.parent.glob("*.dist-info")) / "entry_points.txt"
    points.write_text(f"[zoo.plugins]\n{line.format(folder.name)}\n")
    (found,) = (plugin for plugin in discovery.installed().values() if plugin.distribution.startswith("fake"))
    assert problem in (found.problem or "")
    assert found.catalogue is None
    with pytest.raises(PluginError, match=r"its (name|entry point) is not"):
        plugins.load(found.name)


def test_a_name_in_metadata_cannot_hold_a_command(distribution):
    folder = distribution("fake", name="fake-nets")
    info = next(folder.parent.glob("*.dist-info"))
    (info / "METADATA").write_text("Name: x;rm${IFS}-rf\nVersion: 1\x1b[31m\n\n")
    found = discovery.installed()["fake"]
    assert (found.distribution, found.version) == ("fake_nets", "1.0")


@pytest.mark.parametrize("kind", ["pipe", "zero", "large"])
def test_entry_points_are_read_from_small_regular_files_only(distribution, kind):
    folder = distribution("fake")
    points = next(folder.parent.glob("*.dist-info")) / "entry_points.txt"
    points.unlink()
    if kind == "large":
        points.write_text("[zoo.plugins]\n" + "x = y:z\n" * 20_000)
    else:
        os.mkfifo(points) if kind == "pipe" else points.symlink_to("/dev/zero")
    assert not {"fake", "x"} & set(discovery.installed())


BROKEN = {
    "raises at import": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero", "pip install --force-rei"),
    "exits at import": (
        "import sys; sys.exit(3)",
        "cannot be imported: SystemExit: 3",
        "pip install --force-reinstall",
    ),
    "syntax error": ("def", "cannot be imported: SyntaxError", "pip install --force-reinstall"),
    "missing library": (
        "import no_such_library.part",
        "No module named 'no_such_library'",
        "pip install no_such_library",
    ),
    "no such object": ("other = 1", "has no attribute 'plugin'", "define plugin in fake_plugin_"),
    "a class": (PLUGIN.replace("plugin = Fake()", "plugin = Fake"), "is a class", "plugin = Fake()"),
    "no api": (PLUGIN.replace("api = 1", "x = 1"), "api is None", "api = 1"),
    "api of a wrong type": (PLUGIN.replace("api = 1", "api = '1'"), "api is '1'", "api = 1"),
    "newer API": (PLUGIN.replace("api = 1", "api = 2"), "written for plugin API 2", "--upgrade backbone-zoo"),
    "no build": (PLUGIN.replace("def build", "def make"), "has no method build(entry, files)", "define build(entry, f"),
    "build with too few arguments": (
        PLUGIN.replace("entry, files", "entry"),
        "build(entry) cannot be called as build(entry, files)",
        "define build(entry, files)",
    ),
    "no adapt": (
        PLUGIN.replace("(Plugin)", ""),
        "has no method adapt(entry, state, files)",
        "inherit from zoo.plugin.Plugin, or define adapt(entry, state, files)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_raises_with_the_rule_and_a_fix(distribution, case):
    code, what, fix = BROKEN[case]
    folder = distribution("fake", code, name="fake-nets")
    with pytest.raises(PluginError) as caught:
        plugins.load("fake")
    assert what in caught.value.what
    assert caught.value.what.startswith(f"plugin 'fake' (fake-nets 1.0, {folder.name}:plugin): ")
    assert fix in caught.value.fix


def test_an_older_plugin_loads_unless_the_api_changed_incompatibly(distribution, monkeypatch):
    distribution("fake", PLUGIN, name="fake-nets")
    monkeypatch.setattr(contract, "API", 3)
    assert plugins.load("fake").api == 1
    plugins._load.cache_clear()
    monkeypatch.setattr(contract, "CHANGES", {3: "return Features from forward"})
    with pytest.raises(PluginError, match="is written for plugin API 1, this zoo has plugin API 3") as caught:
        plugins.load("fake")
    assert caught.value.fix == "upgrade the plugin, or as its author: return Features from forward; then set api = 3"
