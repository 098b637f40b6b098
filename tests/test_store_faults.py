"""Whatever goes wrong on the way: the right bytes under the right name, or an error with a fix; never a wrong file."""

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
    """Small chunks and short waits; and after each case, look at everything that is in the store."""
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


def served(hub: Hub) -> int:
    return sum(request.method == "GET" for request in [*hub.requests, *hub.cdn_requests])


MENDED = {
    "cut connection": [faults.cut(1000)],
    "cut at once, three times": [faults.cut(0)] * 3,
    "cut again and again, with progress": [faults.cut(CHUNK // 3)] * 12,
    "reset connection": [faults.reset(70_000), faults.reset(10)],
    "stalled connection": [faults.stall(500, 1.5)],
    "429 with Retry-After in seconds": [faults.status(429, Retry_After="0")],
    "429 with Retry-After as a date": [faults.status(429, Retry_After=formatdate(time.time() - 5, usegmt=True))],
    "500 then fine": [faults.status(500)] * 2,
    "503 then fine": [None, None, faults.status(503), faults.status(503)],
    "wrong bytes of the right size, once": [None, None, faults.wrong],
    "body that is too short, once": [faults.cut(3)],
    "ranges answered one by one": [None, faults.cut(1), None, faults.reset(5), None, faults.status(502)],
}


@pytest.mark.parametrize("case", MENDED)
@pytest.mark.parametrize("cdn", [False, True], ids=["", "cdn"])
def test_what_can_be_mended_is(hub, case, cdn):
    hub.faults, hub.cdn = list(MENDED[case]), cdn
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    assert hub.faults == []


@pytest.mark.parametrize("case", sorted(MENDED.keys() - {"cut again and again, with progress"}))
def test_what_can_be_mended_is_without_ranges_too(hub, case):
    hub.ranges, hub.faults = False, list(MENDED[case])
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


REFUSED = {
    "always cut": (faults.cut(0), "no connection"),
    "always reset": (faults.reset(0), "no connection"),
    "always 500": (faults.status(500), "HTTP status 500"),
    "always 503": (faults.status(503), "HTTP status 503"),
    "429, come back in an hour": (faults.status(429, Retry_After="3600"), "HTTP status 429"),
    "wrong bytes, always": (faults.wrong, "expected by the source itself"),
    "body that says it is shorter": (faults.short, "ends at byte"),
    "body that says it is longer": (faults.long, "more than"),
    "another range than asked for": (faults.elsewhere, "was asked for byte 0 and answered from byte 1"),
    "compressed though not asked for": (faults.zipped, "was sent as gzip"),
    "not there after all": (faults.status(404), "HTTP status 404"),
    "redirect to a file": (faults.lead("file:///etc/passwd"), "not safe"),
    "redirect in a circle": (faults.lead("{self}/org/net/resolve/main/model.safetensors"), "redirected more than"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_mended_is_an_error_with_a_fix(hub, case):
    hub.always, said = REFUSED[case]
    start = time.monotonic()
    with pytest.raises(StoreError, match=said) as caught:
        store.pull(entry("hf://org/net", ONE))
    assert "zoo pull native/net" in caught.value.fix or "zoo info native/net" in caught.value.fix
    assert time.monotonic() - start < 20
    assert store.receipt("native/net") is None
    hub.always = None
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_the_time_to_come_back_is_told(hub):
    hub.always = faults.status(429, Retry_After="3600")
    with pytest.raises(StoreError) as caught:
        store.pull(entry("hf://org/net", ONE))
    assert "in 3,600 seconds" in caught.value.fix


def test_always_stalled_ends(hub, monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.05)
    hub.always = faults.stall(0, 1)
    with pytest.raises(StoreError, match="no connection"):
        store.pull(entry("hf://org/net", ONE))


@pytest.mark.parametrize("without", ["ETag", "X-Linked-Etag"])
def test_missing_etag_is_no_reason_to_fail(hub, without):
    """Without a hash from the source, the first pull notes what came; the lock holds all later ones to it."""
    hub.without = frozenset({"ETag", "X-Linked-Etag"} if without == "ETag" else {without})
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    assert store.receipt("native/net")["files"][0]["sha256"] == sha256(LARGE)


def test_a_redirect_to_another_origin_does_not_take_the_token_along(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.cdn, hub.token = True, "hf_secret"
    store.pull(entry("hf://org/net", ONE))
    assert len(hub.cdn_requests) > 10
    assert "hf_secret" not in str(hub.cdn_requests)
    assert not any(
        "hf_secret" in path.read_text(errors="ignore") for path in store.home().rglob("*.*") if path.is_file()
    )


@pytest.fixture
def asked_afresh():
    """Have the Hub's client look at the environment again: it keeps one session for the whole process."""
    from huggingface_hub import close_session

    close_session()
    yield
    close_session()


def test_the_proxy_of_the_environment_is_used_with_its_credentials(hub, monkeypatch, asked_afresh):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.test")
    monkeypatch.setenv("http_proxy", hub.url.replace("//", "//me:word@"))
    monkeypatch.setenv("no_proxy", "")
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    bytes_asked = [request for request in hub.requests if request.method == "GET"]
    assert {request.path.partition("/org")[0] for request in bytes_asked} == {"http://hub.test"}
    assert {request.headers["proxy-authorization"] for request in bytes_asked} == {"Basic bWU6d29yZA=="}
    assert all("word" not in path.read_text() for path in store.home().glob("*.toml"))


def test_a_host_that_is_excepted_is_asked_without_the_proxy(hub, monkeypatch, asked_afresh):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_a_commit_that_is_gone_says_what_to_do(hub):
    blob = store.pull(entry("hf://org/net", ONE))["model.safetensors"]
    newer = {**FILES, "model.safetensors": b"newer"}
    hub.repos = {"org/net": newer}
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE  # from the store
    blob.unlink()
    with pytest.raises(StoreError, match="has no longer the commit") as caught:
        store.pull(entry("hf://org/net", ONE))
    assert caught.value.fix.startswith("zoo pull native/net --update")
    with store.using(update=True):
        assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == b"newer"
    assert store.receipt("native/net")["commit"] == commit_of(newer)


def child(code: str, **env: str) -> subprocess.Popen[str]:
    """Start a Python that has what this file has; `pull()` in it fetches the large file."""
    start = (
        "import os, sys, time; from zoo.store import stream, http; from zoo import errors, store; from zoo.plugin import File\n"
        f"from storing import entry\nstream.CHUNK = {CHUNK}\n"
        "def pull(): return store.pull(entry('hf://org/net', [File('model.safetensors')]))['model.safetensors']\n"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]), **env}
    return subprocess.Popen([sys.executable, "-c", start + code], env=variables, text=True, stdout=subprocess.PIPE)


def test_eight_threads_and_two_processes_fetch_one_file_once(hub):
    with child("pull()") as one, child("pull()") as other:
        threads = [threading.Thread(target=lambda: store.pull(entry("hf://org/net", ONE))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert (one.returncode, other.returncode) == (0, 0)
    asked = [request.headers["range"] for request in hub.requests if request.method == "GET"]
    assert len(asked) == len(set(asked)) == 21  # each chunk once, over all of them
    assert store.is_pulled(entry("hf://org/net", ONE))


def test_a_killed_pull_lets_go_of_the_file_and_the_next_goes_on_with_it(hub):
    asked, go_on = threading.Event(), threading.Event()

    def hold(handler, content):
        asked.set()
        go_on.wait(20)
        return False

    hub.faults = [None] * 10 + [hold] * 11
    with child("pull()") as process:
        assert asked.wait(20)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    hub.faults = []
    go_on.set()
    time.sleep(0.1)
    before = served(hub)
    part = store.home() / "tmp" / f"{sha256(LARGE)}.part"
    there = part.stat().st_size
    assert there >= 3 * CHUNK
    assert LARGE.startswith(part.read_bytes())
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
    assert served(hub) - before == -(-(len(LARGE) - there) // CHUNK)


def test_a_part_with_wrong_bytes_is_fetched_afresh(hub):
    (store.home() / "tmp").mkdir(parents=True)
    (store.home() / "tmp" / f"{sha256(LARGE)}.part").write_bytes(b"x" * 5 * CHUNK)
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_a_clock_that_jumps_does_not_matter(hub):
    code = "t = [0]\ndef clock():\n t[0] += 1\n return 1e9 * (t[0] % 3)\ntime.time = clock\npull()"
    hub.faults = [faults.status(503), faults.cut(9)]
    with child(code) as process:
        assert process.wait(30) == 0
    assert store.is_pulled(entry("hf://org/net", ONE))


ORDINARY = (
    "import ctypes\n"
    "if os.getuid() == 0: ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())\n"
)
"""Root may write everywhere; without its capabilities (Linux's capset, header of version 3) it may what others may."""


@pytest.fixture
def read_only():
    """Return a function that takes the right to write away from the store, until the test ends."""

    def lock_up(allowed=0o555):
        for path in [*store.home().rglob("*"), store.home()]:
            path.chmod(allowed if path.is_dir() else allowed & 0o666)

    yield lock_up
    lock_up(0o755)


def test_a_filled_store_that_cannot_be_written_serves(hub, read_only):
    store.pull(entry("hf://org/net", ONE))
    read_only()
    with child(ORDINARY + "print(pull().stat().st_size)") as process:
        assert process.communicate(timeout=30)[0] == f"{len(LARGE)}\n"


def test_an_empty_store_that_cannot_be_written_says_so(hub, read_only):
    store.home().mkdir()
    read_only()
    code = ORDINARY + "try: pull()\nexcept errors.StoreError as error: print(error.what, error.fix)"
    with child(code) as process:
        said = process.communicate(timeout=30)[0]
    assert "cannot be written" in said
    assert "ZOO_HOME=/another/folder zoo pull native/net" in said


def test_a_disk_that_gets_full_in_the_middle_keeps_what_has_come(hub):
    code = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({5 * CHUNK}, {5 * CHUNK}))\n"
        "try: pull()\nexcept errors.StoreError as error: print(error)"
    )
    with child(code) as process:
        said = process.communicate(timeout=30)[0]
    assert "the store cannot be written" in said
    assert "fix: free some space" in said
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE


def test_too_little_room_is_told_before_a_byte_is_fetched(hub, monkeypatch):
    from zoo.store import transfer

    usage = transfer.shutil.disk_usage("/")._replace(free=len(LARGE))
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match=r"1 MB are to be fetched, and .* has 1 MB free"):
        store.pull(entry("hf://org/net", ONE))
    assert served(hub) == 0


@pytest.mark.parametrize("path", FILES)
def test_what_the_cache_of_the_hubs_client_holds_is_checked_and_linked(hub, path):
    blobs = Path(os.environ["HF_HOME"]) / "hub" / "models--org--net" / "blobs"
    blobs.mkdir(parents=True)
    cached = blobs / etag_of(path, FILES[path])
    cached.write_bytes(FILES[path])
    found = store.pull(entry("hf://org/net", [File(path)]))[path]
    assert found.samefile(cached)
    assert served(hub) == 0


def test_a_damaged_file_of_that_cache_is_not_taken(hub):
    blobs = Path(os.environ["HF_HOME"]) / "hub" / "models--org--net" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / sha256(LARGE)).write_bytes(b"X" + LARGE[1:])
    assert store.pull(entry("hf://org/net", ONE))["model.safetensors"].read_bytes() == LARGE
