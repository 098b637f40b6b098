"""Rows kept in receipts: a repository pulled before is resolved without its plugin, unless the row does not apply."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import PLUGIN
from hub import commit_of
from storing import FILES

from zoo import store
from zoo.catalogue import plugins, registry
from zoo.cli import main
from zoo.store import lock, maintenance, receipts

COUNTING = (
    PLUGIN
    + """
import json
from zoo.plugin import Entry, ImageInput

def resolve(name, look):
    plugin.asked.append(name)
    found = look("hf://" + name)
    size = json.loads(found.fetch("config.json")["config.json"].read_text())["a"]
    return Entry("fake/" + name, "fake", "image", ImageInput(size, (0.5,), (0.5,)), dim=4, source="hf://" + name,
                 files=tuple(found.files.values()), options={"sizes": [size, {"b": 0.5}], "odd": 'a "b" \\u00e9'})

plugin.asked = []
plugin.resolve = resolve
"""
)
NEWER = {**FILES, "config.json": b'{"a": 2}'}
NAME = "fake/org/net"


@pytest.fixture
def asked(distribution):
    """Install a plugin that resolves any repository; return the list of the names that it has resolved."""
    distribution("fake", COUNTING, name="fake-zoo")
    return plugins.load("fake").asked


def pull(*words):
    result = CliRunner().invoke(main, ["pull", *(words or (NAME,))])
    assert result.exit_code == 0, result.output


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_pulled_repository_is_resolved_from_its_receipt(hub, asked):
    first = registry.find(NAME)
    pull()
    asked.clear(), hub.requests.clear()
    again = registry.find(NAME)
    pull()
    assert (again.input, again.dim, again.options, again.source) == (first.input, 4, first.options, "hf://org/net")
    assert [file.path for file in again.files] == [file.path for file in first.files]
    assert all(file.sha256 for file in again.files)
    assert (asked, hub.requests) == ([], [])


def test_pull_and_info_of_a_pulled_repository_do_not_import_its_plugin(hub, distribution):
    package = distribution("fake", COUNTING)
    pull()
    (package / "__init__.py").write_text("raise SystemExit(3)")
    path = [sys.path[0], *sys.path]
    code = f"import sys; sys.path[:0] = {path!r}; from zoo.cli import main; main()"
    for command in ("pull", "info"):
        done = subprocess.run([sys.executable, "-c", code, command, NAME], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_revision_has_its_own_row(hub, asked):
    hub.repos = {"org/net": FILES, "org/net@v2": NEWER}
    pull(NAME, f"{NAME}@v2")
    asked.clear()
    sizes = [registry.find(name).input.size for name in (NAME, f"{NAME}@v2")]
    assert (sizes, asked) == ([1, 2], [])


def test_a_completed_catalogue_row_is_kept_without_its_own_fields(hub, distribution, isolated):
    distribution("fake", COUNTING, name="fake-zoo")
    text = '["fake/org/net"]\nmodality = "image"\nsource = "hf://org/net"\nLICENSE'
    catalogue = isolated / "zoo.toml"
    catalogue.write_text(text + "input = { size = 8, mean = [0.5], std = [0.5] }\n")
    edit(catalogue, "LICENSE", 'license = "mit"\n')
    pull()
    edit(catalogue, 'license = "mit"\n', "")
    plugins.load("fake").asked.clear()
    entry = registry.complete(registry.find(NAME))
    assert (entry.license, entry.dim, entry.input.size, entry.catalogue) == (None, 4, 1, str(catalogue))
    assert plugins.load("fake").asked == []


def test_update_resolves_again_and_replaces_the_row(hub, asked):
    pull()
    hub.repos = {"org/net": NEWER}
    assert registry.find(NAME).input.size == 1
    pull(NAME, "--update")
    asked.clear()
    assert (registry.find(NAME).input.size, asked) == (2, [])


def test_rm_removes_the_row(hub, asked):
    pull()
    maintenance.remove([NAME])
    assert "resolved_by" not in receipts.own().read_text()
    hub.repos = {"org/net": NEWER}
    assert registry.find(NAME).input.size == 2


def test_a_row_of_another_version_of_the_plugin_is_resolved_again_and_replaced(hub, asked):
    pull()
    edit(receipts.own(), "fake-zoo 1.0", "fake-zoo 0.9")
    asked.clear()
    pull()
    assert asked == ["org/net"]
    assert "fake-zoo 1.0" in receipts.own().read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"size" = 1', '"size" = -1'),
        ('"size" = 1', '"height" = 1'),
        ('"modality" = "image"', '"modality" = "sound"'),
        ('"input" = {', '"input" = 2026-01-01, "other" = {'),
        ("row = {", "row = 3 #"),
        ('"dim" = 4', '"dim" = nan'),
    ],
)
def test_a_damaged_row_is_resolved_again_and_replaced(old, new, hub, asked):
    pull()
    before = receipts.own().read_text()
    edit(receipts.own(), old, new)
    asked.clear()
    assert registry.find(NAME).input.size == 1
    assert asked == ["org/net"]
    pull()
    assert receipts.own().read_text() == before


def test_a_row_of_another_commit_is_ignored(hub, asked):
    pull()
    text = receipts.own().read_text()
    receipts.own().write_text(text.replace(commit_of(FILES), "0" * 40, 1))
    asked.clear()
    registry.find(NAME)
    assert asked == ["org/net"]


def test_no_row_is_kept_if_the_branch_moves_between_resolution_and_download(hub, asked):
    entry = registry.find(NAME)
    hub.repos = {"org/net": {**FILES, "config.json": b'{"a": 3}'}}
    store.pull(entry)
    assert "resolved_by" not in receipts.own().read_text()
    asked.clear()
    assert (registry.find(NAME).input.size, asked) == (3, ["org/net"])


def test_a_missing_file_is_downloaded_at_the_commit_of_the_row(hub, asked):
    pull()
    for blob in (store.home() / "blobs").iterdir():
        blob.unlink()
    hub.repos = {"org/net": NEWER, "org/net@old": FILES}
    asked.clear()
    pull()
    assert (registry.find(NAME).input.size, asked) == (1, [])


def test_a_shared_lock_resolves_the_name_for_another_user(hub, asked, monkeypatch, tmp_path):
    pull(NAME, "--lock", "zoo.lock")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "another user"))
    asked.clear(), hub.requests.clear()
    pull()
    assert asked == []
    assert not [request for request in hub.requests if request.path.startswith("/api/")]


def test_a_shared_lock_created_from_pulled_files_has_the_row(hub, asked):
    pull()
    pull(NAME, "--lock", "zoo.lock")
    assert lock.read(Path("zoo.lock"))[NAME].row == lock.read(receipts.own())[NAME].row


def test_a_shared_lock_without_row_is_not_rewritten(hub, asked):
    pull(NAME, "--lock", "zoo.lock")
    lines = [line for line in Path("zoo.lock").read_text().splitlines(keepends=True) if not line.startswith("row")]
    Path("zoo.lock").write_text("".join(lines))
    for blob in (store.home() / "blobs").iterdir():
        blob.unlink()
    pull()
    assert Path("zoo.lock").read_text() == "".join(lines)
    asked.clear()
    registry.find(NAME)
    assert asked == []  # the user's lock has the row of the same files


def test_the_row_of_the_users_lock_is_not_used_for_other_files_of_a_shared_lock(hub, asked):
    pull()
    hub.repos = {"org/net": NEWER}
    text = receipts.own().read_text()
    pull(NAME, "--update", "--lock", "zoo.lock")
    receipts.own().write_text(text)  # the user's own pull was of the older commit
    edit(Path("zoo.lock"), "row = {", "other = {")
    asked.clear()
    assert (registry.find(NAME).input.size, asked) == (2, ["org/net"])


def test_a_store_that_cannot_be_written_still_resolves(hub, asked, monkeypatch):
    pull()
    edit(receipts.own(), "fake-zoo 1.0", "fake-zoo 0.9")
    monkeypatch.setattr(lock, "record", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    assert registry.pull(NAME)


def test_a_row_that_toml_cannot_hold_is_not_kept(hub, distribution):
    distribution("fake", COUNTING.replace('"odd":', '"none": None, "odd":'))
    pull()
    assert "resolved_by" not in receipts.own().read_text()
    assert registry.find(NAME).options["none"] is None


def test_the_row_is_not_part_of_a_models_provenance(hub, asked):
    pull()
    assert set(store.receipt(NAME)) == {"source", "commit", "files", "when"}
    assert "resolved" not in json.loads(CliRunner().invoke(main, ["info", NAME, "--json"]).stdout)
