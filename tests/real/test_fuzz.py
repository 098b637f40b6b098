"""Coverage-guided fuzzing of the parsers of untrusted files: invalid input raises only ZooError."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
SECONDS = int(os.environ.get("ZOO_FUZZ_SECONDS", "0"))
"""Time per target (make fuzz); 0: RUNS inputs, which shows that the target works."""
RUNS = 200
TARGETS = ("weights", "header", "lock", "catalogue", "rows", "manifest", "saved")
TARGETS += ("image", "csv", "tsv", "json", "parquet", "cache")


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_raises_only_zoo_errors(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris has no wheel for this machine")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    budget = f"-max_total_time={SECONDS}" if SECONDS else f"-runs={RUNS}"
    limits = (budget, "-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", "-seed=1")
    command = [sys.executable, Path(__file__).with_name("guided.py"), target, corpus, *limits, "-print_final_stats=1"]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS + 120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    executed = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
    assert executed, done.stderr[-3000:]
    print(target, int(executed[1]), "inputs,", sum(1 for _ in corpus.iterdir()), "with new coverage")
    assert int(executed[1]) >= RUNS
