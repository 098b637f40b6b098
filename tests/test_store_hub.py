"""Pulls from the Hub: verification, number of requests, receipts, and errors with a fix."""

import io
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub import Hub, commit_of
from storing import FILES, NAMES, WEIGHTS, entry, kept, sha256

from zoo import console, store
from zoo.errors import StoreError
from zoo.plugin import File


@pytest.fixture
def connect(monkeypatch):
    def use(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        return hub

    return use


@pytest.fixture
def hub(connect):
    with Hub({"org/net": FILES}) as hub:
        yield connect(hub)


# The store's folder


def test_home_is_read_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_HOME", "~/mine")
    assert store.home() == tmp_path / "mine"
    monkeypatch.delenv("ZOO_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.home() == tmp_path / "xdg" / "zoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert store.home() == tmp_path / ".cache" / "zoo"


def test_importing_the_store_imports_nothing_heavy():
    heavy = ("torch", "numpy", "huggingface_hub", "filelock")
    code = f"import sys, zoo.store; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# The Hub


def test_the_first_pull_downloads_and_verifies(hub):
    files = store.pull(entry("hf://org/net"))
    assert {path: local.read_bytes() for path, local in files.items()} == FILES
    assert all(local.name == sha256(FILES[path]) and not local.stat().st_mode & 0o222 for path, local in files.items())
    assert kept() == [sorted(map(sha256, FILES.values())), []]


def test_each_file_takes_one_head_and_one_get_at_the_pinned_commit(hub):
    store.pull(entry("hf://org/net"))
    commit = commit_of(FILES)
    requests = [(r.method, r.path) for r in hub.requests]
    assert requests[:2] == [
        ("HEAD", "/org/net/resolve/main/model.safetensors"),
        ("HEAD", f"/org/net/resolve/{commit}/config.json"),
    ]
    assert sorted(requests[2:]) == [
        ("GET", f"/org/net/resolve/{commit}/config.json"),
        ("GET", f"/org/net/resolve/{commit}/model.safetensors"),
    ]


def test_a_second_pull_makes_no_request(hub):
    first = store.pull(entry("hf://org/net"))
    hub.requests.clear()
    assert store.pull(entry("hf://org/net")) == first
    assert hub.requests == []


def test_the_user_agent_contains_only_the_version_of_zoo(hub):
    code = "from zoo import store; from storing import entry; store.pull(entry('hf://org/net'))"
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    del environ["HF_HUB_DISABLE_TELEMETRY"]
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    assert [r.method for r in hub.requests] == ["HEAD", "HEAD", "GET", "GET"]
    assert {r.headers["user-agent"].partition("/")[0] for r in hub.requests} == {"backbone-zoo"}
    assert all("torch" not in r.headers["user-agent"] for r in hub.requests)


def test_a_receipt_has_source_commit_and_hashes(hub):
    assert store.receipt("native/net") is None
    store.pull(entry("hf://org/net"))
    receipt = store.receipt("native/net")
    assert receipt.pop("when").endswith("+00:00")
    assert receipt == {
        "source": "hf://org/net",
        "commit": commit_of(FILES),
        "files": [{"path": p, "sha256": sha256(c), "bytes": len(c)} for p, c in FILES.items()],
    }


def test_is_pulled_requires_the_same_source_files_and_hashes(hub):
    assert not store.is_pulled(entry("hf://org/net"))
    store.pull(entry("hf://org/net"))
    assert store.is_pulled(entry("hf://org/net"))
    assert not store.is_pulled(entry("hf://org/net@other"))
    assert not store.is_pulled(entry("hf://org/net", [*NAMES, File("more.json")]))
    assert not store.is_pulled(entry("hf://org/net", [File("config.json", "0" * 64)]))
    assert not store.is_pulled(entry(None, ()))


def test_an_entry_without_source_has_no_files():
    assert store.pull(entry(None, ())) == {}


def test_a_hub_entry_without_files_defaults_to_model_safetensors(hub):
    source = entry("hf://org/net", ())
    assert list(store.pull(source)) == ["model.safetensors"]
    assert store.is_pulled(source)


def test_a_pull_draws_a_progress_bar_on_a_terminal(hub, monkeypatch):
    terminal, clock = io.StringIO(), itertools.count()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.to(terminal):
        store.pull(entry("hf://org/net", [File("model.safetensors")]))
    assert "pull      ━" in terminal.getvalue()
    assert " MB" in terminal.getvalue()
    assert terminal.getvalue().endswith(console.CLEAR)


def test_a_deleted_blob_is_downloaded_again_at_the_locked_commit(connect):
    newer = {**FILES, "model.safetensors": b"newer"}
    with Hub({"org/net": FILES, "org/net@old": FILES}) as hub:
        connect(hub)
        blob = store.pull(entry("hf://org/net"))["model.safetensors"]
        hub.repos = {"org/net": newer, "org/net@old": FILES}
        blob.unlink()
        assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_a_truncated_blob_is_downloaded_again(hub):
    blob = store.pull(entry("hf://org/net"))["model.safetensors"]
    blob.chmod(0o644)
    blob.write_bytes(WEIGHTS[:-1])
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_another_revision_is_pulled_and_recorded(connect):
    with Hub({"org/net": FILES, "org/net@v2": {**FILES, "config.json": b"{}"}}) as hub:
        connect(hub)
        store.pull(entry("hf://org/net"))
        assert store.pull(entry("hf://org/net@v2"))["config.json"].read_bytes() == b"{}"
        assert store.receipt("native/net")["source"] == "hf://org/net@v2"
        assert [r.method for r in hub.requests].count("GET") == 3  # the weights are identical and already in the store


def test_identical_files_of_another_name_are_not_downloaded_again(hub):
    store.pull(entry("hf://org/net", [File("model.safetensors")]))
    hub.requests.clear()
    store.pull(entry("hf://org/net", [File("model.safetensors")], name="native/twin"))
    assert [r.method for r in hub.requests] == ["HEAD"]


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("cdn", [False, True])
def test_wrong_bytes_of_the_right_size_raise_and_are_not_kept(connect, path, cdn):
    with Hub({"org/net": FILES}, cdn=cdn, alter=lambda _, content: b"X" + content[1:]) as hub:
        connect(hub)
        with pytest.raises(StoreError, match=r"expected by the source itself.*corrupted in transit") as caught:
            store.pull(entry("hf://org/net", [File(path)]))
    assert path in caught.value.what
    assert hub.url in caught.value.what
    assert caught.value.fix == "zoo pull native/net"
    assert kept() == [[], []]
    assert store.receipt("native/net") is None


def test_a_hash_mismatch_error_contains_both_hashes(connect):
    with Hub({"org/net": FILES}, alter=lambda _, content: b"X" + content[1:]) as hub:
        connect(hub)
        with pytest.raises(StoreError) as caught:
            store.pull(entry("hf://org/net"))
    assert sha256(WEIGHTS) in caught.value.what
    assert sha256(b"X" + WEIGHTS[1:]) in caught.value.what


@pytest.mark.parametrize("cdn", [False, True])
def test_a_truncated_download_is_resumed_by_the_next_pull(connect, monkeypatch, cdn):
    monkeypatch.setattr("zoo.store.stream.CHUNK", 1 << 16)
    with Hub({"org/net": FILES}, cdn=cdn, alter=lambda _, content: content[: len(content) // 2]) as hub:
        connect(hub)
        with pytest.raises(StoreError, match=r"connection to .* failed") as caught:
            store.pull(entry("hf://org/net"))
    assert "check network" in caught.value.fix
    assert kept()[0] == []
    assert f"{sha256(WEIGHTS)}.part" in kept()[1]
    assert not store.is_pulled(entry("hf://org/net"))
    with Hub({"org/net": FILES}, cdn=cdn) as hub:
        connect(hub)
        assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS
    assert kept()[1] == []


def test_a_killed_pull_leaves_no_blob_and_the_next_pull_works(connect, tmp_path):
    requested, resume = threading.Event(), threading.Event()

    def stall(path, content):
        requested.set()
        resume.wait(20)
        return content

    code = "from zoo import store; from storing import entry; store.pull(entry('hf://org/net'))"
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    with Hub({"org/net": FILES}, alter=stall) as hub:
        connect(hub)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with subprocess.Popen([sys.executable, "-c", code], env=environ) as process:
            assert requested.wait(20)
            process.kill()
        resume.set()
        assert kept()[0] == []
        assert store.receipt("native/net") is None
        assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_a_hash_in_the_row_that_differs_from_the_sources_raises_before_the_download(hub):
    with pytest.raises(StoreError, match="expected by zoo.toml: " + "0" * 64) as caught:
        store.pull(entry("hf://org/net", [File("model.safetensors", "0" * 64)], catalogue="zoo.toml"))
    assert "edit zoo.toml" in caught.value.fix
    assert [r.method for r in hub.requests] == ["HEAD"]


def test_a_size_in_the_row_that_differs_from_the_sources_raises(hub):
    with pytest.raises(StoreError, match="a size of 256000 bytes; expected by its row: 7 bytes"):
        store.pull(entry("hf://org/net", [File("model.safetensors", None, 7)]))


def test_a_row_that_contradicts_the_lock_raises(hub):
    store.pull(entry("hf://org/net"))
    with pytest.raises(StoreError, match="was pulled before") as caught:
        store.pull(entry("hf://org/net", [File("config.json", "0" * 64)]))
    assert str(store.home() / "lock.toml") in caught.value.fix


def test_the_token_is_sent_only_to_the_hub(connect, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub({"org/net": FILES}, cdn=True, token="hf_secret") as hub:
        connect(hub)
        store.pull(entry("hf://org/net"))
    assert {r.headers.get("authorization") for r in hub.requests} == {"Bearer hf_secret"}
    assert [r.method for r in hub.cdn_requests] == ["GET"]
    assert all("hf_secret" not in str(r) for r in hub.cdn_requests)
    assert "hf_secret" not in (store.home() / "lock.toml").read_text()


@pytest.mark.parametrize(
    ("source", "files", "what", "fix"),
    [
        ("hf://org/none", NAMES, "has no repository org/none, or it is private", "hf auth login; zoo pull native/net"),
        ("hf://org/gated", NAMES, "is gated", "request access at http://127.0.0.1"),
        ("hf://org/net@gone", NAMES, "org/net has no revision 'gone'", "zoo pull native/net@main"),
        ("hf://org/net", [File("no.json")], "org/net@main has no file no.json", "/org/net/tree/main"),
        ("hf://org/net/sub/x", NAMES, "must be hf://organisation/repository", "correct source in the row of native"),
        ("hf://org/ne--t", NAMES, "source 'hf://org/ne--t'", "correct source in the row of native/net"),
    ],
)
def test_a_hub_error_raises_with_a_fix(connect, source, files, what, fix):
    with Hub({"org/net": FILES, "org/gated": FILES}, gated=frozenset({"org/gated"})) as hub:
        connect(hub)
        with pytest.raises(StoreError) as caught:
            store.pull(entry(source, files))
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("status", "what", "fix"),
    [
        (503, "repeatedly returned HTTP status 503", "zoo pull native/net   (retry later)"),
        (404, "returned HTTP status 404", "check source and files: zoo info native/net"),
        (403, "rejected your token (HTTP status 403)", "hf auth login; zoo pull native/net"),
    ],
)
def test_an_http_error_status_without_error_code_is_reported(connect, status, what, fix):
    with Hub({"org/net": FILES}, status=status) as hub:
        connect(hub)
        with pytest.raises(StoreError) as caught:
            store.pull(entry("hf://org/net"))
    assert what in caught.value.what
    assert caught.value.fix == fix


def test_an_endpoint_that_is_not_a_hub_raises(connect):
    with Hub({"org/net": FILES}, without=frozenset({"X-Repo-Commit"})) as hub:
        connect(hub)
        with pytest.raises(StoreError, match="is not that of a Hub: no commit header") as caught:
            store.pull(entry("hf://org/net"))
    assert "unset HF_ENDPOINT" in caught.value.fix


def test_a_failed_connection_raises_with_a_fix():
    with pytest.raises(StoreError, match=r"connection to .* failed") as caught:
        store.pull(entry("hf://org/net"))
    assert caught.value.fix == "check network and proxy (and HF_ENDPOINT), then: zoo pull native/net"


def test_an_endpoint_that_is_not_a_url_raises(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(StoreError, match=r"HF_ENDPOINT='hub\.example' is not the URL") as caught:
        store.pull(entry("hf://org/net"))
    assert "unset HF_ENDPOINT" in caught.value.fix


@pytest.mark.parametrize("switch", ["ZOO_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("source", ["hf://org/net", "https://weights.test/net"])
def test_a_pull_in_offline_mode_raises_without_a_request(hub, monkeypatch, switch, source):
    monkeypatch.setenv(switch, "1")
    with pytest.raises(StoreError, match=f"{switch}=1 disables downloads") as caught:
        store.pull(entry(source))
    assert caught.value.fix == f"unset {switch}; zoo pull native/net"
    assert hub.requests == []


def test_offline_mode_returns_pulled_files(hub, monkeypatch):
    first = store.pull(entry("hf://org/net"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert store.pull(entry("hf://org/net")) == first
