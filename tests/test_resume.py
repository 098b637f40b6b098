"""Checkpoints: a stopped run resumes, and ends with the bits of an uninterrupted one."""

from __future__ import annotations

import json
import os
import resource
import signal

import pictures
import pytest
import torch
from click.testing import CliRunner

import zoo
from zoo.cli import main
from zoo.errors import ArtefactError, RecipeError, WeightsError

DATA = pictures.pairs(8)
SETTINGS = {"steps": 12, "evals": 3, "batch_size": 4, "save_every": 0}
STRATEGIES = {
    "full": {"strategy": "full"},
    "lp-ft": {"strategy": "lp-ft", "soup": 2},
    "gradual": {"strategy": "gradual", "augment": "none"},
    "lora": {"strategy": "lora"},
    "full, mixed": {"strategy": "full", "dropout": True, "mixup": "both"},
}


@pytest.fixture(autouse=True)
def interrupted():
    """Restore the default SIGINT handler: shells let background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop(model, calls, number=signal.SIGINT):
    """Send the process a signal at the given call of the backbone."""
    left = [calls]

    def count(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)

    model.backbone.module.register_forward_hook(count)


def outcome(folder):
    manifest = json.loads((folder / "zoo.json").read_text())
    return (folder / "zoo.safetensors").read_bytes(), manifest["metrics"], manifest["history"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_stopped_run_resumes_to_the_same_bits(name, pretrained, tmp_path, capsys):
    settings = SETTINGS | STRATEGIES[name]
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "uninterrupted", **settings)
    for calls in (8, 12, 15):  # three more than steps: the search for stages that can be pooled
        model = zoo.load(pretrained, "cpu")
        stop(model, calls)
        try:
            model.finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
        except KeyboardInterrupt:
            assert not (tmp_path / "stopped").exists()
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "uninterrupted")
    assert not (tmp_path / "stopped.unfinished").exists()
    assert "steps are done" in capsys.readouterr().out


def test_best_weights_of_an_earlier_phase_survive(pretrained, tmp_path):
    settings = SETTINGS | {"strategy": "gradual", "augment": "none", "lr": 0.5, "backbone_lr": 0.5}
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "uninterrupted", **settings)  # the probe stays the best
    for calls in (7, 10):
        model = zoo.load(pretrained, "cpu")
        stop(model, calls)
        with pytest.raises(KeyboardInterrupt):
            model.finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "uninterrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_reports_how_to_continue(pretrained, tmp_path, capsys, number):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3, number)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS | {"save_every": 1000})
    assert "at step 2, saved; the same command with --resume continues" in capsys.readouterr().out
    before = signal.getsignal(number)
    assert before in (signal.default_int_handler, signal.SIG_DFL)


def test_unfinished_run_is_not_overwritten(pretrained, tmp_path):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)
    with pytest.raises(ArtefactError, match=r"holds an unfinished run to .*m\nfix: continue it.*--resume"):
        zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lr": 0.5}, r"lr=None, and now lr=0\.5"), ({"seed": 3}, "seed=0, and now seed=3")],
)
def test_resume_with_another_recipe_raises(pretrained, tmp_path, change, message):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)
    with pytest.raises(RecipeError, match=message):
        zoo.load(pretrained, "cpu").finetune(
            DATA, strategy="full", out=tmp_path / "m", resume=True, **SETTINGS, **change
        )


def test_resume_with_other_data_raises(pretrained, tmp_path):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)
    with pytest.raises(RecipeError, match="data="):
        zoo.load(pretrained, "cpu").finetune(
            pictures.pairs(7), strategy="full", out=tmp_path / "m", resume=True, **SETTINGS
        )


def test_resume_of_a_finished_run_loads_it(pretrained, tmp_path, capsys):
    first = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=tmp_path / "m")
    again = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=tmp_path / "m", resume=True)
    assert again.metrics == first.metrics
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "probe", "seed": 3}, "holds a run with seed=0, and now seed=3"),
        ({"strategy": "full", "steps": 2, "evals": 1}, "holds a run with strategy='probe', and now strategy='full'"),
        ({"data": pictures.pairs(7)}, "holds a run with data="),
        ({"valid": 0.5}, "holds a run with valid=0.2, and now valid=0.5"),
        ({"valid": pictures.pairs(2, seed=9)}, "holds a run with valid=0.2, and now valid="),
        ({"base": "native/resnet14.letters"}, "holds a run with backbone="),
    ],
)
def test_resume_of_a_finished_run_of_another_request_raises(pretrained, tmp_path, change, message):
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=tmp_path / "m")
    fields = {"strategy": "probe", **change}
    data, base = fields.pop("data", DATA), fields.pop("base", pretrained)
    model = zoo.load(base, "cpu")
    with pytest.raises(RecipeError, match=f"{message}.*\n?.*fix: resume with the settings it was started with"):
        model.finetune(data, out=tmp_path / "m", resume=True, **fields)
    assert model.head is None or model.task.labels != ()


def test_resume_of_a_finished_run_compares_the_weights_of_the_base(pretrained, tmp_path):
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=tmp_path / "m")
    other = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", steps=2, evals=1)
    with pytest.raises(RecipeError, match="holds a run with weights="):
        other.finetune(DATA, strategy="probe", out=tmp_path / "m", resume=True)


def test_resume_without_a_folder_raises(pretrained):
    with pytest.raises(RecipeError, match=r"resume=True needs a folder.*\nfix: finetune\(…, out="):
        zoo.load(pretrained, "cpu").finetune(DATA, resume=True)


def test_damaged_checkpoint_raises(pretrained, tmp_path):
    folder = tmp_path / "m.unfinished"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(
        ArtefactError, match=r"cannot be continued.*state\.safetensors is damaged.*\n?.*fix: start anew"
    ):
        zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", out=tmp_path / "m", resume=True, **SETTINGS)


def test_full_disk_keeps_the_last_checkpoint(pretrained, tmp_path):
    settings = SETTINGS | {"strategy": "full"}
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "uninterrupted", **settings)
    model = zoo.load(pretrained, "cpu")
    stop(model, 4)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, out=tmp_path / "full", **settings)
    state = tmp_path / "full.unfinished" / "state.safetensors"
    before, limits = state.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"cannot be saved.*last checkpoint is complete\nfix: free some disk"):
            zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "full", resume=True, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert state.read_bytes() == before
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "full", resume=True, **settings)
    assert outcome(tmp_path / "full") == outcome(tmp_path / "uninterrupted")


def test_command_resumes(pretrained, tmp_path):
    folder = pictures.folder(tmp_path / "colours", 8)
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    command = ["finetune", str(pretrained), str(folder), "--strategy", "full", *settings]
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(str(folder), strategy="full", out="runs/colours-colours", **SETTINGS)
    assert "holds an unfinished run" in CliRunner().invoke(main, [*command, "--out", "runs/colours-colours"]).stderr
    done = CliRunner().invoke(main, [*command, "--resume"])
    assert done.exit_code == 0, done.output
    assert "2 steps are done" in done.output
    assert os.path.exists("runs/colours-colours/zoo.json")


def test_checkpoints_do_not_change_the_result(pretrained, tmp_path):
    often = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", out=tmp_path / "a", **SETTINGS)
    never = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", **SETTINGS)
    assert often.history == never.history
    ours, theirs = often.backbone.module.state_dict(), never.backbone.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_checkpoint_left_by_a_kill_after_saving_is_removed(pretrained, tmp_path):
    out, left = tmp_path / "model", tmp_path / "model.unfinished"
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=out, **SETTINGS)
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"the last checkpoint")
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=out, resume=True, **SETTINGS)
    assert not left.exists()
