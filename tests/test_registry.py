"""Registry: merged catalogues, name lookup and suggestions, duplicates, and invalid plugin catalogues."""

from __future__ import annotations

import json
import re
import sys

import pytest
import storing
from conftest import PLUGIN, ROW
from hub import Hub

import zoo
from zoo import store
from zoo.catalogue import registry
from zoo.errors import CatalogueError, NameNotFound, PluginError, StoreError
from zoo.plugin import File

HUB = ROW + 'source = "hf://org/repo@main"\nfiles = [{ path = "w.safetensors", sha256 = "%s", bytes = 3 }]\n' % (
    "0" * 64
)


def rows(*names: str, body: str = ROW) -> str:
    return "\n".join(f'["{name}"]{body}' for name in names)


@pytest.fixture
def user(isolated):
    """Return a function that writes zoo.toml in the working directory."""
    return lambda text: (isolated / "zoo.toml").write_text(text)


def test_rows_of_core_plugins_and_user_are_merged(distribution, user, tmp_path):
    distribution("fake", catalogue=rows("fake/a"))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "zoo.toml").write_text(rows("mine/b"))
    user(rows("mine/c"))
    assert {"fake/a", "mine/b", "mine/c"} < set(registry.rows())
    assert any(name.startswith("native/") for name in registry.rows())


def test_an_entry_has_the_path_of_its_catalogue(user, isolated):
    user(rows("mine/a"))
    assert registry.find("mine/a").catalogue == str(isolated / "zoo.toml")


def test_a_changed_user_file_is_read_again(user):
    user(rows("mine/a"))
    registry.find("mine/a")
    user(rows("mine/b"))
    with pytest.raises(NameNotFound):
        registry.find("mine/a")


def test_the_config_folder_is_in_xdg_config_home(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_CONFIG_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "xdg" / "zoo").mkdir(parents=True)
    (tmp_path / "xdg" / "zoo" / "zoo.toml").write_text(rows("mine/xdg"))
    assert registry.find("mine/xdg").plugin == "mine"


def test_the_config_folder_defaults_to_dot_config_in_home(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_CONFIG_HOME")
    (tmp_path / ".config" / "zoo").mkdir(parents=True)
    (tmp_path / ".config" / "zoo" / "zoo.toml").write_text(rows("mine/home"))
    assert registry.find("mine/home").plugin == "mine"


def problem(isolated) -> CatalogueError:
    """Return the problem of zoo.toml, of which no row is listed; looking up any name raises it."""
    assert not [entry for entry in zoo.list() if entry.catalogue.endswith("work/zoo.toml")]
    found = registry.problems()[str(isolated / "zoo.toml")]
    with pytest.raises(CatalogueError, match=re.escape(found.what)):
        registry.find("no such name")
    return found


def test_an_invalid_user_catalogue_is_skipped_and_reported(user, isolated):
    user("[")
    assert "zoo.toml:1" in problem(isolated).what


def test_a_user_row_may_set_the_plugin(user):
    user('["mine/net"]\nplugin = "native"' + ROW)
    assert registry.find("mine/net").plugin == "native"


def test_a_name_in_two_catalogues_is_reported_with_both_paths(distribution, user, isolated):
    folder = distribution("fake", catalogue=rows("fake/a"))
    user(rows("fake/a"))
    found = problem(isolated)
    assert "'fake/a' is defined twice" in found.what
    assert str(folder / "catalogue.toml") in found.what
    assert str(isolated / "zoo.toml") in found.what
    assert found.fix == f"rename one of the two in {isolated / 'zoo.toml'}"


def test_an_alias_equal_to_another_name_is_reported(distribution, user, isolated):
    distribution("fake", catalogue=rows("fake/a"))
    user(rows("mine/b") + 'aliases = ["fake/a"]')
    assert "'fake/a' is defined twice" in problem(isolated).what


def test_an_entry_is_found_by_full_name_alias_and_short_name(user):
    user(rows("mine/net.tag") + 'aliases = ["nn"]\n' + rows("mine/org/deep"))
    for name in ("mine/net.tag", "nn", "net.tag", "net", "mine/net"):
        assert registry.find(name).name == "mine/net.tag"
    for name in ("mine/org/deep", "org/deep", "deep"):
        assert registry.find(name).name == "mine/org/deep"


def test_an_exact_short_name_takes_precedence_over_one_with_a_tag(user):
    user(rows("mine/net.tag", "yours/net"))
    assert registry.find("net").name == "yours/net"


@pytest.mark.parametrize(("name", "both"), [("net", "a/net.x, b/net.y"), ("same", "a/same, b/same")])
def test_an_ambiguous_short_name_raises_with_the_candidates(user, name, both):
    user(rows("a/net.x", "b/net.y", "a/same", "b/same"))
    with pytest.raises(NameNotFound, match=f"'{name}' is ambiguous: {both}") as caught:
        registry.find(name)
    assert caught.value.fix == f"use a full name: zoo info {both.partition(',')[0]}"


def test_at_most_five_candidates_are_listed(user):
    user(rows(*(f"mine/net.v{number}" for number in range(12))))
    with pytest.raises(NameNotFound, match=r"mine/net\.v2; 12 in all"):
        registry.find("net")


@pytest.mark.parametrize("name", ["mine/robinnet.v2", "yours/robinnet.v1", "robinent", "RobinNet.v1", "obinnet"])
def test_an_unknown_name_raises_with_the_nearest_names(user, name):
    user(rows("mine/robinnet.v1"))
    with pytest.raises(NameNotFound, match=rf"unknown backbone '{name}'; nearest: mine/robinnet\.v1") as caught:
        registry.find(name)
    assert caught.value.fix.startswith("zoo list")


def test_the_fix_for_an_unknown_name_is_a_search_with_results(user):
    user(rows("mine/robinnet.v1"))
    with pytest.raises(NameNotFound) as caught:
        registry.find("mine/robin7")
    assert caught.value.fix == "zoo list robin"
    assert zoo.list("robin")


def test_an_unknown_name_without_similar_names_raises_with_none():
    with pytest.raises(NameNotFound, match="nearest: none") as caught:
        registry.find("§§§")
    assert caught.value.fix == "zoo list"


LOOK_ALIKES = {
    "n\u0430tive/resnet18": "U+0430 (cyrillic small letter a)",
    "nativ\u0435": "U+0435 (cyrillic small letter ie)",
    "hf/g\u03bfogle/bert": "U+03BF (greek small letter omicron)",
    "timm/\uff52esnet18": "U+FF52 (fullwidth latin small letter r)",
}


@pytest.mark.parametrize("name", LOOK_ALIKES, ids=ascii)
def test_a_letter_that_looks_like_another_is_named(name):
    with pytest.raises(NameNotFound, match=f"has the letter {re.escape(LOOK_ALIKES[name])}"):
        registry.find(name)


def test_a_name_longer_than_any_raises():
    with pytest.raises(NameNotFound, match=r"'x{40}…' is longer than any name"):
        registry.find("x" * 100_000)


def test_a_revision_changes_source_and_name_and_drops_hashes_and_metrics(user):
    user(rows("mine/hub", body=HUB + "metrics = { top1 = 70 }"))
    entry = registry.find("hub@v2.0")
    assert (entry.name, entry.source) == ("mine/hub@v2.0", "hf://org/repo@v2.0")
    assert entry.files == (File("w.safetensors"),)
    assert entry.metrics == {}


def test_a_revision_of_a_source_other_than_the_hub_raises(user):
    user(rows("mine/plain"))
    with pytest.raises(NameNotFound, match="only hf:// sources have revisions, this source is not set") as caught:
        registry.find("mine/plain@v2")
    assert caught.value.fix == "zoo info mine/plain"


@pytest.mark.parametrize("revision", ["", "../x", "a b", "a?x=1"])
def test_an_invalid_revision_raises(user, revision):
    user(rows("mine/hub", body=HUB))
    with pytest.raises(NameNotFound, match="is not a valid branch, tag or commit") as caught:
        registry.find(f"mine/hub@{revision}")
    assert caught.value.fix == "zoo info mine/hub@main"


RESOLVING = (
    PLUGIN
    + """
from zoo.plugin import Entry, ImageInput

def resolve(name, look):
    if name == "odd":
        1 / 0
    if name.startswith("any"):
        return Entry("fake/" + name, "fake", "image", ImageInput(8, (0.5,), (0.5,)))

plugin.resolve = resolve
"""
)


def test_a_name_outside_the_catalogue_is_resolved_by_its_plugin(distribution):
    distribution("fake", RESOLVING)
    assert registry.find("fake/any/thing").name == "fake/any/thing"


def test_a_resolved_name_takes_precedence_over_a_row_with_a_tag(distribution):
    distribution("fake", RESOLVING, catalogue=rows("fake/any.v2"))
    assert registry.find("fake/any").name == "fake/any"


def test_a_name_that_the_plugin_does_not_resolve_raises(distribution):
    distribution("fake", RESOLVING, catalogue=rows("fake/robin"))
    with pytest.raises(NameNotFound, match="nearest: fake/robin"):
        registry.find("fake/robim")


def test_a_resolve_that_raises_is_a_plugin_error(distribution):
    distribution("fake", RESOLVING)
    with pytest.raises(PluginError, match=r"plugin 'fake' .*resolve\('odd'\) raised ZeroDivisionError") as caught:
        registry.find("fake/odd")
    assert caught.value.fix.startswith("zoo list fake/")


LOOKING = (
    PLUGIN
    + """
from zoo.plugin import Entry, ImageInput

def resolve(name, look):
    found = look("hf://" + name)
    found.fetch("config.json")
    return Entry("fake/" + name, "fake", "image", ImageInput(8, (0.5,), (0.5,)), dim=4, source="hf://" + name,
                 files=tuple(found.files.values()), license="mit")

plugin.resolve = resolve
"""
)
BARE = """
["fake/tiny/net"]
modality = "image"
source = "hf://tiny/net"
license = "apache-2.0"
input = { size = 8, mean = [0.5], std = [0.5] }
"""


def test_a_hub_row_without_files_is_completed_by_its_plugin(distribution, monkeypatch):
    distribution("fake", LOOKING, catalogue=BARE)
    with Hub({"tiny/net": storing.FILES}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        bare = registry.find("fake/tiny/net")
        assert not hub.requests
        full = registry.complete(bare)
        store.pull(full)
    assert {file.path for file in full.files} == set(storing.FILES)
    assert (full.license, full.dim, full.catalogue) == ("apache-2.0", 4, bare.catalogue)
    assert store.is_pulled(bare)
    assert registry.complete(bare).files  # offline: from the lock


def test_a_look_lists_the_requested_revision(distribution, monkeypatch):
    distribution("fake", LOOKING)
    with Hub({"tiny/net": storing.FILES, "tiny/net@v1": {"config.json": b"{}"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = registry.find("fake/tiny/net@v1")
    assert (found.name, found.source) == ("fake/tiny/net@v1", "hf://tiny/net@v1")
    assert [file.path for file in found.files] == ["config.json"]


def test_look_raises_for_a_source_that_cannot_be_listed():
    with pytest.raises(StoreError, match="only hf:// and file:// sources can"):
        store.look("fake/x", "https://example.org/x")


def test_look_lists_a_local_folder(tmp_path):
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "source" / "sub" / "a.json").write_text("{}")
    found = store.look("fake/x", (tmp_path / "source").as_uri())
    assert {path: file.bytes for path, file in found.files.items()} == {"sub/a.json": 2}
    assert found.fetch("sub/a.json")["sub/a.json"].read_text() == "{}"


def test_resolving_a_name_of_a_plugin_that_fails_at_import_raises(distribution):
    distribution("fake", "1 / 0")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        registry.find("fake/x")


def test_looking_up_a_catalogue_name_imports_no_plugin(distribution):
    folder = distribution("fake", "1 / 0", catalogue=rows("fake/a"))
    assert registry.find("fake/a").name == "fake/a"
    assert folder.name not in sys.modules


INVALID = {
    "malformed": ("[", r"catalogue\.toml:1"),
    "a bad row": ('["fake/a"]\ndim = 1', "the key modality is missing"),
    "a name of another": (rows("fake/a", "native/x"), "plugin 'fake' may not list 'native/x' of plugin 'native'"),
    "an alias of another": (rows("fake/a") + 'aliases = ["resnet18"]', "may not list 'resnet18'"),
    "a row of another plugin": (rows("fake/a") + 'plugin = "native"', "may not list 'fake/a' of plugin 'native'"),
    "a saved model": ('["fake/a"]\nsaved = "/x"', "saved = '/x': unknown key"),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_plugin_catalogue_is_skipped_and_reported(distribution, user, case):
    catalogue, message = INVALID[case]
    distribution("fake", catalogue=catalogue)
    user(rows("mine/fine"))
    assert registry.find("mine/fine").name == "mine/fine"
    assert not [name for name in registry.rows() if name.startswith("fake/")]
    assert message.replace("\\", "") in registry.problems()["fake"].what
    with pytest.raises(NameNotFound, match="the catalogue of plugin 'fake' is invalid") as caught:
        registry.find("fake/a")
    assert "catalogue.toml" in caught.value.fix


def save(folder, **changes) -> None:
    entry = {"name": "native/x", "plugin": "native", "modality": "image", "dim": 4, "aliases": ["nx"]}
    entry["input"] = {"size": 8, "mean": [0.5], "std": [0.5]}
    files = {"model.safetensors": {"sha256": "0" * 64, "bytes": 9}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zoo.json").write_text(json.dumps({"format": 1, "entry": entry, "files": files, **changes}))


def test_a_row_makes_a_saved_model_a_backbone(user, isolated):
    save(isolated / "runs" / "birds")
    user('["mine/birds"]\nsaved = "runs/birds"\naliases = ["b"]')
    entry = registry.find("b")
    assert (entry.name, entry.plugin, entry.dim, entry.aliases) == ("mine/birds", "native", 4, ("b",))
    assert entry.source == (isolated / "runs" / "birds").as_uri()
    assert entry.files == (File("model.safetensors", "0" * 64, 9),)
    assert entry.catalogue == str(isolated / "zoo.toml")


def test_an_overwritten_saved_model_has_its_new_hash(user, isolated):
    save(isolated / "birds")
    user('["mine/birds"]\nsaved = "birds"')
    registry.find("birds")
    save(isolated / "birds", files={"model.safetensors": {"sha256": "1" * 64, "bytes": 9}})
    assert registry.find("birds").files[0].sha256 == "1" * 64


def test_a_deleted_saved_model_is_reported(user, isolated):
    user('["mine/birds"]\nsaved = "runs/birds"')
    found = problem(isolated)
    assert re.search(r'\["mine/birds"\] saved = .runs/birds.: .*zoo\.json does not exist', found.what)
    assert found.fix == f"delete the row in {isolated / 'zoo.toml'}"


@pytest.mark.parametrize("changes", [{"files": None}, {"entry": 3}, {"files": {"x": 3}}])
def test_a_damaged_saved_model_is_reported(user, isolated, changes):
    save(isolated / "birds", **changes)
    user('["mine/birds"]\nsaved = "birds"')
    assert "zoo.json is damaged" in problem(isolated).what


def test_a_saved_row_with_other_keys_is_reported(user, isolated):
    user('["mine/birds"]\nsaved = "birds"\ndim = 3')
    assert "must be a folder, and only aliases may be given besides" in problem(isolated).what
