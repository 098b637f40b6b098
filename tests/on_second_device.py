"""Models on a second device do what they do on the CPU; test_second_device.py runs this with ZOO_TEST_DEVICE=second."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pictures
import pytest
import second_device
import torch
import words

import zoo
from zoo.finetune.training.train_step import TrainStep

IMAGES = pictures.pairs(6)
REVIEWS = words.reviews(24)
QUICK = {"steps": 2, "evals": 1, "batch_size": 8, "valid": 0.25}
CPU = "cpu:0"
"""The CPU, also where ZOO_TEST_DEVICE stands for "cpu"."""
RUNS = {
    "full": {"mixup": "both", "dropout": True, "batchnorm": "train", "label_smoothing": 0.1},
    "full, frozen stages": {
        "strategy": "full",
        "freeze_stages": 3,
        "augment": "none",
        "soup": 2,
        "evals": 2,
        "class_balance": "weights",
        "optimizer": "sgd",
        "calibrate": True,
    },
    "lp-ft": {"test": 0.2},
    "gradual": {"augment": "none"},
    "lora": {"class_balance": "logits"},
    "full, fp16": {"strategy": "full", "precision": "fp16", "deterministic": True},
}
TAGS = [(text.split(), ["B-GOOD" if word in words.GOOD else "O" for word in text.split()]) for text, _ in REVIEWS]
TASKS = {
    "classify": (REVIEWS, {}),
    "multilabel": ([(text, [word for word in ("plot", "cast") if word in text]) for text, _ in REVIEWS], {}),
    "regress": ([(text, float(len(text))) for text, _ in REVIEWS], {}),
    "tag": (TAGS, {}),
    "causal-lm": ([text for text, _ in REVIEWS], {"task": "causal-lm"}),
    "masked-lm": ([text for text, _ in REVIEWS], {"task": "masked-lm"}),
}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Return the folder of a saved tiny model."""
    return pictures.saved(tmp_path_factory.mktemp("colours"), IMAGES, **QUICK | {"steps": 8})


def assert_same_model(found, expected, inputs, folder: Path) -> None:
    """Compare the history, the outputs and the saved folder of a model with one that was trained on the CPU."""
    assert (found.device.type, expected.device.type) == (second_device.NAME, "cpu")
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3)
    torch.testing.assert_close(found.embed(inputs), expected.embed(inputs), rtol=2e-2, atol=2e-2)
    again = zoo.load(found.save(folder), second_device.NAME)
    assert [one.label for one in again.predict(inputs)] == [one.label for one in found.predict(inputs)]


@pytest.mark.parametrize("run", RUNS)
def test_images(colours, tmp_path, run):
    settings = QUICK | {"strategy": run} | RUNS[run]
    found = zoo.load(colours, second_device.NAME).finetune(IMAGES, **settings)
    expected = zoo.load(colours, CPU).finetune(IMAGES, **settings | {"precision": "fp32"})
    inputs = [pixels for pixels, _ in IMAGES[::3]]
    assert_same_model(found, expected, inputs, tmp_path / "m")
    assert found.evaluate(IMAGES, per_class=True)["loss"] == pytest.approx(expected.evaluate(IMAGES)["loss"], rel=2e-3)
    torch.testing.assert_close(found.predict_proba(inputs), expected.predict_proba(inputs), rtol=1e-2, atol=1e-2)
    assert found.module(found.preprocess(inputs)).device.type == second_device.NAME


@pytest.mark.parametrize("task", TASKS)
def test_texts(distribution, tmp_path, task):
    name = words.pretrained(distribution, tmp_path / "weights")
    data, more = TASKS[task]
    settings = QUICK | {"strategy": "full"} | more
    found, expected = (zoo.load(name, device).finetune(data, **settings) for device in (second_device.NAME, CPU))
    assert_same_model(
        found,
        expected,
        {"tag": ["a dull plot"], "masked-lm": ["the [MASK] plot"]}.get(task, ["a plot"]),
        tmp_path / "m",
    )
    if task == "causal-lm":
        assert found.generate("the film", 3) == expected.generate("the film", 3)


def test_stopped_run_resumes(colours, tmp_path):
    settings = QUICK | {"strategy": "full", "evals": 1, "valid": 0, "out": tmp_path / "m"}
    model = zoo.load(colours, second_device.NAME)
    hook = model.backbone.module.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        model.finetune(IMAGES, **settings)
    hook.remove()
    found = zoo.load(colours, second_device.NAME).finetune(IMAGES, resume=True, **settings)
    expected = zoo.load(colours, CPU).finetune(IMAGES, **settings | {"out": None})
    assert found.history[0] == pytest.approx(expected.history[0], rel=1e-4)


def test_fp16_skips_steps_whose_gradients_overflow(colours, monkeypatch):
    """At this scale every loss overflows: each step halves it and changes nothing."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**127))
    model = zoo.load(colours, second_device.NAME)
    before = [parameter.detach().cpu().clone() for parameter in model.backbone.module.parameters()]
    model.finetune(IMAGES, **QUICK | {"strategy": "full", "precision": "fp16", "valid": 0, "batchnorm": "frozen"})
    assert all(map(torch.equal, before, (found.cpu() for found in model.backbone.module.parameters())))


def test_fp16_that_diverges_is_an_error(colours):
    wild = {"strategy": "full", "precision": "fp16", "lr": 1e9, "optimizer": "sgd", "max_grad_norm": 0.0, "steps": 8}
    with pytest.raises(zoo.ZooError, match=r'training has diverged\nfix: precision="fp32", which has more range'):
        zoo.load(colours, second_device.NAME).finetune(IMAGES, **QUICK | wild | {"valid": 0})


def waits_of_a_run(model, data, steps: int, **settings) -> list[second_device.Wait]:
    """Return the waits of a run with one evaluation, at its end, but for those that check the loss of every step."""
    with second_device.recorded() as waits:
        model.finetune(data, strategy="full", **QUICK | settings | {"steps": steps})
    return sorted(wait for wait in waits if not wait.place.endswith("check_finite"))


def test_step_on_images_does_not_make_the_host_wait(colours):
    """Twice as many steps wait as often: for the start, the evaluation and the end."""
    few, many = (waits_of_a_run(zoo.load(colours), IMAGES, steps, mixup="both") for steps in (2, 4))
    assert many == few


@pytest.mark.parametrize("task", ["classify", "regress", "causal-lm"])
def test_step_on_texts_does_not_make_the_host_wait(distribution, tmp_path, task):
    name = words.pretrained(distribution, tmp_path / "weights")
    data, more = TASKS[task]
    few, many = (waits_of_a_run(zoo.load(name), data, steps, **more) for steps in (2, 4))
    assert many == few


def test_losses_are_read_at_evaluations_alone(colours, monkeypatch):
    read, check = [], TrainStep.check_finite
    monkeypatch.setattr(TrainStep, "check_finite", lambda step: (read.append(len(step.unchecked)), check(step))[1])
    zoo.load(colours).finetune(IMAGES, strategy="full", **QUICK | {"steps": 4, "evals": 2})
    assert read == [2, 2]


DEVICE = torch.device(second_device.NAME)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here @ there,
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: here.mul_(there),
    ],
)
def test_tensors_on_two_devices_raise(mixed):
    here, there = torch.ones(2, device=DEVICE), torch.ones(2)
    with pytest.raises(RuntimeError, match="same device"):
        mixed(here, there)


@pytest.mark.parametrize(
    ("read", "kinds"),
    [
        (lambda here: here.sum().item(), ["read"]),
        (lambda here: float(here[0]), ["read"]),
        (lambda here: bool((here > 0).all()), ["read"]),
        (lambda here: here.cpu(), ["read"]),
        (lambda here: here.tolist(), ["read"]),
        (lambda here: here[here > 0], ["read"]),
        (lambda here: here.nonzero(), ["read"]),
        (lambda here: torch.ones(2).to(DEVICE), ["write"]),
        (lambda here: torch.ones(2).to(DEVICE, non_blocking=True), []),
        (lambda here: here[here.long() - 1].mul_(2) + 1, []),
    ],
)
def test_waits_are_recorded(read, kinds):
    here = torch.ones(2, device=DEVICE)
    with second_device.recorded() as waits:
        read(here)
    assert [wait.kind for wait in waits] == kinds
