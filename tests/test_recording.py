"""What a run records: callbacks, metrics.jsonl, trackers of accelerate."""

from __future__ import annotations

import json
from pathlib import Path

import pictures
import pytest
import torch
from commands import run

import zoo
from zoo.errors import DataError, RecipeError

QUICK = {"strategy": "full", "steps": 6, "evals": 3, "batch_size": 8}
DATA = pictures.pairs(8)


class Faulty:
    """Fails when it is told of the second step; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_step(self, step, loss) -> None:
        self.calls.append(f"step {step}")
        if step == 2:
            raise ZeroDivisionError("two")

    def on_end(self, metrics) -> None:
        self.calls.append("end")


class End:
    """Keeps what it is told of the end; interrupts the run at the evaluation of a step."""

    def __init__(self, last: int = 100) -> None:
        self.last, self.told = last, []

    def on_evaluation(self, row) -> None:
        if row["step"] == self.last:
            raise KeyboardInterrupt

    def on_end(self, metrics) -> None:
        self.told.append(metrics)


def lines(folder: str) -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_a_callback_that_fails_does_not_cost_the_run(pretrained, capsys):
    faulty, end = Faulty(), End()
    model = zoo.load(pretrained, "cpu").finetune(DATA, callbacks=[faulty, end], **QUICK)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert faulty.calls == ["step 1", "step 2"]
    assert len(said) == 1
    assert "Faulty.on_step failed and is not called again: ZeroDivisionError: two (" in said[0]
    assert f"{Path(__file__).name}:" in said[0]
    assert model.history == zoo.load(pretrained, "cpu").finetune(DATA, quiet=True, **QUICK).history
    assert end.told == [{f"valid_{name}": value for name, value in model.metrics.items()}]


def test_what_a_callback_changes_is_a_copy(pretrained):
    class Clears:
        def on_evaluation(self, row) -> None:
            row.clear()

    model = zoo.load(pretrained, "cpu").finetune(DATA, callbacks=[Clears()], out="run", quiet=True, **QUICK)
    assert all(row["valid_accuracy"] >= 0 for row in model.history)
    assert [line["step"] for line in lines("run") if line["event"] == "evaluation"] == [2, 4, 6]


def test_of_a_run_that_is_interrupted_the_end_is_told_without_metrics(pretrained):
    end = End(last=2)
    with pytest.raises(KeyboardInterrupt):
        zoo.load(pretrained, "cpu").finetune(DATA, callbacks=[end], quiet=True, **QUICK)
    assert end.told == [None]


def test_metrics_are_written_line_by_line_and_a_resumed_run_continues_the_file(pretrained, monkeypatch):
    data = str(pictures.folder(Path("colours"), 8))
    model = zoo.load(pretrained, "cpu").finetune(data, out="whole", test=0.2, quiet=True, **QUICK)
    whole = lines("whole")
    assert [line["step"] for line in whole if line["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    evaluated = [{"event": "evaluation", **row} for row in model.history if row["step"]]
    assert [line for line in whole if line["event"] == "evaluation"] == evaluated
    assert whole[-1]["event"] == "end"
    assert whole[-1]["test_accuracy"] == model.tested["accuracy"]
    assert "metrics.jsonl" not in json.loads(Path("whole/zoo.json").read_text())["files"]

    monkeypatch.setattr("zoo.finetune.training.checkpoint.OVERHEAD", 0)
    with pytest.raises(KeyboardInterrupt):
        zoo.load(pretrained, "cpu").finetune(
            data, out="run", test=0.2, callbacks=[End(last=6)], quiet=True, save_every=0.0, **QUICK
        )
    log = Path("run.unfinished/metrics.jsonl")
    assert json.loads(log.read_text().splitlines()[-1])["step"] == 6  # one step after the checkpoint
    zoo.load(pretrained, "cpu").finetune(data, out="run", test=0.2, resume=True, quiet=True, save_every=0.0, **QUICK)
    assert lines("run") == whole
    assert not log.parent.exists()


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b'{"step": 1}\n[]\n{"ste', b'{"event": 1}\n', b"\0" * 9])
def test_a_damaged_file_of_metrics_ends_where_the_damage_begins(tmp_path, damaged):
    from zoo.finetune.training.recording import MetricsFile

    (tmp_path / "metrics.jsonl").write_bytes(damaged)
    log = MetricsFile(tmp_path)
    log.on_step(3, torch.tensor(0.5))
    log.on_end(None)
    kept = [{"step": 1}] if damaged.startswith(b'{"step"') else []
    assert lines(tmp_path) == [*kept, {"event": "step", "step": 3, "loss": 0.5}]


def test_a_probe_records_its_score(pretrained):
    zoo.load(pretrained, "cpu").finetune(DATA, out="run", strategy="probe", quiet=True)
    assert [line["event"] for line in lines("run")] == ["evaluation", "end"]


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("nonsense", "track='nonsense' is none of tensorboard, wandb, mlflow, trackio\nfix: track='tensorboard'"),
        (3, "track=3 is none of"),
        ("mlflow", "track='mlflow': the package mlflow is not installed\nfix: pip install mlflow, or leave out track"),
    ],
)
def test_trackers_that_cannot_be_used_are_refused_before_the_data_is_read(pretrained, track, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="^" + message):
        zoo.load(pretrained, "cpu").finetune("absent", track=track)
    monkeypatch.undo()
    with pytest.raises(DataError):
        zoo.load(pretrained, "cpu").finetune("absent", track=())


def test_tensorboard_holds_the_losses_scores_and_recipe(pretrained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = pictures.folder(Path("colours"), 8)
    options = ("--strategy", "full", "--set", "steps=6", "--set", "evals=3", "--device", "cpu", "--out", "runs/a")
    out = run("finetune", pretrained, data, *options, "--track", "tensorboard", "--json")
    events = EventAccumulator("runs/tensorboard/a").Reload()
    losses = [line["loss"] for line in lines("runs/a") if line["event"] == "step"]
    assert [event.step for event in events.Scalars("step_loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in events.Scalars("step_loss")] == pytest.approx(losses)
    assert events.Scalars("valid_accuracy")[-1].step == 6
    found = events.Scalars("final_valid_accuracy")[0].value
    assert found == pytest.approx(json.loads(out)["metrics"]["accuracy"])
    (configuration,) = Path("runs/tensorboard/a").glob("*/hparams.yml")
    assert "hp.strategy: full\n" in configuration.read_text()


def test_a_tracker_that_fails_does_not_cost_the_run(pretrained, monkeypatch, capsys):
    def start(name, run):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("zoo.finetune.training.recording._start", start)
    model = zoo.load(pretrained, "cpu").finetune(DATA, track="tensorboard", **QUICK)
    said = capsys.readouterr().out
    assert "track     tensorboard: tensorboard --logdir runs/tensorboard\n" in said
    assert said.count("Tracked.on_evaluation failed and is not called again: ConnectionError: no route to host") == 1
    assert model.metrics
