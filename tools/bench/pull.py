"""Benchmark downloading 300 MB over loopback: zoo (verified, parallel, resumable) against curl and hf_hub_download.

Also measures the resume of a killed pull, and `zoo pull` of a cached backbone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from timing import alternate, process, table

SIZE = 300_000_000
ROUNDS = 9
ROW = """["mine/large"]
plugin = "native"
modality = "image"
source = "hf://org/net"
files = [{ path = "model.safetensors" }]
input = { size = 8, mean = [0.5], std = [0.5] }
"""


def ours(folder: Path) -> None:
    from zoo import store
    from zoo.catalogue import registry

    os.environ["ZOO_HOME"] = str(folder / "store")
    store.pull(registry.find("mine/large"))
    shutil.rmtree(folder / "store")


def client(folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("org/net", "model.safetensors", cache_dir=folder / "cache")
    shutil.rmtree(folder / "cache")


def curl(folder: Path, url: str) -> None:
    target = folder / "curl"
    subprocess.run(["curl", "--silent", "--fail", "--output", target, url], check=True)
    target.unlink()


def killed(folder: Path) -> None:
    """Kill a pull midway; print how much is kept and how much the next pull downloads."""
    from zoo.store.stream import CHUNK

    store = folder / "store"
    environ = {**os.environ, "ZOO_HOME": str(store)}
    command = [sys.executable, "-m", "zoo", "pull", "mine/large"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as pulling:
        while not sum(part.stat().st_size for part in store.glob("tmp/*.part")) > SIZE / 3:
            time.sleep(0.001)
        pulling.send_signal(signal.SIGKILL)
    [part] = store.glob("tmp/*.part")
    kept = part.stat().st_size
    start = time.perf_counter()
    subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=True)
    print(f"killed: {kept / 1e6:.0f} MB kept, {(SIZE - kept) / 1e6:.0f} MB left; at most {CHUNK >> 20} MiB per")
    print(f"connection are downloaded twice; the second process took {time.perf_counter() - start:.2f} s")
    cached = {"python -c pass": process([sys.executable, "-c", "pass"]), "cached zoo pull": process(command)}
    os.environ["ZOO_HOME"] = str(store)
    table(alternate(cached, 15), "python -c pass")


def main(folder: Path) -> None:
    os.chdir(folder)
    content = os.urandom(SIZE)
    (folder / "large").write_bytes(content)
    (folder / "zoo.toml").write_text(ROW)
    serve = [
        sys.executable,
        Path(__file__).with_name("serve.py"),
        folder / "large",
        hashlib.sha256(content).hexdigest(),
    ]
    del content
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        os.environ.update(HF_ENDPOINT=url, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        try:
            sides = {
                "curl": partial(curl, folder, f"{url}/org/net/resolve/main/model.safetensors"),
                "zoo": partial(ours, folder),
                "hf_hub_download": partial(client, folder),
            }
            table(alternate(sides, ROUNDS), "curl")
            killed(folder)
        finally:
            server.terminate()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        main(Path(where))
