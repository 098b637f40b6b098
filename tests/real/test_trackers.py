"""Trackers without an account: offline runs of wandb, a local database of mlflow and trackio, read back."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pictures
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = pytest.mark.real

RUN = """
import sys
sys.path.append(sys.argv.pop(1))
from zoo.cli import main
main(sys.argv[1:])
"""


def tracked(pretrained: Path, name: str, package: str) -> str:
    """Fine-tune with a tracker in a process that has its library; returns what is printed, nothing on stderr."""
    data = pictures.folder(Path("colours"), 8)
    options = ["--strategy", "full", "--set", "steps=6", "--set", "evals=3", "--device", "cpu", "--out", "runs/a"]
    command = ["finetune", str(pretrained), str(data), *options, "--track", name]
    library = str(real_data.library(package))
    quiet = {key: value for key, value in os.environ.items() if key not in ("WANDB_API_KEY", "WANDB_MODE")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, library, *command],
        env=quiet | {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout
    assert done.stderr == ""
    return done.stdout


def test_wandb_without_a_login_writes_an_offline_run(pretrained):
    assert "track     wandb: " in tracked(pretrained, "wandb", "wandb")
    (run,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    assert all(name in content for name in (b"step_loss", b"valid_accuracy", b"final_valid_accuracy", b"hp.strategy"))


def test_trackio_writes_its_local_database(pretrained):
    tracked(pretrained, "trackio", "trackio")
    (database,) = Path(os.environ["HOME"]).rglob("trackio/zoo.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, cast(metrics as text) from metrics order by step").fetchall()
    assert [step for step, text in rows if "step_loss" in text] == [1, 2, 3, 4, 5, 6]
    assert any("final_valid_accuracy" in text for _, text in rows)


def test_mlflow_writes_its_local_database(pretrained):
    tracked(pretrained, "mlflow", "mlflow")
    with sqlite3.connect("mlflow.db") as connection:
        losses = connection.execute("select step, value from metrics where key = 'step_loss' order by step").fetchall()
        parameters = dict(connection.execute("select key, value from params").fetchall())
        (status,) = connection.execute("select status from runs").fetchone()
    assert [step for step, _ in losses] == [1, 2, 3, 4, 5, 6]
    assert parameters["hp.strategy"] == "full"
    assert status == "FINISHED"
