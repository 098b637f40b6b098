"""Downloads from xet storage: fallback to plain HTTP, hash verification, and where the token is sent."""

import os

import pytest
from hub import TOKENS, Hub
from storing import entry, sha256

from zoo import store
from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import xet

hf_xet = pytest.importorskip("hf_xet", reason="the storage's library is optional")
LARGE = os.urandom(xet.LEAST) * 2
NAME = "model.safetensors"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Return a function that uploads bytes to a local xet storage and returns (storage URL, xet hash)."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    address = f"local://{tmp_path}/storage"

    def put(content):
        with xet._session(os.getpid()).new_upload_commit(endpoint=address) as commit:
            sent = commit.start_upload_bytes(content)
        return address, sent.result().xet_info.hash

    return put


@pytest.fixture
def pull(monkeypatch):
    def use(address, known):
        with Hub({"org/net": {NAME: LARGE}}, xet={NAME: known}, storage=address) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            found = store.pull(entry("hf://org/net", [File(NAME)]))[NAME]
        fetched = [request for request in hub.requests if request.method == "GET" and "resolve" in request.path]
        return found.read_bytes(), fetched, [request for request in hub.requests if request.path == TOKENS]

    return use


def test_a_large_file_is_downloaded_from_xet_storage_with_a_token(stored, pull):
    content, fetched, tokens = pull(*stored(LARGE))
    assert content == LARGE
    assert fetched == []
    assert {request.headers["authorization"] for request in tokens} == {"Bearer hf_secret"}


def test_a_file_missing_from_xet_storage_is_downloaded_over_http(stored, pull):
    address, _ = stored(b"another")
    content, fetched, _ = pull(address, "ab" * 32)
    assert content == LARGE
    assert fetched


def test_http_resumes_at_the_byte_where_xet_storage_fails(pull, monkeypatch):
    def read(data, headers, size, start):
        yield memoryview(LARGE)[start : xet.LEAST]
        raise xet.Failed("the storage went away")

    monkeypatch.setattr(xet, "read", read)
    content, fetched, _ = pull("local:///nowhere", "ab" * 32)
    assert content == LARGE
    assert fetched[0].headers["range"].startswith(f"bytes={xet.LEAST}-")


def test_wrong_bytes_from_xet_storage_raise_and_are_not_kept(stored, pull):
    with pytest.raises(StoreError, match=f"has SHA-256 .*expected by the source itself: {sha256(LARGE)}"):
        pull(*stored(LARGE[::-1]))
    assert not any((store.home() / "blobs").iterdir())


def test_xet_is_not_used_if_its_token_url_is_at_another_origin(stored, pull, monkeypatch):
    monkeypatch.setattr("hub.TOKENS", ".elsewhere.example/token")
    content, fetched, _ = pull(*stored(LARGE))
    assert content == LARGE
    assert fetched


def test_hf_xet_without_the_required_settings_is_not_used(stored, pull, monkeypatch):
    address, known = stored(LARGE)
    monkeypatch.setitem(xet.SETTINGS, "client.no_such_setting", 1)
    xet._session.cache_clear()
    content, fetched, _ = pull(address, known)
    xet._session.cache_clear()
    assert content == LARGE
    assert fetched


def test_hf_hub_disable_xet_is_respected(stored, pull, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    _, fetched, tokens = pull(*stored(LARGE))
    assert fetched
    assert tokens == []
