"""Distributed training in two processes gives the results of one process, within floating-point tolerance."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import together
import words

HERE = Path(__file__).parent
SETTINGS = {"steps": 6, "evals": 2, "batch_size": 7}
RUNS = {
    "lp-ft with a test set": {"strategy": "lp-ft", "test": 0.2},
    "lora with class balancing": {"strategy": "lora", "class_balance": "sampler"},
    "texts": {"strategy": "full", "texts": True},
}


Run = tuple[Path | str, Path, dict]
"""Backbone, output folder, and settings."""


def variables(**env: str) -> dict[str, str]:
    path = os.pathsep.join([str(HERE), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}


def words_of(runs: Sequence[Run]) -> list[str]:
    """Return the program and its argument."""
    plain = [(str(name), str(out), SETTINGS | settings) for name, out, settings in runs]
    return [str(HERE / "together.py"), json.dumps(plain)]


def in_two_processes(*runs: Run, **env: str) -> list[dict]:
    """Return the results of rank 0 of two processes with the variables of torchrun."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    place = variables(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="2", **env)
    command = [sys.executable, *words_of(runs)]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    started = [
        subprocess.Popen(command, env=place | rank, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in ranks
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            outputs = list(pool.map(lambda process: process.communicate(timeout=300), started))
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors[-9000:]
    return json.loads(outputs[0][0])


def in_one_process(name: Path | str, out: Path, settings: dict) -> dict:
    return together.finetune(name, out, SETTINGS | settings)


def torchrun(*runs: Run, **env: str) -> list[dict]:
    """Return the results of two processes that torchrun starts."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    command = [sys.executable, *launch, *words_of(runs)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables(**env), timeout=300)
    assert done.returncode == 0, done.stderr[-9000:]
    return json.loads(done.stdout)


def assert_close(found: dict, expected: dict) -> None:
    assert len(found["history"]) == len(expected["history"])
    for ours, theirs in zip(found["history"], expected["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)
    for key in ("metrics", "tested"):
        assert found[key] == pytest.approx(expected[key], abs=2e-4)
    # AdamW amplifies rounding differences
    assert found["embedded"][0] == pytest.approx(expected["embedded"][0], rel=5e-3, abs=5e-3)


def test_two_processes_match_one_process(pretrained, distribution, tmp_path):
    texts = words.pretrained(distribution, tmp_path / "weights")
    runs = [
        (texts if "texts" in settings else pretrained, tmp_path / case, settings) for case, settings in RUNS.items()
    ]
    for (name, out, settings), found in zip(runs, in_two_processes(*runs), strict=True):
        assert (out / "zoo.json").exists()
        assert_close(found, in_one_process(name, Path(f"{out}-alone"), settings))


@pytest.mark.real
def test_fsdp_matches_one_process(pretrained, tmp_path):
    settings = {"strategy": "gradual", "augment": "shift"}
    (found,) = torchrun((pretrained, tmp_path / "two", settings), ACCELERATE_USE_FSDP="true")
    assert_close(found, in_one_process(pretrained, tmp_path / "one", settings))


@pytest.mark.real
@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_stopped_distributed_run_resumes(pretrained, tmp_path, fsdp):
    settings, out = {"strategy": "full", "save_every": 0}, tmp_path / "two"
    assert in_two_processes((pretrained, out, settings | {"stop": 5}), ACCELERATE_USE_FSDP=fsdp) == [{}]
    assert (tmp_path / "two.unfinished" / "state.safetensors").exists()
    (found,) = in_two_processes((pretrained, out, settings | {"resume": True}), ACCELERATE_USE_FSDP=fsdp)
    assert_close(found, in_one_process(pretrained, tmp_path / "one", settings))
    assert not (tmp_path / "two.unfinished").exists()
