"""Shared locks, --update, verify, rm and gc."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hub import commit_of
from storing import FILES, WEIGHTS, entry, kept, sha256

from zoo import store
from zoo.cli import main
from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import lock, maintenance, receipts

NEWER = {**FILES, "model.safetensors": b"newer"}
WEIGHT = [File("model.safetensors")]


@pytest.fixture
def zoo():
    return lambda *words: CliRunner().invoke(main, words)


@pytest.fixture
def row(isolated):
    """Add a Hub backbone to the zoo.toml of the working directory."""
    text = '["mine/net"]\nplugin = "native"\nmodality = "image"\nsource = "hf://org/net"\n'
    files = 'files = [{ path = "model.safetensors" }, { path = "config.json" }]\n'
    (isolated / "zoo.toml").write_text(text + files + "input = { size = 8, mean = [0.5], std = [0.5] }\n")


def test_update_pulls_the_current_commit_and_reports_the_change(hub, capsys):
    store.pull(entry("hf://org/net"))
    hub.repos = {"org/net": NEWER}
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS
    with store.using(update=True):
        assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == b"newer"
    assert f"{commit_of(FILES)} -> {commit_of(NEWER)}: 1 of 2 files changed" in capsys.readouterr().out
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == b"newer"


def test_a_failed_update_keeps_the_pulled_files(hub):
    store.pull(entry("hf://org/net"))
    hub.repos = {}
    with store.using(update=True), pytest.raises(StoreError):
        store.pull(entry("hf://org/net"))
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_a_shared_lock_pins_the_files_for_another_user(hub, monkeypatch, tmp_path):
    hub.repos = {"org/net": NEWER, "org/net@old": FILES}
    with store.using(Path("zoo.lock")):
        store.pull(entry("hf://org/net"))
    hub.repos = {"org/net": FILES, "org/net@old": NEWER}  # the branch has moved
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "a colleague's"))
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == b"newer"
    assert store.receipt("native/net")["commit"] == commit_of(NEWER)


def test_a_shared_lock_takes_precedence_and_does_not_change_the_users_lock(hub):
    store.pull(entry("hf://org/net"))
    mine = receipts.own().read_bytes()
    hub.repos = {"org/net": NEWER, "org/net@old": FILES}
    receipt = lock.Receipt(
        "hf://org/net",
        commit_of(NEWER),
        tuple(File(path, sha256(content), len(content)) for path, content in NEWER.items()),
        "2026-01-01",
    )
    lock.record(Path("zoo.lock").absolute(), "native/net", receipt)
    assert not store.is_pulled(entry("hf://org/net"))
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == b"newer"
    assert receipts.own().read_bytes() == mine
    os.remove("zoo.lock")
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_a_pulled_name_is_added_to_the_shared_lock_without_a_request(hub):
    store.pull(entry("hf://org/net"))
    hub.requests.clear()
    Path("zoo.lock").touch()
    store.pull(entry("hf://org/net"))
    assert hub.requests == []
    assert lock.read(Path("zoo.lock").absolute()) == lock.read(receipts.own())
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["zoo.lock"]


def test_a_shared_lock_with_another_source_raises(hub):
    with store.using(Path("zoo.lock")):
        store.pull(entry("hf://org/net"))
    with pytest.raises(StoreError, match=r"zoo\.lock records source hf://org/net, but its row has hf://org/other"):
        store.pull(entry("hf://org/other"))


def test_pull_all_pulls_the_other_entries_if_one_fails(hub):
    good, bad = (
        entry("hf://org/net"),
        entry("hf://org/net", [File("model.safetensors", None, len(WEIGHTS))], "native/b"),
    )
    assert sorted(store.pull_all([good, bad])) == ["native/b", "native/net"]
    hub.repos = {"org/net": {**FILES, "other.safetensors": b"1", "last.safetensors": b"2"}}
    hub.alter = lambda path, content: b"X" if path == "other.safetensors" else content
    names = [
        entry("hf://org/net", [File(path)], f"native/{path[0]}") for path in ("other.safetensors", "last.safetensors")
    ]
    with pytest.raises(StoreError, match=r"native/o: other\.safetensors"):
        store.pull_all(names)
    assert store.is_pulled(names[1])
    assert not store.is_pulled(names[0])


def test_verify_reports_damaged_files_and_pull_repairs_them(hub, zoo, row):
    zoo("pull", "mine/net")
    assert "2 files of 1 backbone verified" in zoo("verify").output
    blob = store.home() / "blobs" / sha256(WEIGHTS)
    blob.chmod(0o644)
    blob.write_bytes(b"X" + WEIGHTS[1:])
    hub.requests.clear()
    result = zoo("verify", "mine/net")
    assert result.exit_code == 1
    assert f"damaged    mine/net  model.safetensors  {sha256(WEIGHTS)}" in result.output
    assert "fix: zoo pull mine/net" in result.output
    assert hub.requests == []
    zoo("pull", "mine/net")
    assert blob.read_bytes() == WEIGHTS


def test_verify_json_reports_missing_files(hub, zoo, row):
    zoo("pull", "mine/net")
    (store.home() / "blobs" / sha256(WEIGHTS)).unlink()
    result = zoo("verify", "--json")
    assert {each["path"]: each["state"] for each in json.loads(result.output)} == {
        "model.safetensors": "missing",
        "config.json": "ok",
    }
    assert result.exit_code == 1


@pytest.mark.parametrize("command", ["verify", "rm"])
def test_verify_and_rm_reject_a_name_that_is_not_pulled(zoo, row, command):
    result = zoo(command, "mine/net")
    assert "error: mine/net is not pulled\nfix: zoo list --pulled" in result.output


def test_rm_keeps_files_that_another_name_uses(hub, zoo, row):
    zoo("pull", "mine/net")
    store.pull(entry("hf://org/net", WEIGHT, name="native/twin"))
    assert zoo("rm", "mine/net").output == f"freed {len(FILES['config.json'])} bytes\n"
    assert kept()[0] == [sha256(WEIGHTS)]
    assert store.receipt("mine/net") is None
    assert store.is_pulled(entry("hf://org/net", WEIGHT, name="native/twin"))


def test_gc_removes_only_unreferenced_blobs_and_stale_partial_downloads(hub, zoo):
    store.pull(entry("hf://org/net"))
    blobs, parts = store.home() / "blobs", store.home() / "tmp"
    (blobs / ("0" * 64)).write_bytes(b"orphan")
    for name, age in (("1" * 64, 2 * maintenance.STALE), ("2" * 64, 0)):
        (parts / f"{name}.part").write_bytes(b"part")
        os.utime(parts / f"{name}.part", (os.path.getmtime(blobs) - age,) * 2)
    assert zoo("gc").output == "freed 10 bytes\n"
    assert kept() == [sorted(map(sha256, FILES.values())), ["2" * 64 + ".part"]]


def test_gc_keeps_a_locked_partial_download(hub):
    import filelock

    parts = store.home() / "tmp"
    parts.mkdir(parents=True)
    (parts / "a.part").write_bytes(b"part")
    os.utime(parts / "a.part", (0, 0))
    with filelock.FileLock(parts / "a.lock"):
        assert maintenance.collect() == 0
    assert maintenance.collect() == 4


def test_gc_keeps_the_files_of_a_pull_that_is_running(hub):
    blobs = store.home() / "blobs"
    freed = []

    def collect_between(handler, content):
        if content == FILES["config.json"] and not freed:
            while not (blobs / sha256(WEIGHTS)).exists():
                time.sleep(0.01)
            freed.append(maintenance.collect())
        return False

    hub.always = collect_between
    found = store.pull(entry("hf://org/net"))
    assert freed == [0]
    assert {path: local.read_bytes() for path, local in found.items()} == FILES


def test_gc_keeps_files_referenced_by_the_shared_lock_of_another_folder(hub, monkeypatch, tmp_path):
    Path("zoo.lock").touch()
    store.pull(entry("hf://org/net"))
    lock.forget(receipts.own(), ["native/net"])
    monkeypatch.chdir(tmp_path)
    assert maintenance.collect() == 0
    os.remove(tmp_path / "work" / "zoo.lock")
    assert maintenance.collect() == sum(map(len, FILES.values()))


def test_dry_run_requests_only_metadata(hub, zoo, row):
    output = zoo("pull", "mine/net", "--dry-run").output
    assert "model.safetensors  0.3 MB" in output
    assert f"sha256 {sha256(WEIGHTS)}" in output
    assert "to download: 2 of 2 files, 0.3 MB" in output
    assert {request.method for request in hub.requests} == {"HEAD"}
    zoo("pull", "mine/net")
    assert "to download: 0 of 2 files, 0 bytes" in zoo("pull", "mine/net", "--dry-run").output


def test_pull_creates_the_lock_file_given(hub, zoo, row):
    assert zoo("pull", "mine/net", "--lock", "zoo.lock").exit_code == 0
    assert list(lock.read(Path("zoo.lock").absolute())) == ["mine/net"]


def test_a_part_that_is_renamed_during_gc_is_not_stale(tmp_path):
    assert not maintenance._is_stale(tmp_path / "lock.toml.99.part")
