"""The score of frozen features by task: cross-validated, one number for each example, higher is better."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo import tasks
from zoo.data.examples import Examples
from zoo.evidence import frozen_score
from zoo.evidence.frozen_score import Plan
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.inference import Outputs


def scored(
    name: str, labels: list, targets: object, values: object, groups: list | None = None, stages: tuple = ()
) -> dict:
    examples = Examples(list(range(len(labels))), labels, "numbers", groups)
    task = tasks.make(name, labels)
    found = Outputs(values, task.targets(labels) if targets is None else targets)
    job = SimpleNamespace(task=task, groups=None if groups is None else torch.tensor(groups))
    return frozen_score._cross_validate(job, (found, stages), examples, Plan(name, len(labels), 2, 0))


def features(count: int = 40) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1))


def test_classes_are_scored_by_hits():
    values = features()
    good = scored("classify", ["ab"[int(x)] for x in (values[:, 0] > 0).long()], None, values)
    assert np.asarray(good["items"]).shape == (2, 40)
    assert set(np.asarray(good["items"]).flatten()) <= {0.0, 1.0}
    assert good["metrics"]["accuracy"] == pytest.approx(np.mean(good["items"]))
    assert good["main"] == "accuracy"
    assert good["low"] < good["metrics"]["accuracy"] < good["high"]
    assert good["metrics"]["accuracy"] > 0.8
    assert good["items"][0] != good["items"][1]  # other folds


def test_labels_without_relation_are_scored_at_chance():
    shares = []
    for seed in range(4):
        chance = torch.Generator().manual_seed(seed)
        values = torch.randn(40, 4, generator=chance)
        labels = ["ab"[int(x)] for x in torch.randperm(40, generator=chance) % 2]
        shares.append(scored("classify", labels, None, values)["metrics"]["accuracy"])
    assert 0.35 < np.mean(shares) < 0.62


def test_numbers_are_scored_by_their_loss():
    values = features()
    good = scored("regress", (3 * values[:, 0] + 1).tolist(), None, values)
    bad = scored("regress", (3 * values[:, 0] + 1).tolist(), None, features(40).roll(7, 0))
    assert good["main"] == "r2"
    assert good["metrics"]["r2"] > 0.95
    assert np.mean(good["items"]) > np.mean(bad["items"])
    assert np.asarray(good["items"]).shape == (2, 40)


def test_several_labels_are_scored_by_their_loss():
    values = features()
    labels = [tuple(name for name, x in zip("abc", row, strict=False) if x > 0) for row in values.tolist()]
    found = scored("multilabel", labels, None, values)
    assert found["main"] == "map"
    assert found["metrics"]["map"] > 0.8
    assert np.asarray(found["items"]).shape == (2, 40)


def test_tags_are_scored_by_text():
    lengths = [2 + number % 3 for number in range(20)]
    values = list(features(sum(lengths)).split(lengths))
    labels = [tuple("xy"[int(row[0] > 0)] for row in part) for part in values]
    task = tasks.make("tag", labels)
    found = scored("tag", labels, task.targets(labels), values)
    assert np.asarray(found["items"]).shape == (2, 20)
    assert found["metrics"]["accuracy"] > 0.8


def test_groups_are_in_one_fold():
    values = features(20).repeat_interleave(2, 0)  # twins: seen in training they would be known
    labels = ["ab"[number % 2] for number in range(20) for _ in range(2)]
    groups = [number for number in range(20) for _ in range(2)]
    found = scored("classify", labels, None, values, groups)
    assert found["metrics"]["accuracy"] < 0.75


def test_example_that_is_the_only_one_of_its_class_is_not_scored():
    values = features(21)
    labels = ["ab"[int(x)] for x in (values[:20, 0] > 0).long()] + ["c"]
    assert np.asarray(scored("classify", labels, None, values)["items"]).shape == (2, 20)


def test_outputs_of_stages_are_read_where_they_help():
    pooled, helpful = features(60)[:, :2], features(61)[1:] * 3
    labels = ["ab"[int(x)] for x in (helpful[:, 0] > 0).long()]
    stages = (StageOutput("stage", "NTC", 4),)
    with_stages = scored("classify", labels, None, torch.cat([pooled, helpful], 1), stages=stages)
    assert with_stages["metrics"]["accuracy"] > 0.85 > scored("classify", labels, None, pooled)["metrics"]["accuracy"]
