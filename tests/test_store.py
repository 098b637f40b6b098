"""The store: every source, verified bytes, one lock, and an error with a fix for whatever goes wrong."""

import hashlib
import os
import subprocess
import sys
import threading
import tomllib
from functools import partial
from pathlib import Path

import pytest
from hub import Hub, commit_of
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import store
from zoo.errors import StoreError
from zoo.plugin import Entry, File, ImageInput
from zoo.store import lock

WEIGHTS = bytes(range(256)) * 1000
FILES = {"model.safetensors": WEIGHTS, "config.json": b'{"a": 1}'}
NAMES = tuple(File(path) for path in FILES)
INPUT = ImageInput(8, (0.5,), (0.5,))


def entry(source, files=NAMES, name="native/net", catalogue=""):
    return Entry(name, "native", "image", INPUT, source=source, files=tuple(files), catalogue=catalogue)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def kept():
    """Return what is in the store: blobs, and files that are on their way."""
    return [sorted(p.name for p in (store.home() / folder).glob("*")) for folder in ("blobs", "tmp")]


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


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    for path, content in FILES.items():
        (folder / path).write_bytes(content)
    return folder


# The folder


def test_home_follows_the_environment(monkeypatch, tmp_path):
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


def test_first_pull_fetches_and_verifies(hub):
    files = store.pull(entry("hf://org/net"))
    assert {path: local.read_bytes() for path, local in files.items()} == FILES
    assert all(local.name == sha256(FILES[path]) and not local.stat().st_mode & 0o222 for path, local in files.items())
    assert kept() == [sorted(map(sha256, FILES.values())), []]


def test_each_file_costs_one_head_and_one_get_of_the_pinned_commit(hub):
    store.pull(entry("hf://org/net"))
    commit = commit_of(FILES)
    assert [(r.method, r.path) for r in hub.requests] == [
        ("HEAD", "/org/net/resolve/main/model.safetensors"),
        ("HEAD", f"/org/net/resolve/{commit}/config.json"),
        ("GET", f"/org/net/resolve/{commit}/model.safetensors"),
        ("GET", f"/org/net/resolve/{commit}/config.json"),
    ]


def test_second_pull_makes_no_request(hub):
    first = store.pull(entry("hf://org/net"))
    hub.requests.clear()
    assert store.pull(entry("hf://org/net")) == first
    assert hub.requests == []


def test_servers_learn_nothing_about_the_machine(hub):
    code = "from zoo import store; from test_store import entry; store.pull(entry('hf://org/net'))"
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    del environ["HF_HUB_DISABLE_TELEMETRY"]
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    assert [r.method for r in hub.requests] == ["HEAD", "HEAD", "GET", "GET"]
    assert {r.headers["user-agent"].partition("/")[0] for r in hub.requests} == {"backbone-zoo"}
    assert all("torch" not in r.headers["user-agent"] for r in hub.requests)


def test_receipt_tells_source_commit_and_hashes(hub):
    assert store.receipt("native/net") is None
    store.pull(entry("hf://org/net"))
    receipt = store.receipt("native/net")
    assert receipt.pop("when").endswith("+00:00")
    assert receipt == {
        "source": "hf://org/net",
        "commit": commit_of(FILES),
        "files": [{"path": p, "sha256": sha256(c), "bytes": len(c)} for p, c in FILES.items()],
    }


def test_is_pulled_once_it_is(hub):
    assert not store.is_pulled(entry("hf://org/net"))
    store.pull(entry("hf://org/net"))
    assert store.is_pulled(entry("hf://org/net"))
    assert not store.is_pulled(entry("hf://org/net@other"))
    assert not store.is_pulled(entry("hf://org/net", [*NAMES, File("more.json")]))
    assert not store.is_pulled(entry("hf://org/net", [File("config.json", "0" * 64)]))
    assert not store.is_pulled(entry(None, ()))


def test_entry_without_source_has_no_files():
    assert store.pull(entry(None, ())) == {}


def test_hub_entry_without_files_means_its_weight_file(hub):
    source = entry("hf://org/net", ())
    assert list(store.pull(source)) == ["model.safetensors"]
    assert store.is_pulled(source)


def test_progress_is_told_up_to_the_last_byte(hub):
    told = []
    store.pull(entry("hf://org/net"), progress=lambda *said: told.append(said))
    assert {said[0] for said in told} == set(FILES)
    assert [said for said in told if said[0] == "model.safetensors"][-1][1:] == (len(WEIGHTS), len(WEIGHTS))


def test_lost_blob_is_fetched_again_as_the_lock_has_it(connect):
    newer = {**FILES, "model.safetensors": b"newer"}
    with Hub({"org/net": FILES, "org/net@old": FILES}) as hub:
        connect(hub)
        blob = store.pull(entry("hf://org/net"))["model.safetensors"]
        hub.repos = {"org/net": newer, "org/net@old": FILES}
        blob.unlink()
        assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_truncated_blob_is_fetched_again(hub):
    blob = store.pull(entry("hf://org/net"))["model.safetensors"]
    blob.chmod(0o644)
    blob.write_bytes(WEIGHTS[:-1])
    assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_another_revision_is_fetched_and_recorded(connect):
    with Hub({"org/net": FILES, "org/net@v2": {**FILES, "config.json": b"{}"}}) as hub:
        connect(hub)
        store.pull(entry("hf://org/net"))
        assert store.pull(entry("hf://org/net@v2"))["config.json"].read_bytes() == b"{}"
        assert store.receipt("native/net")["source"] == "hf://org/net@v2"
        assert [r.method for r in hub.requests].count("GET") == 3  # the weights are the same, so they are here


def test_same_bytes_under_another_name_are_not_fetched_again(hub):
    store.pull(entry("hf://org/net", [File("model.safetensors")]))
    hub.requests.clear()
    store.pull(entry("hf://org/net", [File("model.safetensors")], name="native/twin"))
    assert [r.method for r in hub.requests] == ["HEAD"]


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("cdn", [False, True])
def test_wrong_bytes_of_the_right_size_are_refused_and_not_kept(connect, path, cdn):
    with Hub({"org/net": FILES}, cdn=cdn, alter=lambda _, content: b"X" + content[1:]) as hub:
        connect(hub)
        with pytest.raises(StoreError, match=r"expected by the source itself.*damaged on the way") as caught:
            store.pull(entry("hf://org/net", [File(path)]))
    assert path in caught.value.what
    assert hub.url in caught.value.what
    assert caught.value.fix == "zoo pull native/net"
    assert kept() == [[], []]
    assert store.receipt("native/net") is None


def test_both_hashes_are_named(connect):
    with Hub({"org/net": FILES}, alter=lambda _, content: b"X" + content[1:]) as hub:
        connect(hub)
        with pytest.raises(StoreError) as caught:
            store.pull(entry("hf://org/net"))
    assert sha256(WEIGHTS) in caught.value.what
    assert sha256(b"X" + WEIGHTS[1:]) in caught.value.what


@pytest.mark.parametrize("cdn", [False, True])
def test_cut_connection_leaves_nothing(connect, cdn):
    with Hub({"org/net": FILES}, cdn=cdn, alter=lambda _, content: content[: len(content) // 2]) as hub:
        connect(hub)
        with pytest.raises(StoreError, match="it broke") as caught:
            store.pull(entry("hf://org/net"))
    assert "check network" in caught.value.fix
    assert kept() == [[], []]
    assert not store.is_pulled(entry("hf://org/net"))


def test_killed_process_leaves_no_blob_and_the_next_pull_works(connect, tmp_path):
    asked, go_on = threading.Event(), threading.Event()

    def stall(path, content):
        asked.set()
        go_on.wait(20)
        return content

    code = "from zoo import store; from test_store import entry; store.pull(entry('hf://org/net'))"
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    with Hub({"org/net": FILES}, alter=stall) as hub:
        connect(hub)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with subprocess.Popen([sys.executable, "-c", code], env=environ) as process:
            assert asked.wait(20)
            process.kill()
        go_on.set()
        assert kept()[0] == []
        assert store.receipt("native/net") is None
        assert store.pull(entry("hf://org/net"))["model.safetensors"].read_bytes() == WEIGHTS


def test_hash_of_the_row_is_checked_before_a_byte_is_fetched(hub):
    with pytest.raises(StoreError, match="expected by zoo.toml: " + "0" * 64) as caught:
        store.pull(entry("hf://org/net", [File("model.safetensors", "0" * 64)], catalogue="zoo.toml"))
    assert "edit zoo.toml" in caught.value.fix
    assert [r.method for r in hub.requests] == ["HEAD"]


def test_size_of_the_row_is_checked(hub):
    with pytest.raises(StoreError, match="a size of 256000 bytes; expected by its row: 7 bytes"):
        store.pull(entry("hf://org/net", [File("model.safetensors", None, 7)]))


def test_row_that_contradicts_the_lock_is_an_error(hub):
    store.pull(entry("hf://org/net"))
    with pytest.raises(StoreError, match="was pulled before") as caught:
        store.pull(entry("hf://org/net", [File("config.json", "0" * 64)]))
    assert str(store.home() / "lock.toml") in caught.value.fix


def test_token_goes_to_the_hub_and_never_to_another_origin(connect, monkeypatch):
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
        ("hf://org/gated", NAMES, "is gated", "ask at http://127.0.0.1"),
        ("hf://org/net@gone", NAMES, "org/net has no revision 'gone'", "zoo pull native/net@main"),
        ("hf://org/net", [File("no.json")], "org/net@main has no file no.json", "/org/net/tree/main"),
        ("hf://org/net/sub/x", NAMES, "has to be hf://organisation/repository", "correct source in the row of native"),
        ("hf://org/ne--t", NAMES, "source 'hf://org/ne--t'", "correct source in the row of native/net"),
    ],
)
def test_what_the_hub_refuses_is_explained(connect, source, files, what, fix):
    with Hub({"org/net": FILES, "org/gated": FILES}, gated=frozenset({"org/gated"})) as hub:
        connect(hub)
        with pytest.raises(StoreError) as caught:
            store.pull(entry(source, files))
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("status", "what", "fix"),
    [
        (503, "was answered with HTTP status 503", "zoo pull native/net   (once more, in a while)"),
        (404, "was answered with HTTP status 404", "look at source and files: zoo info native/net"),
        (403, "refused your token (HTTP status 403)", "hf auth login; zoo pull native/net"),
    ],
)
def test_status_without_a_reason_is_told(connect, status, what, fix):
    with Hub({"org/net": FILES}, status=status) as hub:
        connect(hub)
        with pytest.raises(StoreError) as caught:
            store.pull(entry("hf://org/net"))
    assert what in caught.value.what
    assert caught.value.fix == fix


def test_endpoint_that_is_no_hub_is_told(connect):
    with Hub({"org/net": FILES}, without=frozenset({"X-Repo-Commit"})) as hub:
        connect(hub)
        with pytest.raises(StoreError, match="not answered by a Hub") as caught:
            store.pull(entry("hf://org/net"))
    assert "unset HF_ENDPOINT" in caught.value.fix


def test_no_connection_is_an_error_with_a_way_on():
    with pytest.raises(StoreError, match="no connection") as caught:
        store.pull(entry("hf://org/net"))
    assert caught.value.fix == "check network and proxy (and HF_ENDPOINT), then: zoo pull native/net"


def test_endpoint_that_is_no_address_is_named(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    with pytest.raises(StoreError, match=r"HF_ENDPOINT='hub\.example' is no address") as caught:
        store.pull(entry("hf://org/net"))
    assert "unset HF_ENDPOINT" in caught.value.fix


@pytest.mark.parametrize("switch", ["ZOO_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("source", ["hf://org/net", "https://weights.test/net"])
def test_offline_makes_no_request_and_says_so(hub, monkeypatch, switch, source):
    monkeypatch.setenv(switch, "1")
    with pytest.raises(StoreError, match=f"{switch}=1 forbids") as caught:
        store.pull(entry(source))
    assert caught.value.fix == f"unset {switch}; zoo pull native/net"
    assert hub.requests == []


def test_offline_serves_what_is_pulled(hub, monkeypatch):
    first = store.pull(entry("hf://org/net"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert store.pull(entry("hf://org/net")) == first


# The web


@pytest.fixture
def detour():
    """Lead the client's https://weights.test to a loopback server, with the client's own means."""
    from huggingface_hub import get_session, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def lead(server):
        port = int(server.cdn_url.rpartition(":")[2])

        def turn(request):
            if request.url.host == "weights.test":
                request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)

        set_client_factory(partial(type(get_session()), event_hooks={"request": [turn]}))

    yield lead
    set_client_factory(default_client_factory)


def test_https_source_is_a_plain_get_without_a_token(detour, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub({"org/net": FILES}) as server:
        detour(server)
        source = entry(f"https://weights.test/{sha256(WEIGHTS)}", [File("model.safetensors", sha256(WEIGHTS))])
        assert store.pull(source)["model.safetensors"].read_bytes() == WEIGHTS
    assert [(r.method, r.path) for r in server.cdn_requests] == [("GET", f"/{sha256(WEIGHTS)}/model.safetensors")]
    assert "hf_secret" not in str(server.cdn_requests)


def test_https_file_with_another_hash_is_refused(detour):
    with Hub({"org/net": FILES}) as server:
        detour(server)
        with pytest.raises(StoreError, match=r"expected by zoo\.toml: 0000"):
            store.pull(
                entry(
                    f"https://weights.test/{sha256(WEIGHTS)}",
                    [File("model.safetensors", "0" * 64)],
                    catalogue="zoo.toml",
                )
            )
    assert kept() == [[], []]


def test_body_beyond_the_size_of_the_row_is_stopped(detour):
    with Hub({"org/net": FILES}) as server:
        detour(server)
        with pytest.raises(StoreError, match="more than 10 bytes; expected by its row: 10 bytes"):
            store.pull(
                entry(f"https://weights.test/{sha256(WEIGHTS)}", [File("model.safetensors", sha256(WEIGHTS), 10)])
            )
    assert kept() == [[], []]


def test_https_status_is_told(detour):
    with Hub({"org/net": FILES}) as server:
        detour(server)
        with pytest.raises(StoreError, match="answered with HTTP status 404") as caught:
            store.pull(entry("https://weights.test/none"))
    assert "zoo info native/net" in caught.value.fix


# Files and packages of this machine


def test_file_source_is_copied_and_verified(folder):
    files = store.pull(entry(folder.as_uri(), [File("model.safetensors", sha256(WEIGHTS), len(WEIGHTS))]))
    assert files["model.safetensors"].read_bytes() == WEIGHTS
    assert files["model.safetensors"].parent == store.home() / "blobs"


@pytest.mark.parametrize("catalogue", [True, False])
def test_relative_file_source_starts_at_the_catalogue_or_the_working_folder(folder, monkeypatch, catalogue):
    monkeypatch.chdir("/" if catalogue else folder.parent)
    where = str(folder.parent / "zoo.toml") if catalogue else ""
    assert store.pull(entry("file://./a%20folder", catalogue=where))["config.json"].read_bytes() == b'{"a": 1}'


def test_other_source_of_a_name_is_fetched_afresh(folder, tmp_path):
    store.pull(entry(folder.as_uri()))
    (tmp_path / "config.json").write_bytes(b"other")
    assert store.pull(entry(tmp_path.as_uri(), [File("config.json")]))["config.json"].read_bytes() == b"other"


def test_wrong_local_bytes_are_refused_and_not_kept(folder):
    with pytest.raises(StoreError, match="SHA-256"):
        store.pull(entry(folder.as_uri(), [File("config.json", sha256(b"else"))]))
    assert kept() == [[], []]


def test_file_that_cannot_be_read_is_an_error():
    """The memory of a process looks like a file, and cannot be read from its start."""
    with pytest.raises(StoreError, match="/proc/self/mem cannot be read") as caught:
        store.pull(entry("file:///proc/self", [File("mem")]))
    assert caught.value.fix == "chmod u+r '/proc/self/mem', then: zoo pull native/net"
    assert kept() == [[], []]


def test_package_source_is_found_through_its_distribution(distribution):
    package = distribution(name="acme-weights")
    (package / "weights").mkdir()
    (package / "weights" / "net.safetensors").write_bytes(WEIGHTS)
    source = entry(f"package://acme-weights/{package.name}/weights", [File("net.safetensors")])
    assert store.pull(source)["net.safetensors"].read_bytes() == WEIGHTS


def test_package_source_is_found_in_an_editable_install_without_importing_it(distribution, tmp_path, monkeypatch):
    distribution(name="acme-weights")
    package = tmp_path / "checkout" / "acme_editable"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "net.safetensors").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(package.parent))
    source = entry("package://acme-weights/acme_editable", [File("net.safetensors")])
    assert store.pull(source)["net.safetensors"].read_bytes() == WEIGHTS
    assert "acme_editable" not in sys.modules


def test_missing_package_names_the_command_that_installs_it():
    with pytest.raises(StoreError, match="no-such-dist, which is not installed") as caught:
        store.pull(entry("package://no-such-dist/pkg"))
    assert caught.value.fix == "pip install no-such-dist"


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("file:///no/such/folder", "there is no file /no/such/folder/model.safetensors"),
        ("file://host/folder", "has to be file:///absolute/folder"),
        ("package://pytest", "has to be package://"),
        ("package://pytest/../x", "has to be package://"),
        ("https://host/a?b=c", "has to be https://host/folder"),
        ("ftp://host", "has to start with one of file://, package://, hf://, https://"),
    ],
)
def test_source_that_cannot_be_used_is_explained(source, rule):
    with pytest.raises(StoreError) as caught:
        store.pull(entry(source))
    assert rule in caught.value.what
    assert caught.value.fix == "correct source in the row of native/net"


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", "c:\\x"])
def test_path_that_leaves_its_source_is_refused(folder, path):
    with pytest.raises(StoreError, match="leaves its source"):
        store.pull(entry(folder.as_uri(), [File(path)]))


def test_source_without_files_says_what_to_add(folder):
    with pytest.raises(StoreError, match="no files of it") as caught:
        store.pull(entry(folder.as_uri(), ()))
    assert "add files = " in caught.value.fix


def test_store_that_cannot_be_written_is_an_error(folder, monkeypatch, tmp_path):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "occupied" / "store"))
    with pytest.raises(StoreError, match="occupied") as caught:
        store.pull(entry(folder.as_uri()))
    assert "ZOO_HOME=/another/folder zoo pull native/net" in caught.value.fix


def test_full_disk_is_an_error_and_leaves_nothing(folder):
    """A limit on the size of files stands for the full disk: the write fails in the middle."""
    code = (
        "import resource, signal, sys; from zoo import store; from test_store import entry\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (99999, 99999))\n"
        "try: store.pull(entry(sys.argv[1]))\nexcept store.StoreError as error: print(error)"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, folder.as_uri()]
    said = subprocess.run(command, env=environ, capture_output=True, text=True).stdout
    assert "the store cannot be written" in said
    assert "fix: free some space" in said
    assert kept() == [[], []]


# The lock

TEXT = st.text(max_size=30)
PATH = st.from_regex(r"[a-z]{1,8}(/[a-zé\"' \n\x7f]{1,8})?", fullmatch=True)
FILE = st.builds(File, PATH, st.binary(max_size=4).map(sha256), st.integers(0, 2**62))
RECEIPT = st.builds(lock.Receipt, TEXT, st.none() | TEXT.filter(bool), st.lists(FILE, max_size=3).map(tuple), TEXT)


@settings(deadline=None)
@given(st.text())
def test_quoted_text_is_read_back_by_tomllib(text):
    assert tomllib.loads(f"{lock.quote(text)} = {lock.quote(text)}") == {text: text}


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(TEXT, RECEIPT, max_size=3))
def test_lock_reads_what_it_wrote(receipts):
    path = store.home() / "any" / "lock.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lock.dump(receipts), encoding="utf-8", newline="\n")
    assert lock.read(path) == receipts


def test_threads_that_record_at_once_lose_nothing(tmp_path):
    path = tmp_path / "lock.toml"
    receipt = lock.Receipt("file:///x", None, (File("a", "0" * 64, 1),), "now")
    threads = [threading.Thread(target=lock.record, args=(path, f"n/{i}", receipt)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lock.read(path)) == [f"n/{i}" for i in range(8)]
    assert sorted(p.name for p in tmp_path.glob("lock*")) == ["lock.toml", "lock.toml.lock"]


def test_lock_held_by_another_is_an_error_in_bounded_time(tmp_path, monkeypatch):
    import filelock

    monkeypatch.setattr(lock, "WAIT", 0.05)
    with (
        filelock.FileLock(tmp_path / "lock.toml.lock"),
        pytest.raises(StoreError, match="by another process") as caught,
    ):
        lock.record(tmp_path / "lock.toml", "n/a", lock.Receipt("file:///x", None, (), "now"))
    assert "zoo pull n/a" in caught.value.fix


def test_lock_that_cannot_be_read_is_an_error():
    (store.home() / "lock.toml").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"lock\.toml: cannot be read") as caught:
        store.receipt("n/a")
    assert caught.value.fix.startswith("chmod u+r ")


GOOD = f'["n/a"]\nsource = "s"\nwhen = "w"\nfiles = [{{ path = "p", sha256 = "{"0" * 64}", bytes = 1 }}]\n'


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (GOOD + "x = = 1\n", 5, "Invalid value"),
        ("\n\nn = 1\n", 3, '["n"]: has to be a table'),
        ("\n" + GOOD.replace("when", "then"), 2, "'when' is missing"),
        (GOOD.replace('"s"', "1"), 1, "source, commit and when have to be texts"),
        (GOOD.replace('"p"', '"../p"'), 1, "'../p' has to name a file below the source"),
        (GOOD.replace("0000", "zz"), 1, "sha256 of p has to be 64 hexadecimal digits"),
        (GOOD.replace("bytes = 1", "bytes = -1"), 1, "bytes of p has to be a whole number, not -1"),
        ("\udcff", 1, "codec can't decode"),
    ],
)
def test_damaged_lock_is_named_with_its_line(text, line, said):
    path = store.home() / "lock.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(StoreError) as caught:
        store.receipt("n/a")
    assert caught.value.what.startswith(f"{path}:{line}: ")
    assert said in caught.value.what
    assert f"rm '{path}'" in caught.value.fix
