"""Blobs: hashed before they are loaded, read-only, and never a file that others can change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from storing import WEIGHTS, entry, kept, sha256

from zoo import store
from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import private, verified

ONE = [File("model.safetensors")]


def tamper(blob: Path) -> None:
    """Change a byte, keeping size and mtime."""
    before = blob.stat()
    blob.chmod(0o644)
    blob.write_bytes(b"X" + blob.read_bytes()[1:])
    blob.chmod(0o444)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_tampered_blob_does_not_load_and_is_pulled_again(blob):
    tamper(blob)
    assert store.pull(entry("hf://org/net", ONE)) == {"model.safetensors": blob}
    with pytest.raises(
        StoreError, match=r"model\.safetensors in the store, .* was changed after its download"
    ) as caught:
        store.load(entry("hf://org/net", ONE))
    assert caught.value.fix == "zoo pull native/net"
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == WEIGHTS
    store.load(entry("hf://org/net", ONE))


def test_a_tampered_small_file_does_not_reach_the_plugin(hub):
    store.pull(entry("hf://org/net", name="hf/org/net"))
    look = store.look("hf/org/net", "hf://org/net")
    assert look.here
    tamper(look.fetch("config.json")["config.json"])
    with pytest.raises(StoreError, match="was changed after its download"):
        look.fetch("config.json")


def test_a_blob_is_hashed_once_in_its_life(blob, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: hashed.append(1) or digest(*args))
    store.load(entry("hf://org/net", ONE))
    verified._verified.clear()  # as in another process
    store.load(entry("hf://org/net", ONE))
    assert hashed == []
    blob.touch()
    store.load(entry("hf://org/net", ONE))
    store.load(entry("hf://org/net", ONE))
    assert hashed == [1]


@pytest.mark.parametrize("change", ["mode", "link"])
def test_a_record_that_others_can_write_is_not_used(blob, tmp_path, change):
    tamper(blob)
    verified.remember(blob)  # as another user would
    verified._verified.clear()
    records = verified.folder(store.home())
    assert records.stat().st_mode & 0o077 == 0
    if change == "mode":
        records.chmod(0o777)
    else:
        records.rename(tmp_path / "elsewhere")
        records.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="was changed"):
        store.load(entry("hf://org/net", ONE))


def test_files_of_others_are_not_private(tmp_path):
    found = tmp_path.stat()
    for mode, owner, expected in [(0o755, os.geteuid(), True), (0o775, os.geteuid(), False), (0o755, 12345, False)]:
        fields = [*found]
        fields[0], fields[4] = found.st_mode & ~0o777 | mode, owner
        assert private.is_private(os.stat_result(fields)) is expected


def test_blobs_are_read_only(blob):
    assert blob.stat().st_mode & 0o777 == 0o444


def test_a_blob_of_a_private_file_is_private(tmp_path):
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "box" / "model.safetensors").chmod(0o600)
    source = entry((tmp_path / "box").as_uri(), ONE)
    assert store.pull(source)["model.safetensors"].stat().st_mode & 0o777 == 0o400


def test_a_cached_file_that_others_can_write_is_copied(hub):
    cached = Path(os.environ["HF_HOME"]) / "hub" / "models--org--net" / "blobs" / sha256(WEIGHTS)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(WEIGHTS)
    cached.chmod(0o666)
    found = store.pull(entry("hf://org/net", ONE))["model.safetensors"]
    assert found.read_bytes() == WEIGHTS
    assert not found.samefile(cached)
    assert [request.method for request in hub.requests] == ["HEAD"]
    assert kept() == [[sha256(WEIGHTS)], []]


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "writable by others"])
def test_a_partial_download_that_is_a_link_is_not_followed(hub, tmp_path, kind):
    precious = tmp_path / "precious"
    precious.write_bytes(WEIGHTS[:5])
    part = store.home() / "tmp" / f"{sha256(WEIGHTS)}.part"
    part.parent.mkdir(parents=True)
    if kind == "symbolic link":
        part.symlink_to(precious)
    elif kind == "hard link":
        os.link(precious, part)
    else:
        part.write_bytes(WEIGHTS[:5])
        part.chmod(0o666)
    found = store.pull(entry("hf://org/net", ONE))["model.safetensors"]
    assert (found.read_bytes(), precious.read_bytes()) == (WEIGHTS, WEIGHTS[:5])
    assert not found.is_symlink()
    assert found.stat().st_nlink == 1


def test_a_cache_of_the_hub_may_link_to_its_blobs(tmp_path):
    repo = Path(os.environ["HF_HOME"]) / "hub" / "models--org--net"
    snapshot, blobs = repo / "snapshots" / "1", repo / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "b").write_bytes(WEIGHTS)
    (snapshot / "model.safetensors").symlink_to("../../blobs/b")
    assert store.pull(entry(snapshot.as_uri(), ONE))["model.safetensors"].read_bytes() == WEIGHTS
