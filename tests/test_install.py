"""The wheel, an editable install and a third-party distribution, each tested in a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


def run(*command: str | Path, path: list[Path], **more) -> str:
    """Run a command with `path` prepended to sys.path and return its output."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(list(map(str, command)), env=environ, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def zoo(*args: str, path: list[Path]):
    """Run `zoo … --json` and return the parsed output."""
    return json.loads(run(sys.executable, "-m", "zoo", *args, "--json", path=path))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel and return the folder it is extracted to."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", *OFFLINE, "-w", folder, ROOT], check=True)
    [built] = folder.glob("backbone_zoo-*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def editable(tmp_path_factory) -> list[Path]:
    """Build an editable install; return its site-packages folder and the paths listed in its .pth file."""
    folder = tmp_path_factory.mktemp("editable")
    code = f"import hatchling.build; hatchling.build.build_editable({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
    [built] = folder.glob("backbone_zoo-*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    [paths] = (folder / "site").glob("*.pth")
    return [folder / "site", *map(Path, paths.read_text().split())]


@pytest.fixture(scope="module")
def acme(tmp_path_factory) -> Path:
    """Install the example plugin's distribution into a separate folder."""
    folder = tmp_path_factory.mktemp("acme")
    subprocess.run([*PIP, "install", *OFFLINE, "--target", folder, ROOT / "plugins" / "example"], check=True)
    return folder


def test_wheel_contains_the_registry_and_the_plugin_catalogue(wheel):
    catalogues = {zoo("info", entry["name"], path=[wheel])["catalogue"] for entry in one_entry_per_catalogue(wheel)}
    assert catalogues == {str(wheel / "zoo" / "registry.toml"), str(wheel / "zoo_native" / "catalogue.toml")}


def one_entry_per_catalogue(wheel: Path) -> list[dict]:
    entries = zoo("list", path=[wheel])
    assert len(entries) == len({entry["name"] for entry in entries})
    return [next(e for e in entries if "source" in e), next(e for e in entries if "source" not in e)]


def test_wheel_contains_the_packaged_weights(wheel):
    shipped = [e for e in zoo("list", path=[wheel]) if e.get("source", "").startswith("package://backbone-zoo/")]
    assert shipped
    for entry in shipped:
        assert all(Path(file).is_file() for file in zoo("pull", entry["name"], path=[wheel])[entry["name"]].values())


def test_wheel_contains_only_packages(wheel):
    assert {path.name.partition("-")[0] for path in wheel.iterdir()} == {
        "zoo",
        "zoo_native",
        "zoo_timm",
        "zoo_hf",
        "backbone_zoo",
    }


def test_editable_install_reads_catalogues_from_the_checkout(editable):
    entry = zoo("list", "native/", path=editable)[0]
    assert zoo("info", entry["name"], path=editable)["catalogue"] == str(ROOT / "registry.toml")
    native = next(row for row in zoo("plugins", path=editable) if row["plugin"] == "native")
    assert native["catalogue"] == str(ROOT / "plugins" / "zoo_native" / "catalogue.toml")
    assert native["state"] == "ok"


def test_wheel_and_editable_install_list_the_same_backbones(wheel, editable):
    assert zoo("list", path=[wheel]) == zoo("list", path=editable)


def test_third_party_distribution_is_listed(acme):
    assert {entry["plugin"] for entry in zoo("list", "acme/", path=[acme])} == {"acme"}
    row = next(row for row in zoo("plugins", path=[acme]) if row["plugin"] == "acme")
    assert (row["distribution"], row["version"], row["api"], row["state"]) == ("acme-zoo", "0.1.0", 1, "ok")


def test_third_party_distribution_can_ship_weights(acme):
    [file] = zoo("pull", "acme/mixer_nano.digits", path=[acme])["acme/mixer_nano.digits"].values()
    assert Path(file).read_bytes() == (acme / "acme_zoo" / "weights" / "model.safetensors").read_bytes()


@pytest.mark.real
def test_third_party_tests_pass_the_conformance_kit(acme, tmp_path):
    tests = ROOT / "plugins" / "example" / "tests"
    out = run(
        *(
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "--rootdir",
            tmp_path,
            tests,
        ),
        path=[acme],
    )
    assert " passed" in out
