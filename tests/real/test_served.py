"""zoo export --to gradio and litserve: the page in a browser, and the API over HTTP, give the model's label."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import browser
import pytest

import zoo

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = pytest.mark.real
LITE0 = "timm/tf_efficientnet_lite0.in1k"
PATIENCE = 120.0
"""Seconds."""
ANSWER = 'document.querySelector("[data-testid=label-output-value]")?.innerText'
SUBMIT = '[...document.querySelectorAll("button")].find(b => b.innerText.trim() == "Submit")'


def photos(start: int, stop: int) -> list[tuple[str, str]]:
    """Return (path, class) of some photos of two classes."""
    found = []
    for kind in ("bird", "vehicle"):
        paths = sorted((real_data.photos() / kind).iterdir())
        found += [(str(path), kind) for path in random.Random(0).sample(paths, len(paths))[start:stop]]
    return found


def waited(look: Callable[[], Any], what: str) -> Any:
    """Return the first result of `look` that is true; a busy machine is slow."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(OSError):
            if found := look():
                return found
        time.sleep(0.2)
    raise TimeoutError(what)


@pytest.fixture
def model(hub, monkeypatch) -> zoo.Model:
    """EfficientNet-Lite0 probed on a few photos; the libraries that serve are importable."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(real_data.served())])
    return zoo.load(LITE0, "cpu").finetune(photos(0, 10), strategy="probe", valid=0, quiet=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(folder: Path, **env: str) -> Iterator[None]:
    """Run app.py of an export until the block ends."""
    path = os.pathsep.join(part for part in (str(real_data.served()), os.environ.get("PYTHONPATH")) if part)
    env |= {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    with (folder.parent / "app.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env={**os.environ, **env}, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium")
def test_the_gradio_page_gives_the_label(model, tmp_path):
    verified = model.export("gradio", tmp_path / "page", photos(0, 3))
    assert verified.libraries.keys() == {"gradio", "onnxruntime"}
    port = free_port()
    ((photo, label),) = photos(12, 13)[1:]
    assert model.predict(photo).label == label == "vehicle"
    with serving(tmp_path / "page", GRADIO_SERVER_PORT=str(port)):
        address = f"http://127.0.0.1:{port}/"
        waited(lambda: urllib.request.urlopen(address).status == 200, "app.py")
        with browser.Browser(tmp_path / "profile") as page:
            page.call("Page.navigate", url=address)
            waited(lambda: page.run("!!document.querySelector('input[type=file]')"), "the page")
            root = page.call("DOM.getDocument")["root"]["nodeId"]
            node = page.call("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
            page.call("DOM.setFileInputFiles", nodeId=node, files=[photo])
            waited(lambda: page.run(f"!!document.querySelector('img[src]') && !!({SUBMIT})"), "the photo")
            page.run(f"{SUBMIT}.click()")
            assert waited(lambda: page.run(ANSWER), "the answer") == label


def test_the_litserve_api_gives_the_label(model, tmp_path):
    model.export("litserve", tmp_path / "api", photos(0, 3))
    port, file = free_port(), tmp_path / "api" / "app.py"
    file.write_text(file.read_text().replace("port=8000", f"port={port}"))
    ((photo, label),) = photos(12, 13)[1:]
    with serving(tmp_path / "api"):
        health = f"http://127.0.0.1:{port}/health"
        waited(lambda: urllib.request.urlopen(health).status == 200, "app.py")
        command = ["curl", "-sS", "-F", f"image=@{photo}", f"http://127.0.0.1:{port}/predict"]
        answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    expected = dict(zip(model.task.labels, model.predict_proba(photo)[0].tolist(), strict=True))
    assert answer == pytest.approx(expected, abs=1e-4)
    assert max(answer, key=answer.get) == label
