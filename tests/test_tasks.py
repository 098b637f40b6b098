"""zoo.tasks: what holds for every task: how it is chosen, saved, balanced and compared; labels that are names."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from zoo import tasks
from zoo.errors import DataError, RecipeError
from zoo.tasks import classes

LABELS = {
    "classify": ["b", "a", "b"],
    "multilabel": [("b", "a"), ()],
    "regress": [1.5, 2],
    "tag": [("O", "B-A"), ("O",)],
    "causal-lm": [None],
    "masked-lm": [None],
}
each = pytest.mark.parametrize("name", tasks.NAMES)


def test_an_unknown_task_is_told():
    with pytest.raises(RecipeError, match=r"task='detect' is not one of classify"):
        tasks.make("detect", ["a", "b"])


@pytest.mark.parametrize("name", [name for name in tasks.NAMES if tasks.KINDS[name].labelled])
def test_the_labels_call_for_a_task(name):
    inputs = [["a", "b"], ["a"]] if name == "tag" else ["x"] * len(LABELS[name])
    assert tasks.infer(inputs, LABELS[name], ()) == name


@pytest.mark.parametrize("known", [("causal-lm",), ("classify", "masked-lm")])
def test_no_labels_call_for_the_language_modelling_that_the_backbone_does(known):
    assert tasks.infer(["x"], [None], known) == known[-1]


@each
def test_a_task_survives_its_dict_as_json(name):
    task = tasks.make(name, LABELS[name])
    assert task.name == name
    assert tasks.from_dict(json.loads(json.dumps(task.to_dict()))) == task


@each
def test_a_task_that_is_not_balanced_is_itself(name):
    task = tasks.make(name, LABELS[name])
    assert task.balanced("none", task.targets(LABELS[name])) == task


@pytest.mark.parametrize("name", ["multilabel", "regress", "tag", "causal-lm", "masked-lm"])
def test_a_way_of_balancing_that_does_not_suit_is_told_with_one_that_does(name):
    task = tasks.make(name, LABELS[name])
    targets = task.targets(LABELS[name])
    with pytest.raises(RecipeError, match=r'class_balance="sampler"') as caught:
        task.balanced("sampler", targets)
    fix = caught.value.fix.removeprefix('class_balance="').removesuffix('"')
    task.balanced(fix, targets)


@each
def test_a_task_is_compared_by_one_of_its_metrics(name):
    task = tasks.make(name, LABELS[name])
    targets = task.targets(LABELS[name])
    if not tasks.KINDS[name].labelled:
        outputs, targets = [torch.ones(3, 2)], None
    elif name == "tag":
        outputs = [torch.zeros(len(part), 2) for part in targets]
    else:
        outputs = torch.zeros(len(targets), len(task.labels))
    found = task.measure(outputs, targets)
    assert "loss" in found
    assert tasks.score(task, found) == (-found["loss"] if task.main_metric == "loss" else found[task.main_metric])


@pytest.mark.parametrize("name", ["classify", "multilabel", "regress", "tag"])
def test_a_head_maps_features_to_one_output_a_label(name):
    task = tasks.make(name, LABELS[name])
    assert task.head(3)(torch.randn(4, 3)).shape == (4, len(task.labels))


def test_labels_are_sorted_and_kept_as_they_are():
    assert classes.ordered([["b", "a"], ["b"]]) == ("a", "b")
    assert classes.ordered([[10, 9], [10], []]) == (9, 10)
    assert classes.ordered([[1, "a", 0]]) == (0, 1, "a")


@pytest.mark.parametrize("label", [1.5, None, ("a",)])
def test_what_is_no_name_is_told_with_its_place(label):
    with pytest.raises(DataError, match=r"label of example 1 is .*; a class is a text or a whole number"):
        classes.ordered([["a"], [label]])


def test_unknown_labels_are_told_with_the_known_ones():
    with pytest.raises(DataError, match=r"does not know: emu, owl; it knows a, b\nfix: rename"):
        classes.indices(["a", "owl", "emu"], ("a", "b"))
    with pytest.raises(DataError, match=r"it knows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9…\n"):
        classes.indices([11], range(11))


many = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(many)
def test_class_weights_equal_scikit_learns_balanced_ones(found):
    weights = classes.balance("weights", torch.tensor(found), 5)["weights"]
    present = sorted(set(found))
    expected = compute_class_weight("balanced", classes=torch.tensor(present).numpy(), y=found)
    assert [weights[i] for i in present] == pytest.approx(expected.tolist())
    assert {weights[i] for i in range(5) if i not in present} <= {1.0}


@settings(max_examples=40, deadline=None)
@given(many)
def test_priors_are_log_shares_that_sum_to_one(found):
    prior = torch.tensor(classes.balance("logits", torch.tensor(found), 5)["prior"])
    assert float(prior.exp().sum()) == pytest.approx(1, abs=1e-5)
    commonest = max(set(found), key=found.count)
    assert prior[commonest] == prior.max()


def test_a_weighted_loss_is_a_weighted_mean():
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2])
    weights = (0.5, 1.0, 2.0)
    costs = -outputs.log_softmax(1)[range(6), targets]
    each = torch.tensor(weights)[targets]
    expected = (each * costs).sum() / each.sum()
    assert torch.allclose(classes.cross_entropy(outputs, targets, 0.0, weights, None), expected)


def test_the_best_constant_of_a_balanced_loss_favours_no_class():
    targets = torch.tensor([0] * 90 + [1] * 10)
    for how in ("weights", "logits"):
        outputs = torch.zeros(1, 2, requires_grad=True)
        loss = classes.cross_entropy(
            outputs.expand(100, 2), targets, 0.0, **{"weights": None, "prior": None} | classes.balance(how, targets, 2)
        )
        loss.backward()
        assert torch.allclose(outputs.grad, torch.zeros(1, 2), atol=1e-6), how
