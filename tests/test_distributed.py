"""Distributed training in two processes gives the results of one process, within floating-point tolerance."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import together
import words

HERE = Path(__file__).parent
SETTINGS = {"steps": 6, "evals": 2, "batch_size": 7}

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
    codes, errors, results = of_two_processes(*runs, **env)
    assert codes == [0, 0], errors[-9000:]
    return results


def of_two_processes(*runs: Run, **env: str) -> tuple[list[int], str, list[dict]]:
    """Return the exit codes of two processes, their stderr, and the results of rank 0."""
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
    codes = [process.returncode for process in started]
    return codes, "".join(errors for _, errors in outputs), json.loads(outputs[0][0] or "[]")


def in_one_process(name: Path | str, out: Path, settings: dict) -> dict:
    return together.finetune(name, out, SETTINGS | settings)


def torchrun(*runs: Run, nodes: int = 1, restarts: int = 0, **env: str) -> list[dict]:
    """Return the results of two processes on each of some nodes, which torchrun starts on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    launch += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=zoo", "--local-addr=127.0.0.1"]
    command = [sys.executable, *launch, *words_of(runs)]
    place = variables(**env)
    started = [
        subprocess.Popen(command, env=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(nodes)
    ]
    try:
        with ThreadPoolExecutor(nodes) as pool:
            outputs = list(pool.map(lambda process: process.communicate(timeout=300), started))
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * nodes, "".join(errors for _, errors in outputs)[-9000:]
    (printed,) = filter(None, (text for text, _ in outputs))  # rank 0 is on either node
    return json.loads(printed.splitlines()[-1])  # of the last start


def assert_close(found: dict, expected: dict) -> None:
    assert len(found["history"]) == len(expected["history"])
    for ours, theirs in zip(found["history"], expected["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)
    for key in ("metrics", "tested"):
        assert found[key] == pytest.approx(expected[key], abs=2e-4)
    # AdamW amplifies rounding differences
    assert found["embedded"][0] == pytest.approx(expected["embedded"][0], rel=5e-3, abs=5e-3)


def test_two_processes_match_one_process(pretrained, tmp_path):
    settings = {"strategy": "lp-ft", "test": 0.2}
    (found,) = in_two_processes((pretrained, tmp_path / "two", settings))
    assert (tmp_path / "two" / "zoo.json").exists()
    assert_close(found, in_one_process(pretrained, tmp_path / "one", settings))


@pytest.mark.real
def test_two_processes_match_one_process_with_adapters_and_texts(pretrained, distribution, tmp_path):
    texts = words.pretrained(distribution, tmp_path / "weights")
    runs: list[Run] = [
        (pretrained, tmp_path / "lora", {"strategy": "lora", "class_balance": "sampler"}),
        (texts, tmp_path / "texts", {"strategy": "full", "texts": True}),
        (pretrained, tmp_path / "stream", {"strategy": "lp-ft", "stream": True, "shuffle_buffer": 14}),
        (pretrained, tmp_path / "probe", {"strategy": "probe", "stream": True, "shuffle_buffer": 14}),
    ]
    for (name, out, settings), found in zip(runs, in_two_processes(*runs), strict=True):
        assert_close(found, in_one_process(name, Path(f"{out}-alone"), settings))


@pytest.mark.real
def test_processes_read_shards_of_their_own(distribution, tmp_path):
    """Three uneven shards: the same bits each time, also of a stopped run, which other processes cannot continue."""
    texts, folder = words.pretrained(distribution, tmp_path / "weights"), tmp_path / "shards"
    folder.mkdir()
    reviews = pd.DataFrame(words.reviews(48), columns=["text", "label"])
    for number, part in enumerate((reviews[:10], reviews[10:32], reviews[32:])):
        part.to_parquet(folder / f"part-{number}.parquet")
    settings = {"strategy": "full", "folder": str(folder), "texts": True, "save_every": 0, "shuffle_buffer": 8}
    runs = [(texts, tmp_path / name, settings) for name in ("one", "two")]
    stopped = (texts, tmp_path / "cut", settings | {"stop": 7})
    one, two, cut = in_two_processes(*runs, stopped)
    assert one == two
    assert cut == {}
    resumed = settings | {"resume": True}
    error = in_one_process(texts, tmp_path / "cut", resumed)["error"]
    assert error.startswith("each of 2 processes read shards of its own in this run, and now there are 1")
    (found,) = in_two_processes((texts, tmp_path / "cut", resumed))
    assert found == one


@pytest.mark.real
def test_fsdp_matches_one_process(pretrained, tmp_path):
    settings = {"strategy": "gradual", "augment": "shift"}
    (found,) = torchrun((pretrained, tmp_path / "two", settings), ACCELERATE_USE_FSDP="true")
    assert_close(found, in_one_process(pretrained, tmp_path / "one", settings))


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("processes", [2, 3])
def test_no_process_of_fsdp_has_a_whole_copy(tmp_path, processes):
    """Shards are uneven here; copied back, the weights are in the memory of a file.

    Gradients and the two moments of AdamW are three times the weights; a layer is a sixteenth of them.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*launch, str(HERE / "sharding.py"), str(tmp_path)],
        env=variables(
            ACCELERATE_USE_FSDP="true", ZOO_HOME=str(tmp_path / "home"), MALLOC_MMAP_THRESHOLD_=str(1 << 16)
        ),  # or glibc keeps what is freed
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    for row in found["rows"]:
        assert row["twice"]
        assert row["shards"] < 1.1 * row["weights"] / processes
        assert row["after"] < 0.2 * row["weights"]
        assert row["training"] < (3 / processes + 0.4) * row["weights"]
        assert row["saving"] < 0.4 * row["weights"]
    assert not found["left"]


@pytest.mark.real
@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_stopped_distributed_run_resumes(pretrained, tmp_path, fsdp):
    settings, out = {"strategy": "full", "save_every": 0}, tmp_path / "two"
    assert in_two_processes((pretrained, out, settings | {"stop": 5}), ACCELERATE_USE_FSDP=fsdp) == [{}]
    assert (tmp_path / "two.unfinished" / "state.safetensors").exists()
    (found,) = in_two_processes((pretrained, out, settings | {"resume": True}), ACCELERATE_USE_FSDP=fsdp)
    assert_close(found, in_one_process(pretrained, tmp_path / "one", settings))
    assert not (tmp_path / "two.unfinished").exists()


@pytest.mark.real
def test_two_nodes_of_two_processes_match_one_process(pretrained, tmp_path):
    settings = {"strategy": "lp-ft", "augment": "shift", "test": 0.2}
    (found,) = torchrun((pretrained, tmp_path / "four", settings), nodes=2)
    assert_close(found, in_one_process(pretrained, tmp_path / "one", settings))


@pytest.mark.real
@pytest.mark.parametrize("fsdp", ["false", "true"])
def test_a_lost_process_ends_the_others_with_an_error(pretrained, tmp_path, fsdp):
    settings = {"strategy": "full", "die": 5}
    codes, _, (found,) = of_two_processes((pretrained, tmp_path / "two", settings), ACCELERATE_USE_FSDP=fsdp)
    assert codes == [0, -signal.SIGKILL]
    assert found["error"].startswith("process 0 has lost another process of the run: ")
    assert found["error"].endswith("fix: look for the error of that process; then the same command with --resume")


@pytest.mark.real
def test_torchrun_starts_a_lost_process_again_and_the_run_continues(pretrained, tmp_path):
    settings = {"strategy": "full", "save_every": 0}
    (found,) = torchrun((pretrained, tmp_path / "two", settings | {"die": 5}), restarts=1)
    assert_close(found, in_one_process(pretrained, tmp_path / "one", settings))
