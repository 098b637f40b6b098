"""Fault injection for downloads: each one ends with a verified file or with an error and a fix."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import faults
import pytest
from hub import Hub, commit_of, etag_of
from storing import entry, sha256

from zoo import store
from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import http, lock, receipts, stream

CHUNK = 1 << 16
LARGE = random.Random(0).randbytes(20 * CHUNK + 123)
FILES = {"model.safetensors": LARGE, "config.json": b'{"a": 1}'}
ONE = [File("model.safetensors")]
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Use small chunks and short timeouts, and check the hash of every blob after each test."""
    monkeypatch.setattr(stream, "CHUNK", CHUNK)
    monkeypatch.setattr(http, "TIMEOUT", 0.5)
    yield
    for blob in (store.home() / "blobs").glob("*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    for receipt in lock.read(receipts.own()).values():
        assert all((store.home() / "blobs" / str(file.sha256)).exists() for file in receipt.files)


@pytest.fixture
def hub(monkeypatch):
    with Hub({"org/net": FILES}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def get_count(hub: Hub) -> int:
    return sum(request.method == "GET" for request in [*hub.requests, *hub.cdn_requests])


RECOVERED = {
    "cut connection": [faults.cut(1000)],
    "cut at once, three times": [faults.cut(0)] * 3,
    "cut again and again, with progress": [faults.cut(CHUNK // 3)] * 12,
    "reset connection": [faults.reset(70_000), faults.reset(10)],
    "stalled connection": [faults.stall(500, 1.5)],
    "429 with Retry-After in seconds": [faults.status(429, Retry_After="0")],
    "429 with Retry-After as a date": [faults.status(429, Retry_After=formatdate(time.time() - 5, usegmt=True))],
    "500 twice, then 200": [faults.status(500)] * 2,
    "503 twice, then 200": [None, None, faults.status(503), faults.status(503)],
    "wrong bytes of the right size, once": [None, None, faults.wrong],
    "truncated body, once": [faults.cut(3)],
    "every other range fails": [None, faults.cut(1), None, faults.reset(5), None, faults.status(502)],
}


@pytest.mark.parametrize("case", RECOVERED)
@pytest.mark.parametrize("cdn", [False, True], ids=["", "cdn"])
def test_a_retryable_failure_is_retried(hub, case, cdn):
    hub.faults, hub.cdn = list(RECOVERED[case]), cdn
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    assert hub.faults == []


@pytest.mark.parametrize("case", sorted(RECOVERED.keys() - {"cut again and again, with progress"}))
def test_a_retryable_failure_is_retried_without_range_support(hub, case):
    hub.ranges, hub.faults = False, list(RECOVERED[case])
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


FATAL = {
    "always cut": (faults.cut(0), "connection to .* failed"),
    "always reset": (faults.reset(0), "connection to .* failed"),
    "always 500": (faults.status(500), "HTTP status 500"),
    "always 503": (faults.status(503), "HTTP status 503"),
    "429 with Retry-After of an hour": (faults.status(429, Retry_After="3600"), "HTTP status 429"),
    "wrong bytes, always": (faults.wrong, "expected by the source itself"),
    "shorter Content-Length": (faults.short, "ended early at byte"),
    "longer Content-Length": (faults.long, "more than"),
    "range other than requested": (faults.elsewhere, "a range that starts at byte 1, not 0"),
    "gzip that was not requested": (faults.zipped, "returned Content-Encoding gzip"),
    "404 after the metadata": (faults.status(404), "HTTP status 404"),
    "redirect to file://": (faults.lead("file:///etc/passwd"), "insecure"),
    "redirect loop": (faults.lead("{self}/org/net/resolve/main/model.safetensors"), "redirects more than"),
}


@pytest.mark.parametrize("case", FATAL)
def test_a_fatal_failure_raises_with_a_fix(hub, case):
    hub.always, message = FATAL[case]
    start = time.monotonic()
    with pytest.raises(StoreError, match=message) as caught:
        store.pull(entry("hf://org/net", ONE))
    assert "zoo pull native/net" in caught.value.fix or "zoo info native/net" in caught.value.fix
    assert time.monotonic() - start < 20
    assert store.receipt("native/net") is None
    hub.always = None
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_a_long_retry_after_is_reported_in_the_fix(hub):
    hub.always = faults.status(429, Retry_After="3600")
    with pytest.raises(StoreError) as caught:
        store.pull(entry("hf://org/net", ONE))
    assert "in 3,600 seconds" in caught.value.fix


def test_a_download_that_always_stalls_times_out(hub, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.05)
    hub.always = faults.stall(0, 1)
    with pytest.raises(StoreError, match=r"connection to .* failed"):
        store.pull(entry("hf://org/net", ONE))


@pytest.mark.parametrize("without", ["ETag", "X-Linked-Etag"])
def test_a_file_without_etag_is_pulled_and_its_hash_recorded(hub, without):
    """Without a hash from the source, the first pull records the hash of the file; later pulls verify against it."""
    hub.without = frozenset({"ETag", "X-Linked-Etag"} if without == "ETag" else {without})
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    assert store.receipt("native/net")["files"][0]["sha256"] == sha256(LARGE)


def test_the_token_is_not_sent_to_a_redirect_target_at_another_origin(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.cdn, hub.token = True, "hf_secret"
    store.pull(entry("hf://org/net", ONE))
    assert len(hub.cdn_requests) > 10
    assert "hf_secret" not in str(hub.cdn_requests)
    assert not any(
        "hf_secret" in path.read_text(errors="ignore") for path in store.home().rglob("*.*") if path.is_file()
    )


@pytest.fixture
def fresh_session():
    """Close huggingface_hub's process-wide session, so that it reads the proxy environment variables again."""
    from huggingface_hub import close_session

    close_session()
    yield
    close_session()


def test_the_proxy_from_the_environment_is_used_with_its_credentials(hub, monkeypatch, fresh_session):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.test")
    monkeypatch.setenv("http_proxy", hub.url.replace("//", "//me:word@"))
    monkeypatch.setenv("no_proxy", "")
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    requests = [request for request in hub.requests if request.method == "GET"]
    assert {request.path.partition("/org")[0] for request in requests} == {"http://hub.test"}
    assert {request.headers["proxy-authorization"] for request in requests} == {"Basic bWU6d29yZA=="}
    assert all("word" not in path.read_text() for path in store.home().glob("*.toml"))


def test_a_host_in_no_proxy_is_accessed_directly(hub, monkeypatch, fresh_session):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_a_deleted_commit_raises_with_the_update_command(hub):
    blob = store.pull(entry("hf://org/net", ONE))["model.safetensors"]
    newer = {**FILES, "model.safetensors": b"newer"}
    hub.repos = {"org/net": newer}
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE  # from the store
    blob.unlink()
    with pytest.raises(StoreError, match="no longer has the commit") as caught:
        store.pull(entry("hf://org/net", ONE))
    assert caught.value.fix.startswith("zoo pull native/net --update")
    with store.using(update=True):
        assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == b"newer"
    assert store.receipt("native/net")["commit"] == commit_of(newer)


def child(code: str, **env: str) -> subprocess.Popen[str]:
    """Start a Python subprocess that runs `code`; `pull()` in it pulls the large file."""
    start = (
        "import os, sys, time; from zoo.store import stream, http\n"
        "from zoo import errors, store; from zoo.plugin import File\n"
        f"from storing import drop_root, entry\nstream.CHUNK = {CHUNK}\n"
        "def pull(): return store.pull(entry('hf://org/net', [File('model.safetensors')]))['model.safetensors']\n"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), **env}
    return subprocess.Popen([sys.executable, "-c", start + code], env=variables, text=True, stdout=subprocess.PIPE)


def test_concurrent_threads_and_processes_download_a_file_once(hub):
    with child("pull()") as one, child("pull()") as other:
        threads = [threading.Thread(target=lambda: store.pull(entry("hf://org/net", ONE))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert (one.returncode, other.returncode) == (0, 0)
    ranges = [request.headers["range"] for request in hub.requests if request.method == "GET"]
    assert len(ranges) == len(set(ranges)) == 21  # each chunk once
    assert store.is_pulled(entry("hf://org/net", ONE))


def test_a_killed_pull_releases_its_lock_and_is_resumed_by_the_next(hub):
    requested, resume = threading.Event(), threading.Event()

    def hold(handler, content):
        requested.set()
        resume.wait(20)
        return False

    hub.faults = [None] * 10 + [hold] * 11
    with child("pull()") as process:
        assert requested.wait(20)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    hub.faults = []
    resume.set()
    time.sleep(0.1)
    before = get_count(hub)
    part = store.home() / "tmp" / f"{sha256(LARGE)}.part"
    size = part.stat().st_size
    assert size >= 3 * CHUNK
    assert LARGE.startswith(part.read_bytes())
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    assert get_count(hub) - before == -(-(len(LARGE) - size) // CHUNK)


def test_a_corrupt_partial_download_is_restarted(hub):
    (store.home() / "tmp").mkdir(parents=True)
    (store.home() / "tmp" / f"{sha256(LARGE)}.part").write_bytes(b"x" * 5 * CHUNK)
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_a_pull_works_with_a_system_clock_that_jumps(hub):
    code = "t = [0]\ndef clock():\n t[0] += 1\n return 1e9 * (t[0] % 3)\ntime.time = clock\npull()"
    hub.faults = [faults.status(503), faults.cut(9)]
    with child(code) as process:
        assert process.wait(30) == 0
    assert store.is_pulled(entry("hf://org/net", ONE))


@pytest.fixture
def read_only():
    """Return a function that makes the store read-only until the test ends."""

    def set_mode(mode=0o555):
        for path in [*store.home().rglob("*"), store.home()]:
            path.chmod(mode if path.is_dir() else mode & 0o666)

    yield set_mode
    set_mode(0o755)


def test_a_read_only_store_returns_pulled_files(hub, read_only):
    store.pull(entry("hf://org/net", ONE))
    read_only()
    with child("drop_root(); print(pull().stat().st_size)") as process:
        assert process.communicate(timeout=30)[0] == f"{len(LARGE)}\n"


def test_a_pull_into_a_read_only_store_raises(hub, read_only):
    store.home().mkdir()
    read_only()
    code = "drop_root()\ntry: pull()\nexcept errors.StoreError as error: print(error.what, error.fix)"
    with child(code) as process:
        output = process.communicate(timeout=30)[0]
    assert "cannot be written" in output
    assert "ZOO_HOME=/another/folder zoo pull native/net" in output


def test_a_disk_that_fills_up_during_a_download_raises_and_the_next_pull_works(hub):
    code = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({5 * CHUNK}, {5 * CHUNK}))\n"
        "try: pull()\nexcept errors.StoreError as error: print(error)"
    )
    with child(code) as process:
        output = process.communicate(timeout=30)[0]
    assert "the store cannot be written" in output
    assert "fix: free some space" in output
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_too_little_disk_space_raises_before_the_download(hub, monkeypatch):
    from zoo.store import transfer

    usage = transfer.shutil.disk_usage("/")._replace(free=len(LARGE))
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"the download needs 1 MB, but .* has 1 MB free"):
        store.pull(entry("hf://org/net", ONE))
    assert get_count(hub) == 0


@pytest.mark.parametrize("path", FILES)
def test_a_file_in_the_huggingface_hub_cache_is_verified_and_hard_linked(hub, path):
    blobs = Path(os.environ["HF_HOME"]) / "hub" / "models--org--net" / "blobs"
    blobs.mkdir(parents=True)
    cached = blobs / etag_of(path, FILES[path])
    cached.write_bytes(FILES[path])
    found = store.pull(entry("hf://org/net", [File(path)]))[path]
    assert found.samefile(cached)
    assert get_count(hub) == 0


def test_a_damaged_file_in_the_huggingface_hub_cache_is_not_used(hub):
    blobs = Path(os.environ["HF_HOME"]) / "hub" / "models--org--net" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / sha256(LARGE)).write_bytes(b"X" + LARGE[1:])
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
