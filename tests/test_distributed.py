"""Distributed training in two processes gives the results of one process, within floating-point tolerance."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import words

HERE = Path(__file__).parent
SETTINGS = {"steps": 6, "evals": 2, "batch_size": 7}
RUNS = {
    "lp-ft with a test set": {"strategy": "lp-ft", "test": 0.2},
    "lora with class balancing": {"strategy": "lora", "class_balance": "sampler"},
    "texts": {"strategy": "full", "texts": True},
}


def run(processes: int, name: Path | str, out: Path, settings: dict, **env: str) -> dict:
    """Run together.py in one process, or in several with the variables of torchrun; returns the output of rank 0."""
    path = os.pathsep.join([str(HERE), *sys.path])
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    if processes > 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    command = [sys.executable, HERE / "together.py", name, out, json.dumps(SETTINGS | settings)]
    ranks = [{} if processes == 1 else {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    started = [
        subprocess.Popen(command, env=variables | rank, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in ranks
    ]
    try:
        with ThreadPoolExecutor(processes) as pool:
            outputs = list(pool.map(lambda process: process.communicate(timeout=300), started))
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors[-9000:]
    return json.loads(outputs[0][0]) if outputs[0][0] else {}


def torchrun(name: Path | str, out: Path, settings: dict, **env: str) -> dict:
    """Run together.py in two processes with torchrun."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    command = [sys.executable, *launch, HERE / "together.py", name, out, json.dumps(SETTINGS | settings)]
    path = os.pathsep.join([str(HERE), *sys.path])
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)
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


@pytest.mark.parametrize("case", RUNS)
def test_two_processes_match_one_process(case, pretrained, distribution, tmp_path):
    name = words.pretrained(distribution, tmp_path / "weights") if "texts" in RUNS[case] else pretrained
    expected = run(1, name, tmp_path / "one", RUNS[case])
    assert_close(run(2, name, tmp_path / "two", RUNS[case]), expected)
    assert (tmp_path / "two" / "zoo.json").exists()


def test_fsdp_matches_one_process(pretrained, tmp_path):
    settings = {"strategy": "gradual", "augment": "shift"}
    expected = run(1, pretrained, tmp_path / "one", settings)
    assert_close(torchrun(pretrained, tmp_path / "two", settings, ACCELERATE_USE_FSDP="true"), expected)


@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_stopped_distributed_run_resumes(pretrained, tmp_path, fsdp):
    settings = {"strategy": "full", "save_every": 0}
    expected = run(1, pretrained, tmp_path / "one", settings)
    assert run(2, pretrained, tmp_path / "two", settings | {"stop": 5}, ACCELERATE_USE_FSDP=fsdp) == {}
    assert (tmp_path / "two.unfinished" / "state.safetensors").exists()
    found = run(2, pretrained, tmp_path / "two", settings | {"resume": True}, ACCELERATE_USE_FSDP=fsdp)
    assert_close(found, expected)
    assert not (tmp_path / "two.unfinished").exists()
