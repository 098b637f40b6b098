"""The linear probe, checked against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import pictures
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import zoo
from zoo.finetune import setup
from zoo.finetune.features import frozen_features, linear_probe, linear_solver
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.tasks.classify import Classify


def blobs(per_class: int, classes: int = 3, dim: int = 5, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, dim, generator=chance) * 2
    targets = torch.arange(classes).repeat_interleave(per_class)
    noise = torch.randn(len(targets), dim, generator=chance) * spread
    widths = torch.tensor([1.0, 10.0, 0.1, 5.0, 1.0]).repeat(3)[:dim]
    return (centres[targets] + noise) * widths + 3, targets


def test_probe_equals_scikit_learns_logistic_regression():
    features, targets = blobs(20)
    l2 = 0.05
    head = linear_probe.fit(Classify.of([0, 1, 2]), linear_probe.ProbeData(features, targets), l2, seed=0).head
    deviation = features.std(0, correction=0)
    scaled = (features - features.mean(0)) / deviation.clamp(min=linear_probe.FLOOR * deviation.mean())
    scaled /= scaled.var(0, correction=0).sum().sqrt()
    # scikit-learn minimises C * sum of losses + |W|² / 2, we mean loss + l2 / 2 * |W|²
    reference = LogisticRegression(C=1 / (l2 * len(targets)), tol=1e-9, max_iter=5000).fit(scaled, targets)
    expected = torch.tensor(reference.predict_proba(scaled), dtype=torch.float32)
    torch.testing.assert_close(head(features).softmax(1), expected, atol=2e-4, rtol=0)


def test_penalty_is_cross_validated():
    features, targets = blobs(12, spread=4.0)
    chosen = linear_probe.fit(Classify.of([0, 1, 2]), linear_probe.ProbeData(features, targets), None, seed=0).l2
    assert chosen in linear_probe.PENALTIES


def test_one_example_a_class_takes_the_default_penalty():
    features, targets = blobs(1)
    fitted = linear_probe.fit(Classify.of([0, 1, 2]), linear_probe.ProbeData(features, targets), None, seed=0)
    assert fitted.l2 == linear_probe.DEFAULT_PENALTY
    assert fitted.head(features).argmax(1).tolist() == targets.tolist()


def test_constant_feature_gets_zero_weight():
    features, targets = blobs(5)
    features[:, 2] = 7.0
    head = linear_probe.fit(Classify.of([0, 1, 2]), linear_probe.ProbeData(features, targets), 0.01, seed=0).head
    assert head.weight[:, 2].abs().max() < 1e-12
    assert torch.isfinite(head.weight).all()


def test_stages_have_decaying_shares_of_the_variance_and_constant_ones_none():
    chance = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(30, dim, generator=chance) * size + 5 for dim, size in ((4, 1e3), (7, 1e-3), (3, 10.0), (2, 0))
    ]
    stages = tuple(StageOutput(f"{dim}", "NTC", dim) for dim in (7, 3, 2))
    data = linear_probe.ProbeData(torch.cat(parts, 1), torch.zeros(30), None, stages)
    spread = linear_probe._standardised(data)[0].square().mean(0).split([4, 7, 3, 2])
    shares = torch.stack([part.sum() for part in spread])
    torch.testing.assert_close(shares, torch.tensor([1, 0.125, 0.25, 0]) / 1.875, atol=1e-4, rtol=1e-3)


def test_features_far_wider_than_the_others_do_not_hide_them():
    """Like the few channels of a language model that are a hundred times as large as the others."""
    features, targets = blobs(20, dim=12)
    features[:, 5] = 1e3 * torch.randn(len(features), generator=torch.Generator().manual_seed(1))
    fitted = linear_probe.fit(Classify.of([0, 1, 2]), linear_probe.ProbeData(features, targets), None, seed=0)
    assert (fitted.head(features).argmax(1) == targets).float().mean() > 0.95


def test_a_classifier_that_cannot_learn_still_answers_by_its_features():
    """Four mails, two of each class: no penalty beats the class frequencies out of fold."""
    features = torch.tensor([[1.0, 0.1], [-0.2, 1.0], [-1.0, 0.1], [0.3, -1.0]])
    targets = torch.tensor([0, 0, 1, 1])
    fitted = linear_probe.fit(Classify.of([0, 1]), linear_probe.ProbeData(features, targets), None, seed=0)
    assert fitted.l2 in linear_probe.PENALTIES
    assert fitted.head(features).argmax(1).tolist() == targets.tolist()


def test_the_only_example_of_a_class_is_in_no_fold():
    targets = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    folds = linear_probe._folds(linear_probe.ProbeData(torch.zeros(7, 2), targets), seed=0)
    assert sorted(torch.cat(folds).tolist()) == [0, 1, 2, 3, 4, 5]
    assert len(folds) == 3


@pytest.mark.parametrize("per_class", [2, 3, 9])
def test_folds_hold_every_example_once(per_class):
    targets = torch.arange(3).repeat_interleave(per_class)
    folds = linear_probe._folds(linear_probe.ProbeData(torch.zeros(len(targets), 1), targets), seed=0)
    assert sorted(torch.cat(folds).tolist()) == list(range(3 * per_class))
    assert len(folds) == min(5, per_class)


def test_groups_are_not_divided_and_a_class_of_one_group_is_in_no_fold():
    groups = torch.arange(9).repeat_interleave(4)
    targets = torch.tensor([0, 1]).repeat(18)
    targets[groups == 8] = 2
    folds = linear_probe._folds(linear_probe.ProbeData(torch.zeros(36, 1), targets, groups), seed=0)
    assert sorted(torch.cat(folds).tolist()) == list(range(32))
    owners = [set(groups[fold].tolist()) for fold in folds]
    assert sum(map(len, owners)) == 8
    assert len(folds) == 5


def test_folds_of_groups_do_not_reward_features_that_tell_the_groups_apart():
    """Features identify the group, and the label is the group's: without whole groups a weak penalty seems best."""
    chance = torch.Generator().manual_seed(0)
    groups = torch.arange(20).repeat_interleave(6)
    features = torch.randn(20, 30, generator=chance)[groups] + 0.01 * torch.randn(120, 30, generator=chance)
    targets = torch.randint(2, (20,), generator=chance)[groups]
    task = Classify.of([0, 1])
    divided = linear_probe.fit(task, linear_probe.ProbeData(features, targets), None, seed=0).l2
    whole = linear_probe.fit(task, linear_probe.ProbeData(features, targets, groups), None, seed=0).l2
    assert whole > 100 * divided


@pytest.mark.parametrize(("second", "views"), [("another draw", 2), ("of another class", 1)])
def test_a_second_view_is_learnt_from_where_it_lowers_the_loss_of_the_examples(second, views):
    chance = torch.Generator().manual_seed(0)
    targets = torch.arange(3).repeat(8)
    centres = 2 * torch.eye(3, 12)
    shown = targets if second == "another draw" else (targets + 1) % 3
    features = centres[torch.cat([targets, shown])] + torch.randn(48, 12, generator=chance)
    data = linear_probe.ProbeData(features, targets.repeat(2), views=2)
    kept, fitted = linear_probe.choose_views(linear_probe.fit, Classify.of([0, 1, 2]), data, None, 0)
    assert (kept.views, len(kept)) == (views, 24 * views)
    again = linear_probe.fit(Classify.of([0, 1, 2]), kept, None, 0)
    assert torch.equal(fitted.head.weight, again.head.weight)


def test_all_views_of_an_example_are_left_out_together_and_the_first_is_held_out():
    data = linear_probe.ProbeData(torch.zeros(18, 1), torch.arange(3).repeat(6), views=3)
    folds = linear_probe.all_folds(data, seed=0)
    assert sorted(torch.cat(folds).tolist()) == list(range(6))
    for held in folds:
        assert linear_probe._others(data, held).tolist() == [row for row in range(18) if row % 6 not in held.tolist()]


def test_groups_of_the_data_reach_the_probe(pretrained):
    rows = [{"image": pictures.array("red", n), "label": n % 2, "site": f"site {n // 3}"} for n in range(9)]
    model, request = zoo.load(pretrained, "cpu"), setup.request(rows, None, None, {"groups": "site", "valid": 0})
    data = setup.read_data(request, model.entry)
    job = setup.make_job(request, data, model.backbone, lambda _: None, pretrained=True)
    assert job.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    hp = replace(job.hp, views=2, augment="shift")
    rows, _ = frozen_features.rows(model.backbone, job.task, job.train, hp, groups=job.groups)
    assert rows.groups.tolist() == 2 * job.groups.tolist()


def test_probe_is_deterministic():
    features, targets = blobs(8)
    first = linear_probe.fit(Classify.of([0, 1, 2]), linear_probe.ProbeData(features, targets), None, seed=0).head
    again = linear_probe.fit(Classify.of([0, 1, 2]), linear_probe.ProbeData(features, targets), None, seed=0).head
    assert torch.equal(first.weight, again.weight)


@pytest.mark.parametrize("balance", ["none", "weights", "logits"])
def test_parts_that_are_solved_together_are_those_solved_alone(balance):
    features, targets = blobs(12, spread=3.0)
    targets[:9] = 2
    task = Classify.of([0, 1, 2]).balanced(balance, targets)
    problem = linear_solver.problem(features - features.mean(0), targets)
    parts = [torch.arange(36) % 3 != held for held in range(3)]
    together = linear_solver.solve_parts(task, problem, [part.nonzero()[:, 0] for part in parts], 0.01)
    for part, weight, bias in zip(parts, together.weight, together.bias, strict=True):
        alone = linear_solver.solve(task, problem.at(part), 0.01)
        torch.testing.assert_close(weight, alone.weight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(bias, alone.bias, atol=1e-5, rtol=1e-4)


def test_class_without_examples_in_a_part_is_never_predicted():
    features, targets = blobs(6)
    problem = linear_solver.problem(features - features.mean(0), targets)
    found = linear_solver.solve_parts(Classify.of([0, 1, 2]), problem, [torch.arange(12)], 1e-3)
    outputs = problem.x @ found.weight[0].T + found.bias[0]
    assert outputs.isfinite().all()
    assert 2 not in outputs[:12].argmax(1)
