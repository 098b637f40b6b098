"""Runs killed at random times resume to bit-identical results: 56 kills over all strategies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
RUNS = {
    "probe": {"strategy": "probe"},
    "full": {"strategy": "full"},
    "lp-ft, soup": {"strategy": "lp-ft", "soup": 3},
    "gradual, cached prefix": {"strategy": "gradual", "augment": "none"},
    "lora": {"strategy": "lora"},
    "scratch, dropout, mixup": {"strategy": "scratch", "dropout": True, "mixup": "both"},
    "last stages": {"strategy": "full", "freeze_stages": 2, "augment": "none"},
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_run_resumes_bit_identically(name, tmp_path):
    worker = Path(__file__).with_name("killed.py")
    command = [sys.executable, worker, json.dumps(RUNS[name]), "--folder", tmp_path, "--seed", str(len(name))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(name, found)
    assert found["differences"] == []
    assert found["kills"] == 8
    assert found["checkpoints"] > 0 or name == "probe"
