"""Shared fixtures: isolation from network and user files, fixed seeds, fake distributions, a loopback Hub."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

settings.register_profile("same", derandomize=True)
if "ZOO_FUZZ_SECONDS" not in os.environ:  # make fuzz draws new inputs each time
    settings.load_profile("same")

DEVICE = os.environ.get("ZOO_TEST_DEVICE")
"""Device of the models in all tests: cuda, or second (second_device.py); None: what a test asks for."""
if DEVICE == "second":
    import second_device

    second_device.install()

ROW = """
modality = "image"
dim = 4
input = { size = 8, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }
"""
PLUGIN = """
from zoo.plugin import Plugin

class Fake(Plugin):
    api = 1

    def build(self, entry, files):
        raise NotImplementedError

plugin = Fake()
"""
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Isolate the test: temporary store, configuration and working directory, and an unreachable Hub."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("ZOO_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("zoo.store.stream.PAUSE", 0.01)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    return work


@pytest.fixture(autouse=True, scope="session")
def device() -> Iterator[None]:
    """Load models to ZOO_TEST_DEVICE, if it is set, where a test says "cpu" or "auto"."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE:
            from zoo.model.device import resolve_device

            for module in ("load", "model"):
                patch.setattr(
                    importlib.import_module(f"zoo.model.{module}"),
                    "resolve_device",
                    lambda name: resolve_device(DEVICE if str(name) in ("cpu", "auto") else name),
                )
        yield


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that installs a fake distribution with a plugin on sys.path and returns its package."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(
        plugin: str = "fake",
        code: str = PLUGIN,
        catalogue: str | None = None,
        *,
        name: str | None = None,
        version: str = "1.0",
        package: str | None = None,
        attribute: str = ":plugin",
        file: str = "catalogue.toml",
    ) -> Path:
        package = package or f"fake_plugin_{next(_numbers)}"  # unique: Python caches imported modules
        name = name or package.replace("_", "-")
        folder = site / package
        folder.mkdir()
        (folder / "__init__.py").write_text(code)
        if catalogue is not None:
            (folder / file).write_text(catalogue)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nVersion: 9\n")
        (info / "entry_points.txt").write_text(f"[zoo.plugins]\n{plugin} = {package}{attribute}\n")
        importlib.invalidate_caches()
        return folder

    return install


@pytest.fixture
def hub(monkeypatch):
    """Serve the repository org/net, two small files, on a loopback Hub."""
    from hub import Hub
    from storing import FILES

    with Hub({"org/net": FILES}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def blob(hub):
    """Pull a backbone and return the blob of its weights."""
    from storing import entry

    from zoo import store
    from zoo.plugin import File

    return store.pull(entry("hf://org/net", [File("model.safetensors")]))["model.safetensors"]


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves repositories on a loopback Hub until the test ends."""
    from hub import Hub

    hubs = []

    def start(**repos):
        hub = Hub({f"tiny/{name}": files for name, files in repos.items()}).__enter__()
        hubs.append(hub)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        return hub

    yield start
    for hub in hubs:
        hub.__exit__()


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Return the folder of a saved tiny model pre-trained on colours, for transfer in tests."""
    import pictures

    return pictures.saved(tmp_path_factory.mktemp("pretrained"), pictures.pairs(12), steps=60, batch_size=16)
