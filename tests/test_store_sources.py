"""Store sources other than the Hub: https, local files and installed packages; disk failures."""

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


# https


@pytest.fixture
def serve_https(monkeypatch):
    """Return a function that routes connections to https://weights.test to a loopback server."""
    import http.client

    from zoo.store import http as store_http

    def route(server):
        connect = store_http._connect
        port = int(server.cdn_url.rpartition(":")[2])

        def routed(parts):
            if parts.hostname == "weights.test":
                return http.client.HTTPConnection("127.0.0.1", port, timeout=9)
            return connect(parts)

        monkeypatch.setattr(store_http, "_connect", routed)

    return route


def test_an_https_source_is_one_get_without_token(serve_https, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub({"org/net": FILES}) as server:
        serve_https(server)
        source = entry(f"https://weights.test/{sha256(WEIGHTS)}", [File("model.safetensors", sha256(WEIGHTS))])
        assert store.pull(source)["model.safetensors"].read_bytes() == WEIGHTS
    assert [(r.method, r.path) for r in server.cdn_requests] == [("GET", f"/{sha256(WEIGHTS)}/model.safetensors")]
    assert "hf_secret" not in str(server.cdn_requests)


def test_an_https_file_with_a_wrong_hash_raises_and_is_not_kept(serve_https):
    with Hub({"org/net": FILES}) as server:
        serve_https(server)
        with pytest.raises(StoreError, match=r"expected by zoo\.toml: 0000"):
            store.pull(
                entry(
                    f"https://weights.test/{sha256(WEIGHTS)}",
                    [File("model.safetensors", "0" * 64)],
                    catalogue="zoo.toml",
                )
            )
    assert kept() == [[], []]


def test_a_body_longer_than_the_size_in_the_row_raises(serve_https):
    with Hub({"org/net": FILES}) as server:
        serve_https(server)
        with pytest.raises(StoreError, match="more than 10 bytes; expected by its row: 10 bytes"):
            store.pull(
                entry(f"https://weights.test/{sha256(WEIGHTS)}", [File("model.safetensors", sha256(WEIGHTS), 10)])
            )
    assert kept() == [[], []]


def test_an_https_error_status_is_reported(serve_https):
    with Hub({"org/net": FILES}) as server:
        serve_https(server)
        with pytest.raises(StoreError, match="returned HTTP status 404") as caught:
            store.pull(entry("https://weights.test/none"))
    assert "zoo info native/net" in caught.value.fix


# Local files and installed packages


def test_a_file_source_is_copied_and_verified(folder):
    files = store.pull(entry(folder.as_uri(), [File("model.safetensors", sha256(WEIGHTS), len(WEIGHTS))]))
    assert files["model.safetensors"].read_bytes() == WEIGHTS
    assert files["model.safetensors"].parent == store.home() / "blobs"


@pytest.mark.parametrize("catalogue", [True, False])
def test_a_relative_file_source_is_relative_to_the_catalogue_else_to_the_working_directory(
    folder, monkeypatch, catalogue
):
    monkeypatch.chdir("/" if catalogue else folder.parent)
    where = str(folder.parent / "zoo.toml") if catalogue else ""
    assert store.pull(entry("file://./a%20folder", catalogue=where))["config.json"].read_bytes() == b'{"a": 1}'


def test_a_name_with_a_new_source_is_pulled_again(folder, tmp_path):
    store.pull(entry(folder.as_uri()))
    (tmp_path / "config.json").write_bytes(b"other")
    assert store.pull(entry(tmp_path.as_uri(), [File("config.json")]))["config.json"].read_bytes() == b"other"


def test_a_local_file_with_a_wrong_hash_raises_and_is_not_kept(folder):
    with pytest.raises(StoreError, match="SHA-256"):
        store.pull(entry(folder.as_uri(), [File("config.json", sha256(b"else"))]))
    assert kept() == [[], []]


def test_an_unreadable_local_file_raises(folder):
    from zoo.store import sources

    source = entry(folder.as_uri(), [File("config.json")])
    (remote,) = sources.locate(source, source.files, None)
    (folder / "config.json").unlink()
    with pytest.raises(StoreError, match=r"config\.json cannot be read") as caught:
        next(remote.stream(0))
    assert caught.value.fix == f"chmod u+r '{folder}/config.json', then: zoo pull native/net"


def test_a_package_source_is_located_through_its_distribution(distribution):
    package = distribution(name="acme-weights")
    (package / "weights").mkdir()
    (package / "weights" / "net.safetensors").write_bytes(WEIGHTS)
    source = entry(f"package://acme-weights/{package.name}/weights", [File("net.safetensors")])
    assert store.pull(source)["net.safetensors"].read_bytes() == WEIGHTS


def test_a_package_source_is_located_in_an_editable_install_without_import(distribution, tmp_path, monkeypatch):
    distribution(name="acme-weights")
    package = tmp_path / "checkout" / "acme_editable"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "net.safetensors").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(package.parent))
    source = entry("package://acme-weights/acme_editable", [File("net.safetensors")])
    assert store.pull(source)["net.safetensors"].read_bytes() == WEIGHTS
    assert "acme_editable" not in sys.modules


def test_a_missing_package_raises_with_the_pip_command():
    with pytest.raises(StoreError, match="no-such-dist, which is not installed") as caught:
        store.pull(entry("package://no-such-dist/pkg"))
    assert caught.value.fix == "pip install no-such-dist"


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("file:///no/such/folder", "/no/such/folder/model.safetensors is not a file"),
        ("file://host/folder", "must be file:///absolute/folder"),
        ("package://pytest", "must be package://"),
        ("package://pytest/../x", "must be package://"),
        ("https://host/a?b=c", "must be https://host/folder"),
        ("ftp://host", "must start with one of file://, package://, hf://, https://"),
    ],
)
def test_an_invalid_source_raises_with_the_rule(source, rule):
    with pytest.raises(StoreError) as caught:
        store.pull(entry(source))
    assert rule in caught.value.what
    assert caught.value.fix == "correct source in the row of native/net"


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "", "c:\\x"])
def test_a_path_outside_its_source_raises(folder, path):
    with pytest.raises(StoreError, match="is outside its source"):
        store.pull(entry(folder.as_uri(), [File(path)]))


def test_a_source_without_files_raises_with_the_line_to_add(folder):
    with pytest.raises(StoreError, match=r"the row has source .*, but no files") as caught:
        store.pull(entry(folder.as_uri(), ()))
    assert "add files = " in caught.value.fix


def test_an_unwritable_store_raises(folder, monkeypatch, tmp_path):
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "occupied" / "store"))
    with pytest.raises(StoreError, match="occupied") as caught:
        store.pull(entry(folder.as_uri()))
    assert "ZOO_HOME=/another/folder zoo pull native/net" in caught.value.fix


def test_a_full_disk_raises_and_leaves_no_blob(folder):
    """RLIMIT_FSIZE simulates a full disk: the write fails midway."""
    code = (
        "import resource, signal, sys; from zoo import errors, store; from storing import entry\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (99999, 99999))\n"
        "try: store.pull(entry(sys.argv[1]))\nexcept errors.StoreError as error: print(error)"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", code, folder.as_uri()]
    output = subprocess.run(command, env=environ, capture_output=True, text=True).stdout
    assert "the store cannot be written" in output
    assert "fix: free some space" in output
    assert sha256(WEIGHTS) not in kept()[0]
    assert store.receipt("native/net") is None
