"""Checkpoints: a run that was stopped goes on, and ends with the bits of a run that was not."""

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
SETTINGS = {"steps": 12, "evals": 3, "batch_size": 4, "save_every": 0, "autotune": False}
STRATEGIES = {
    "full": {"strategy": "full"},
    "lp-ft": {"strategy": "lp-ft", "soup": 2},
    "gradual": {"strategy": "gradual", "augment": "none"},
    "lora": {"strategy": "lora"},
    "full, mixed": {"strategy": "full", "dropout": "on", "mix": "both"},
}


@pytest.fixture(autouse=True)
def interrupted():
    """Let Ctrl-C interrupt, also where the tests were started in the background: a shell has such ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stop(model, calls, number=signal.SIGINT):
    """Send the process a signal when the backbone has been called so many times."""
    left = [calls]

    def count(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)

    model.backbone.module.register_forward_hook(count)


def outcome(folder):
    manifest = json.loads((folder / "zoo.json").read_text())
    return (folder / "model.safetensors").read_bytes(), manifest["metrics"], manifest["history"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_stopped_run_goes_on_to_the_same_bits(name, pretrained, tmp_path, capsys):
    settings = SETTINGS | STRATEGIES[name]
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "peace", **settings)
    for calls in (5, 9, 12):
        model = zoo.load(pretrained, "cpu")
        stop(model, calls)
        try:
            model.finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
        except KeyboardInterrupt:
            assert not (tmp_path / "stopped").exists()
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "peace")
    assert not (tmp_path / "stopped.unfinished").exists()
    assert "steps are done" in capsys.readouterr().out


def test_the_best_of_an_earlier_phase_is_not_lost(pretrained, tmp_path):
    settings = SETTINGS | {"strategy": "gradual", "augment": "none", "lr": 0.5, "backbone_lr": 0.5}
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "peace", **settings)  # the probe stays the best
    for calls in (7, 10):
        model = zoo.load(pretrained, "cpu")
        stop(model, calls)
        with pytest.raises(KeyboardInterrupt):
            model.finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "stopped", resume=True, **settings)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "peace")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_said_with_how_to_go_on(pretrained, tmp_path, capsys, number):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3, number)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS | {"save_every": 1000})
    assert "at step 2, saved; the same command with --resume goes on" in capsys.readouterr().out
    before = signal.getsignal(number)
    assert before in (signal.default_int_handler, signal.SIG_DFL)


def test_an_unfinished_run_is_not_overwritten(pretrained, tmp_path):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)
    with pytest.raises(ArtefactError, match=r"holds a run to .*m that was stopped\nfix: go on with it.*--resume"):
        zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lr": 0.5}, r"lr=None, and now lr=0\.5"), ({"seed": 3}, "seed=0, and now seed=3")],
)
def test_another_run_is_not_gone_on_with(pretrained, tmp_path, change, message):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)
    with pytest.raises(RecipeError, match=message):
        zoo.load(pretrained, "cpu").finetune(
            DATA, strategy="full", out=tmp_path / "m", resume=True, **SETTINGS, **change
        )


def test_other_data_is_not_gone_on_with(pretrained, tmp_path):
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, strategy="full", out=tmp_path / "m", **SETTINGS)
    with pytest.raises(RecipeError, match="data="):
        zoo.load(pretrained, "cpu").finetune(
            pictures.pairs(7), strategy="full", out=tmp_path / "m", resume=True, **SETTINGS
        )


def test_a_finished_run_is_only_loaded(pretrained, tmp_path, capsys):
    first = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=tmp_path / "m")
    again = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=tmp_path / "m", resume=True)
    assert again.metrics == first.metrics
    assert "is finished" in capsys.readouterr().out


def test_going_on_needs_a_folder(pretrained):
    with pytest.raises(RecipeError, match=r"resume=True has nothing to go on with.*\nfix: finetune\(…, out="):
        zoo.load(pretrained, "cpu").finetune(DATA, resume=True)


def test_a_damaged_checkpoint_is_told(pretrained, tmp_path):
    folder = tmp_path / "m.unfinished"
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(WeightsError, match=r"state\.safetensors"):
        zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", out=tmp_path / "m", resume=True, **SETTINGS)


def test_a_full_disk_leaves_the_last_checkpoint_whole(pretrained, tmp_path):
    settings = SETTINGS | {"strategy": "full"}
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "peace", **settings)
    model = zoo.load(pretrained, "cpu")
    stop(model, 4)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(DATA, out=tmp_path / "full", **settings)
    state = tmp_path / "full.unfinished" / "state.safetensors"
    before, limits = state.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"cannot be saved.*last checkpoint is whole\nfix: free some disk"):
            zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "full", resume=True, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert state.read_bytes() == before
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "full", resume=True, **settings)
    assert outcome(tmp_path / "full") == outcome(tmp_path / "peace")


def test_the_command_goes_on_where_it_was_stopped(pretrained, tmp_path):
    folder = pictures.folder(tmp_path / "colours", 8)
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    command = ["finetune", str(pretrained), str(folder), "--strategy", "full", *settings]
    model = zoo.load(pretrained, "cpu")
    stop(model, 3)
    with pytest.raises(KeyboardInterrupt):
        model.finetune(str(folder), strategy="full", out="runs/colours-colours", **SETTINGS)
    assert "was stopped" in CliRunner().invoke(main, [*command, "--out", "runs/colours-colours"]).stderr
    done = CliRunner().invoke(main, [*command, "--resume"])
    assert done.exit_code == 0, done.output
    assert "2 steps are done" in done.output
    assert os.path.exists("runs/colours-colours/zoo.json")


def test_saving_changes_nothing(pretrained, tmp_path):
    often = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", out=tmp_path / "a", **SETTINGS)
    never = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", **SETTINGS)
    assert often.history == never.history
    ours, theirs = often.backbone.module.state_dict(), never.backbone.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_was_killed_after_saving_leaves_no_checkpoint_in_the_end(pretrained, tmp_path):
    out, left = tmp_path / "model", tmp_path / "model.unfinished"
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=out, **SETTINGS)
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"the last checkpoint")
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", out=out, resume=True, **SETTINGS)
    assert not left.exists()
