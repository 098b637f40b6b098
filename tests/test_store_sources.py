"""The store's other sources: the web, files and packages of this machine, and a disk that fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub
from storing import FILES, WEIGHTS, entry, kept, sha256

from zoo import store
from zoo.errors import StoreError
from zoo.plugin import File


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    for path, content in FILES.items():
        (folder / path).write_bytes(content)
    return folder


# The web


@pytest.fixture
def detour(monkeypatch):
    """Lead the connection to https://weights.test to a loopback server."""
    import http.client

    from zoo.store import http as ours

    def lead(server):
        connect = ours._connect
        port = int(server.cdn_url.rpartition(":")[2])

        def turned(parts):
            if parts.hostname == "weights.test":
                return http.client.HTTPConnection("127.0.0.1", port, timeout=9)
            return connect(parts)

        monkeypatch.setattr(ours, "_connect", turned)

    return lead


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


def test_full_disk_is_an_error_and_no_file_gets_a_name(folder):
    """A limit on the size of files stands for the full disk: the write fails in the middle."""
    code = (
        "import resource, signal, sys; from zoo import errors, store; from storing import entry\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (99999, 99999))\n"
        "try: store.pull(entry(sys.argv[1]))\nexcept errors.StoreError as error: print(error)"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, folder.as_uri()]
    said = subprocess.run(command, env=environ, capture_output=True, text=True).stdout
    assert "the store cannot be written" in said
    assert "fix: free some space" in said
    assert sha256(WEIGHTS) not in kept()[0]
    assert store.receipt("native/net") is None
