"""Jobs: equal results wherever they run, kept results, failures, killed workers."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from zoo.errors import ZooError
from zoo.jobs import job, local
from zoo.jobs.job import Job
from zoo.jobs.run import run

PRODUCTS = [Job("job_functions:product", {"seed": seed}) for seed in range(4)]


def answers(results):
    return {json.dumps([each.job.function, dict(each.job.arguments)]): each.answer for each in results}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Results of two worker processes, with and without accidents; and those of this process."""
    folder = tmp_path_factory.mktemp("jobs")
    killed = Job("job_functions:kill", {"folder": str(folder)})
    others = [Job("job_functions:noisy", {"text": "ä"}), Job("job_functions:divide", {"number": 1})]
    refused = Job("job_functions:refuse", {"what": "no such file"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(folder / "store"))
        found = answers(run([killed, *PRODUCTS, *others, refused], workers=2))
        patch.setenv("ZOO_HOME", str(folder / "serial"))
        serial = answers(run([*PRODUCTS, *others, refused], workers=1))
    return found, serial


def of(results, function, **arguments):
    return next(
        answer
        for key, answer in results.items()
        if json.loads(key)[0] == f"job_functions:{function}" and arguments.items() <= json.loads(key)[1].items()
    )


def test_worker_processes_give_the_same_bits_as_one_process(pool):
    found, serial = pool
    for each in PRODUCTS:
        assert of(found, "product", **each.arguments).value == of(serial, "product", **each.arguments).value
    assert len({str(of(found, "product", seed=seed).value) for seed in range(4)}) == 4


def test_output_of_a_library_does_not_disturb_the_answers(pool):
    assert of(pool[0], "noisy").value == "ä"


def test_job_whose_worker_is_killed_is_started_once_more_and_costs_itself_alone(pool):
    lost = of(pool[0], "kill")
    assert lost.value is None
    assert lost.error == "the worker process was killed by signal 9 (SIGKILL), 2 times"
    assert "workers=1" in lost.fix
    (key,) = (key for key in pool[0] if "kill" in key)
    assert len(list(Path(json.loads(key)[1]["folder"]).glob("*.killed"))) == 2
    assert sum(not answer.error for answer in pool[0].values()) == 5


def test_errors_are_answers_in_both(pool):
    for results in pool:
        assert of(results, "refuse").error == "no such file"
        assert of(results, "refuse").fix == "another file"
        assert of(results, "divide").error.startswith("ZeroDivisionError: division by zero (job_functions.py:")


def test_finished_jobs_are_not_run_again(isolated):
    first = list(run([*PRODUCTS[:1], Job("job_functions:divide", {"number": 2})], workers=1))
    assert [each.is_kept for each in first] == [False, False]
    again = list(run([*PRODUCTS[:2], Job("job_functions:divide", {"number": 2})], workers=1))
    assert [each.is_kept for each in again] == [True, False, False]
    assert again[0].answer == first[0].answer


def test_a_damaged_result_is_computed_again(isolated):
    (first,) = run(PRODUCTS[:1], workers=1)
    (job.folder() / f"{PRODUCTS[0].key}.json").write_text('{"value": 1')
    (again,) = run(PRODUCTS[:1], workers=1)
    assert not again.is_kept
    assert again.answer.value == first.answer.value


def test_equal_jobs_run_once(isolated):
    assert len(list(run([PRODUCTS[0], Job(PRODUCTS[0].function, {"seed": 0}, memory=5)], workers=1))) == 1


def test_shared_values_reach_every_job(isolated):
    jobs = [Job("job_functions:add", {"number": number}) for number in (1, 2)]
    found = {
        each.job.arguments["number"]: each.answer.value for each in run(jobs, workers=1, shared={"shared": [3, 4]})
    }
    assert found == {1: 8, 2: 9}


def test_one_thread_in_a_job(isolated):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (found,) = run([Job("job_functions:threads")], workers=1)
        assert (found.answer.value, torch.get_num_threads()) == (1, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "dask"])
def test_workers_must_be_a_number_or_ray(isolated, workers):
    with pytest.raises(ZooError, match="not a whole number above 0"):
        next(run(PRODUCTS[:1], workers=workers))


def test_data_that_cannot_be_sent_names_the_way_out(isolated):
    with pytest.raises(ZooError, match="cannot be sent") as caught:
        next(run(PRODUCTS[:2], workers=2, shared={"shared": lambda: 1}))
    assert "workers=1" in caught.value.fix


def test_ray_that_is_missing_names_the_extra(isolated, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ZooError) as caught:
        next(run(PRODUCTS[:1], workers="ray"))
    assert caught.value.fix == "pip install 'backbone-zoo[ray]'"


@pytest.mark.parametrize(("memory", "count"), [(0, 4), (1_500_000_000, 2), (20_000_000_000, 1)])
def test_workers_are_as_many_as_memory_allows(monkeypatch, memory, count):
    monkeypatch.setattr(local, "processors", lambda: 4)
    monkeypatch.setattr(local, "available_memory", lambda: 5_000_000_000)
    assert local.fitting([Job("a:b", {"n": n}, memory=memory) for n in range(9)]) == count


def test_leaving_a_run_ends_its_workers(isolated, tmp_path):
    marker = tmp_path / "pid"
    jobs = [Job("job_functions:noisy", {"text": "a"}), Job("job_functions:sleep", {"marker": str(marker)})]
    found = local.run(jobs, {}, 1)
    next(found)
    while not marker.exists():
        time.sleep(0.02)
    found.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)
