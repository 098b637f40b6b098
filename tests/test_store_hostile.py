"""What a mirror, another user or another process could do to the store."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import faults
import pytest
from storing import FILES, WEIGHTS, entry, kept, sha256

from zoo import store
from zoo.errors import StoreError, without_credentials
from zoo.plugin import File
from zoo.store import fetch, http, lock, maintenance, receipts, sources, stream, verified, web

ONE = [File("model.safetensors")]
OUTSIDE = "../../outside/x"


# Hashes


@pytest.mark.parametrize("value", [OUTSIDE, "a" * 63, "A" * 64, "a" * 64 + "\n", "٣" * 64, "", 5])
def test_a_hash_is_64_hexadecimal_digits_wherever_it_comes_from(hub, monkeypatch, value):
    sibling = {"rfilename": "model.safetensors", "size": 1, "lfs": {"sha256": value, "size": 1, "pointerSize": 1}}
    monkeypatch.setattr("hub._listing", lambda repo, files: {"id": repo, "sha": "c" * 40, "siblings": [sibling]})
    with pytest.raises(StoreError, match=r"as SHA-256 of 'model\.safetensors'"):
        store.look("hf/org/net", "hf://org/net")
    with pytest.raises(StoreError, match="is not a SHA-256"):
        store.pull(entry("hf://org/net", [File("model.safetensors", value)]))
    assert kept() == [[], []]


def test_a_hash_that_is_a_path_deletes_and_creates_nothing(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(WEIGHTS)
    (outside / "x.part").write_bytes(b"mine")
    remote = fetch.Remote("model.safetensors", "x", lambda start: iter([memoryview(WEIGHTS)]), len(WEIGHTS), OUTSIDE)
    with pytest.raises(StoreError, match="is not a SHA-256"):
        fetch.fetch(remote, fetch.Claim(ONE[0], "a/b", "", ""), store.home(), lambda count: None)
    assert sorted(path.name for path in outside.iterdir()) == ["x", "x.part"]
    assert not (store.home() / "tmp").exists()


LISTINGS = {
    "siblings that are null": {"siblings": None},
    "a name that is a number": {"siblings": [{"rfilename": 5, "size": 1}]},
    "a size below zero": {"siblings": [{"rfilename": "a", "size": -1}]},
    "a size that is a text": {"siblings": [{"rfilename": "a", "size": "1"}]},
    "a size of 10**30": {"siblings": [{"rfilename": "a", "size": 10**30}]},
    "lfs that is a list": {"siblings": [{"rfilename": "a", "size": 1, "lfs": [1]}]},
    "lfs without a hash": {"siblings": [{"rfilename": "a", "size": 1, "lfs": {"size": 1}}]},
    "a commit that is a path": {"sha": OUTSIDE},
    "a commit that is null": {"sha": None},
    "no object": [],
    "no JSON": None,
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_that_is_not_that_of_a_hub_raises(hub, monkeypatch, name):
    good = {"id": "org/net", "sha": "c" * 40, "siblings": [{"rfilename": "a", "size": 1, "blobId": "0" * 40}]}
    answer = {**good, **LISTINGS[name]} if LISTINGS[name] else LISTINGS[name]
    monkeypatch.setattr("hub._listing", lambda repo, files: answer)
    if name == "no JSON":
        monkeypatch.setattr("hub.json.dumps", lambda value: "<html>")
    if name == "siblings that are null":
        assert store.look("hf/org/net", "hf://org/net").files == {}
        return
    with pytest.raises(StoreError, match="is not that of a Hub") as caught:
        store.look("hf/org/net", "hf://org/net")
    assert caught.value.fix == "correct HF_ENDPOINT, or: unset HF_ENDPOINT"


def test_a_strange_listing_of_the_default_hub_blames_no_setting(hub, monkeypatch):
    monkeypatch.setattr("hub._listing", lambda repo, files: [])
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.delenv("HF_ENDPOINT")
    with pytest.raises(StoreError, match="is not that of a Hub") as caught:
        store.look("hf/org/net", "hf://org/net")
    assert caught.value.fix.startswith("zoo pull hf/org/net   (retry later")


# Credentials


def test_errors_show_no_credentials_of_urls():
    text = "http://user:pass@host/a@b and HTTPS://t@k@host:80?x hf://org/net@main a@b"
    assert without_credentials(text) == "http://host/a@b and HTTPS://host:80?x hf://org/net@main a@b"
    error = StoreError("see https://me:secret@host/", fix="open http://me:secret@host")
    assert "secret" not in f"{error} {error.args} {error.what} {error.fix}"


@pytest.mark.parametrize("password", ["secret", "a/secret", "secret x"])
def test_the_endpoint_is_shown_without_its_password(monkeypatch, password):
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{password}@127.0.0.1:9")
    url, problem = web.reach()
    assert url.endswith("127.0.0.1:9")
    assert "secret" not in f"{url} {problem}"


# Connections


def test_a_reset_loses_nothing_that_was_received(hub, monkeypatch):
    monkeypatch.setattr(stream, "TRIES", 2)
    hub.faults = [faults.reset(len(WEIGHTS) // 8)] * 4
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == WEIGHTS
    starts = [request.headers["range"] for request in hub.requests if request.method == "GET"]
    assert len({*starts}) == 5


def test_tries_without_progress_are_apart(hub, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    hub.always = faults.reset(0)
    with pytest.raises(StoreError, match="failed"):
        store.pull(entry("hf://org/net", ONE))
    waited = [pause / stream.PAUSE for pause in pauses if pause >= stream.PAUSE]
    assert waited in ([1, 2, 4], [1, 2, 4, 8])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (" 7 ", 7),
        ("\x1f120", 120),
        ("9" * 5000, float("inf")),
        ("٣", None),
        ("-1", None),
        ("Fri, 31 Dec 99999 0:0:0", None),
    ],
)
def test_a_delay_is_a_number_or_unknown(text, seconds):
    assert http.retry_after(text) == seconds


@pytest.mark.parametrize(
    "url",
    [
        "http://a:99999/",
        "http://a:0",
        "http://[::1",
        "http://a..b/",
        "http://a/é",
        "http://a/ b",
        "ftp://a/",
        "http:///",
    ],
)
def test_invalid_urls_are_recognised(url):
    assert not http.is_valid(url)
    assert http.is_valid("https://user:pw@[::1]:8080/a%20b?c=d")
    assert http.is_valid("https://münchen.de/")


# Several processes


def child(code: str, folder: Path) -> subprocess.Popen[str]:
    head = "import sys\nfrom zoo import store\nfrom storing import drop_root, entry\n"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", head + code], cwd=folder, env=environment, text=True)


def test_gc_and_rm_during_a_pull_leave_it_complete(hub, tmp_path, monkeypatch):
    """The zoo.lock of a fresh checkout names files that the store has under another name only."""
    store.pull(entry("hf://org/net", name="native/other"))
    team = lock.Receipt("hf://org/net", None, lock.read(receipts.own())["native/other"].files, "2026")
    lock.record(
        Path("zoo.lock").absolute(), "native/net", replace(team, commit=receipts.read()["native/other"].receipt.commit)
    )
    (store.home() / "blobs" / sha256(WEIGHTS)).unlink()
    outside = tmp_path / "another folder"
    outside.mkdir()
    code = "from zoo.store import maintenance\nmaintenance.remove(['native/other']); maintenance.collect()"
    locate = sources.locate

    def locate_while_files_are_removed(*arguments):
        assert child(code, outside).wait(30) == 0
        return locate(*arguments)

    monkeypatch.setattr(sources, "locate", locate_while_files_are_removed)
    found = store.pull(entry("hf://org/net"))
    assert {path: local.read_bytes() for path, local in found.items()} == FILES
    assert child(code.replace("maintenance.remove(['native/other']); ", ""), outside).wait(30) == 0
    assert all(local.exists() for local in found.values())


def test_pulls_in_many_folders_are_all_remembered(hub, tmp_path, monkeypatch):
    store.pull(entry("hf://org/net"))
    folders = [tmp_path / f"project \n\u2028{number}" for number in range(8)]

    def remember(folder):
        with receipts.using(folder / "zoo.lock"):
            receipts.remember_shared()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(remember, folders)) == [None] * 8
    assert {path.parent for path in receipts.lock_files()} >= {*folders}
    with (store.home() / "shared.txt").open("a") as file:
        file.write('"damaged\n5\n')
    assert {path.parent for path in receipts.lock_files()} >= {*folders}


def test_gc_waits_for_a_plugin_that_reads_fetched_files(hub):
    look = store.look("hf/org/net", "hf://org/net")
    local = look.fetch("config.json")["config.json"]
    assert maintenance.collect() == 0
    assert local.exists()
    del look
    assert maintenance.collect() == len(FILES["config.json"])


def test_one_lock_reached_through_a_link_is_one_lock(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "link").symlink_to("project")
    real, linked = tmp_path / "project" / "zoo.lock", tmp_path / "link" / "zoo.lock"
    receipt = lock.Receipt("hf://org/net", None, (), "2026")
    lock.record(linked, "a/b", receipt)
    lock.record(real, "a/c", receipt)
    assert [*lock.read(linked)] == ["a/b", "a/c"]
    assert len([*store.home().glob("zoo.lock-*")]) == 1


# Maintenance


def test_verify_keeps_a_healthy_blob_whose_size_in_the_lock_is_wrong(blob):
    mine = receipts.own()
    mine.write_text(mine.read_text().replace(f"bytes = {len(WEIGHTS)}", "bytes = 5"))
    assert [seen.state for seen in maintenance.verify()] == ["size"]
    assert blob.read_bytes() == WEIGHTS
    with store.using(update=True):
        store.pull(entry("hf://org/net", ONE))
    assert [seen.state for seen in maintenance.verify()] == ["ok"]


def test_rm_of_a_name_in_a_shared_lock_alone_says_so(blob):
    Path("zoo.lock").touch()
    store.pull(entry("hf://org/net", ONE))
    assert maintenance.remove(["native/net"]) == 0
    with pytest.raises(StoreError, match=r"native/net is recorded in .*zoo\.lock alone") as caught:
        maintenance.remove(["native/net"])
    assert "then: zoo gc" in caught.value.fix
    Path("zoo.lock").unlink()
    assert maintenance.collect() == len(WEIGHTS)


def test_gc_removes_what_killed_processes_left(blob):
    old = [store.home() / "lock.toml.99.part", store.home() / "tmp" / f"{'1' * 64}.cached"]
    cached = store.home() / "cache" / "decoded" / "a.1234.part"
    cached.parent.mkdir(parents=True)
    young = store.home() / "lock.toml.98.part"
    for path in (*old, cached, young):
        path.write_bytes(b"part")
    for path in old:
        os.utime(path, (0, 0))
    assert maintenance.collect() == 12
    assert young.exists()
    assert not any(path.exists() for path in (*old, cached))
    assert [path.name for path in verified.folder(store.home()).iterdir()] == [blob.name]


@pytest.mark.parametrize("command", ["remove(['native/net'])", "collect()"])
def test_gc_and_rm_in_a_read_only_store_raise(blob, command):
    (store.home() / "blobs" / ("0" * 64)).write_bytes(b"orphan")
    (store.home() / "cache" / "of others").mkdir(parents=True)
    folders = [store.home(), *filter(Path.is_dir, store.home().rglob("*"))]
    for folder in folders:
        folder.chmod(0o000 if folder.name == "of others" else 0o555)
    code = "from zoo import errors\nfrom zoo.store import caches, maintenance\nassert caches.make_room(1)\n"
    code += f"try: maintenance.{command}\n"
    code += "except errors.StoreError as error: sys.exit(7 * ('cannot be changed' in error.what))"
    try:
        assert child("drop_root()\n" + code, Path.cwd()).wait(30) == 7
        assert store.pull(entry("hf://org/net", ONE)) == {"model.safetensors": blob}
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert store.receipt("native/net") is not None
