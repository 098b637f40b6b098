"""The engine on a second device (second_device.py), in a process of its own: it is registered before any other work.

With ZOO_TEST_DEVICE=second, or cuda where there is a GPU, any other test file runs on that device as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_engine_runs_on_a_second_device():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "on_second_device.py"]
    path = os.pathsep.join(sys.path)
    env = {**os.environ, "ZOO_TEST_DEVICE": "second", "PYTHONPATH": path, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-3000:]
