"""Results worse than those of a model that ignores its inputs are avoided where possible, and never silent."""

from __future__ import annotations

import numpy as np
import pictures
import pytest
import torch
from PIL import Image, ImageDraw
from sklearn.linear_model import RidgeCV

import zoo
from zoo.finetune.features import linear_probe
from zoo.finetune.features.linear_probe import ProbeData
from zoo.tasks import KINDS, Classify
from zoo.tasks.regress import Regress

REVERSED = {"blue": "red", "green": "blue", "red": "green"}
QUICK = {"steps": 4, "evals": 1, "batch_size": 8}


def discs(count: int, seed: int) -> list[tuple[np.ndarray, float]]:
    """Return grey pictures of a disc of random radius and place, with the radius."""
    chance = np.random.default_rng(seed)
    found = []
    for radius in chance.uniform(1, 12, count):
        x, y = chance.uniform(radius, 28 - radius, 2)
        image = Image.new("L", (28, 28), 255)
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(chance.integers(150)))
        found.append((np.asarray(image), float(radius)))
    return found


def sparse(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N, 40) and targets (N,): ten informative ones, and thirty that are nearly always zero."""
    chance = torch.Generator().manual_seed(seed)
    informative = torch.randn(count, 10, generator=chance)
    rare = (torch.rand(count, 30, generator=chance) < 0.02) * torch.rand(count, 30, generator=chance) * 0.02
    targets = informative.sum(1) + 0.1 * torch.randn(count, generator=chance)
    return torch.cat([informative, rare], 1), targets


def test_probe_of_nearly_constant_features_is_as_good_as_scikit_learns_ridge():
    (features, targets), (held, truths) = sparse(60, 0), sparse(400, 1)
    task = Regress.of(targets.tolist())
    head = linear_probe.fit(task, ProbeData(features, task.targets(targets.tolist())), None, seed=0).head
    ours = task.measure(head(held).detach(), task.targets(truths.tolist()))["r2"]
    theirs = RidgeCV(np.logspace(-6, 6, 13)).fit(features, targets).score(held, truths)
    assert ours > theirs - 0.005


def test_one_odd_input_does_not_move_a_prediction_without_bound():
    """The last feature is constant but for noise in training; a new input is far from constant in it."""
    features, targets = sparse(60, 0)
    features[:, -1] = 1e-4 * torch.randn(60, generator=torch.Generator().manual_seed(2))
    task = Regress.of(targets.tolist())
    head = linear_probe.fit(task, ProbeData(features, task.targets(targets.tolist())), 1e-4, seed=0).head
    odd = features[:1].clone()
    odd[0, -1] = 0.5
    assert float((head(odd) - head(features[:1])).detach().abs()) < 0.5


def test_radius_of_discs_is_learnt_from_frozen_features():
    data, held = discs(80, 0), discs(80, 1)
    model = zoo.load("native/resnet14.letters", "cpu").finetune(data, valid=held, strategy="probe", views=1)
    assert model.metrics["r2"] > 0.8
    truths = [radius for _, radius in data], [radius for _, radius in held]
    ours, theirs = (model.embed([image for image, _ in part]) for part in (data, held))
    assert model.metrics["r2"] > RidgeCV(np.logspace(-6, 6, 25)).fit(ours, truths[0]).score(theirs, truths[1]) - 0.03


@pytest.mark.parametrize("edge", ["weak", "strong"])
def test_penalties_are_extended_beyond_the_edge(edge):
    chance = torch.Generator().manual_seed(0)
    features = torch.randn(60, 200, generator=chance)
    noise = 3.0 if edge == "strong" else 0.0
    targets = (features[:, :40].sum(1) / 40**0.5 if edge == "strong" else features[:, 0]) + noise * torch.randn(
        60, generator=chance
    )
    features = features if edge == "strong" else features[:, :3]
    task = Regress.of(targets.tolist())
    chosen = linear_probe.fit(task, ProbeData(features, task.targets(targets.tolist())), None, seed=0).l2
    assert chosen > 1 if edge == "strong" else chosen < 1e-4


def test_probe_that_cannot_learn_predicts_the_mean(pretrained, capsys):
    """Every picture is blank: the labels cannot be told from the features."""
    data = [(np.full((16, 16, 3), 128, np.uint8), float(index % 7)) for index in range(30)]
    model = zoo.load(pretrained, "cpu").finetune(data, strategy="probe", views=1)
    assert model.predict(data[0][0]).label == pytest.approx(model.task.mean[0], abs=1e-3)
    assert "no features: no penalty does better than the mean" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["probe", "full"])
def test_classifier_below_the_majority_class_is_reported(pretrained, strategy, capsys):
    held = [(image, REVERSED[label]) for image, label in pictures.pairs(4, seed=1)]
    settings = {} if strategy == "probe" else QUICK
    zoo.load(pretrained, "cpu").finetune(pictures.pairs(8), valid=held, strategy=strategy, **settings)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    other = "full" if strategy == "probe" else "probe"
    assert "no better than ignoring the inputs (majority class 0.333): check the labels, then try more examples" in line
    assert f'strategy="{other}", or another backbone (zoo list)' in line


def test_result_above_the_baseline_has_no_warning(pretrained, capsys):
    zoo.load(pretrained, "cpu").finetune(pictures.pairs(8), strategy="probe")
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "labels", "worse", "as_good"),
    [
        (Classify(("a", "b")), ["a", "a", "b"], {"accuracy": 0.5}, {"accuracy": 2 / 3}),
        (Regress((0.0,), (1.0,)), [1.0, 2.0], {"r2": -9.5}, {"r2": -9.0}),
        (KINDS["multilabel"].of([("a",), ("b",)]), [("a",), ("b",)], {"map": 0.4}, {"map": 0.5}),
        (KINDS["tag"].of([("O", "X")]), [("O", "O", "X")], {"accuracy": 0.6}, {"accuracy": 2 / 3}),
    ],
)
def test_metrics_are_compared_to_a_model_that_ignores_its_inputs(task, labels, worse, as_good):
    assert task.is_no_better_than_baseline(worse, labels)
    assert task.is_no_better_than_baseline(as_good, labels)
