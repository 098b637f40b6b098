"""Jobs on a local Ray cluster: results equal to those of one process, lost workers, errors."""

from __future__ import annotations

import json
import os
import sys

import pytest

pytest.importorskip("ray")

from zoo.jobs.job import Job
from zoo.jobs.run import run

pytestmark = pytest.mark.real


def test_ray_gives_the_same_bits_and_a_lost_worker_costs_one_job(isolated, tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    products = [Job("job_functions:product", {"seed": seed}) for seed in range(4)]
    killed = Job("job_functions:kill", {"folder": str(tmp_path)})
    refused = Job("job_functions:refuse", {"what": "no such file"})
    shared = [Job("job_functions:noisy", {"text": "ä"})]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        results = list(run([killed, *products, refused, *shared], workers="ray"))
    finally:
        ray.shutdown()
    found = {json.dumps([each.job.function, dict(each.job.arguments)]): each.answer for each in results}
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "serial"))
    for each in run(products, workers=1):
        assert found[json.dumps([each.job.function, dict(each.job.arguments)])].value == each.answer.value
    (lost,) = (answer for key, answer in found.items() if "kill" in key)
    assert lost.error.startswith("the Ray task was lost, 2 times")
    assert len(list(tmp_path.glob("*.killed"))) == 2
    assert [answer.error for key, answer in found.items() if "refuse" in key] == ["no such file"]
    assert sum(not answer.error for answer in found.values()) == 5
