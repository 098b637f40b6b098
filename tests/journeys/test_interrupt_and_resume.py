"""Journey: a run is stopped, continued by the same command, and ends with the same weights."""

from __future__ import annotations

import signal
from pathlib import Path

import pictures
import pytest
import torch
from click.testing import CliRunner

import zoo
from zoo.cli import main
from zoo.errors import RecipeError


class StopAt:
    """Ends the process' run at a step, as Ctrl-C does."""

    def __init__(self, last: int) -> None:
        self.last = last

    def on_step(self, step: int, loss: torch.Tensor) -> None:
        if step == self.last:
            signal.raise_signal(signal.SIGINT)


def jitter(image: torch.Tensor) -> torch.Tensor:
    return image + torch.randint(0, 3, (), dtype=torch.uint8)


OPTIONS = {"strategy": "full", "steps": 8, "batch_size": 8, "evals": 2, "augment": jitter}


def test_interrupt_and_resume(pretrained):
    data = str(pictures.folder(Path("colours"), 6))
    whole = zoo.load(pretrained, "cpu").finetune(data, out="whole", quiet=True, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        zoo.load(pretrained, "cpu").finetune(data, out="run", callbacks=[StopAt(5)], **OPTIONS)
    assert not Path("run").exists()

    other = OPTIONS | {"augment": lambda image: image}
    with pytest.raises(
        RecipeError, match=r"holds a run with augment='function .*jitter .*', and now augment="
    ) as error:
        zoo.load(pretrained, "cpu").finetune(data, out="run", resume=True, **other)
    assert "resume with the settings it was started with" in error.value.fix
    again = zoo.load(pretrained, "cpu").finetune(data, out="run", resume=True, **OPTIONS)
    assert again.history == whole.history
    states = [model.module.state_dict() for model in (whole, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_same_command_with_resume(pretrained, monkeypatch):
    data = pictures.folder(Path("colours"), 6)
    command = ["finetune", str(pretrained), str(data), "--strategy", "full", "--set", "steps=6", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "zoo.finetune.callbacks.stepped", lambda callbacks, step, loss: bool(StopAt(3).on_step(step, loss))
        )
        stopped = CliRunner().invoke(main, command)
    assert stopped.exit_code == 130
    assert "at step 3, saved; the same command with --resume continues" in stopped.output
    assert "fix:" in CliRunner().invoke(main, [*command, "--out", "runs/colours-colours"]).stderr
    done = CliRunner().invoke(main, [*command, "--resume"])
    assert done.exit_code == 0, done.output
    assert zoo.load("runs/colours-colours").history[-1]["step"] == 6
