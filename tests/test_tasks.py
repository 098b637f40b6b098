"""zoo.tasks: inference, serialisation, class balancing and scoring of all tasks; class labels."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from zoo import tasks
from zoo.errors import DataError, RecipeError
from zoo.tasks import Classify, Multilabel, Tag, Task, classes

LABELS = {
    "classify": ["b", "a", "b"],
    "multilabel": [("b", "a"), ()],
    "regress": [1.5, 2],
    "tag": [("O", "B-A"), ("O",)],
    "causal-lm": [None],
    "masked-lm": [None],
}
each = pytest.mark.parametrize("name", tasks.NAMES)


def test_unknown_task_raises():
    with pytest.raises(RecipeError, match=r"task='detect' is not one of classify"):
        tasks.make("detect", ["a", "b"])


@pytest.mark.parametrize("name", [name for name in tasks.NAMES if tasks.KINDS[name].labelled])
def test_infer_task_from_labels(name):
    inputs = [["a", "b"], ["a"]] if name == "tag" else ["x"] * len(LABELS[name])
    assert tasks.infer(inputs, LABELS[name], ()) == name


@pytest.mark.parametrize("known", [("causal-lm",), ("classify", "masked-lm")])
def test_infer_language_modelling_task_from_the_backbone(known):
    assert tasks.infer(["x"], [None], known) == known[-1]


@each
def test_task_round_trips_through_json(name):
    task = tasks.make(name, LABELS[name])
    assert task.name == name
    assert tasks.from_dict(json.loads(json.dumps(task.to_dict()))) == task


@each
def test_class_balance_none_returns_an_equal_task(name):
    task = tasks.make(name, LABELS[name])
    assert task.balanced("none", task.targets(LABELS[name])) == task


@pytest.mark.parametrize("name", ["multilabel", "regress", "tag", "causal-lm", "masked-lm"])
def test_unsupported_class_balance_raises_with_a_supported_one(name):
    task = tasks.make(name, LABELS[name])
    targets = task.targets(LABELS[name])
    with pytest.raises(RecipeError, match=r'class_balance="sampler"') as caught:
        task.balanced("sampler", targets)
    fix = caught.value.fix.removeprefix('class_balance="').removesuffix('"')
    task.balanced(fix, targets)


@each
def test_score_is_the_main_metric(name):
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
def test_head_has_one_output_per_label(name):
    task = tasks.make(name, LABELS[name])
    assert task.head(3)(torch.randn(4, 3)).shape == (4, len(task.labels))


def test_ordered_sorts_labels_and_keeps_their_types():
    assert classes.ordered([["b", "a"], ["b"]]) == ("a", "b")
    assert classes.ordered([[10, 9], [10], []]) == (9, 10)
    assert classes.ordered([[1, "a", 0]]) == (0, 1, "a")


@pytest.mark.parametrize("label", [1.5, None, ("a",)])
def test_invalid_class_label_raises_with_its_index(label):
    with pytest.raises(DataError, match=r"label of example 1 is .*; a class is a text or a whole number"):
        classes.ordered([["a"], [label]])


def test_unknown_labels_raise_with_the_known_labels():
    with pytest.raises(DataError, match=r"does not know: emu, owl; it knows a, b\nfix: rename"):
        classes.indices(["a", "owl", "emu"], ("a", "b"))
    with pytest.raises(DataError, match=r"it knows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9…\n"):
        classes.indices([11], range(11))


def counts(found: list[int]) -> torch.Tensor:
    return torch.bincount(torch.tensor(found), minlength=5)


class_indices = st.lists(st.integers(0, 4), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(class_indices)
def test_class_weights_match_scikit_learn(found):
    weights = classes.balance("weights", counts(found))["weights"]
    present = sorted(set(found))
    expected = compute_class_weight("balanced", classes=torch.tensor(present).numpy(), y=found)
    assert [weights[i] for i in present] == pytest.approx(expected.tolist())
    assert {weights[i] for i in range(5) if i not in present} <= {1.0}


@settings(max_examples=40, deadline=None)
@given(class_indices)
def test_priors_are_log_probabilities(found):
    prior = torch.tensor(classes.balance("logits", counts(found))["prior"])
    assert float(prior.exp().sum()) == pytest.approx(1, abs=1e-5)
    commonest = max(set(found), key=found.count)
    assert prior[commonest] == prior.max()


def test_weighted_loss_is_a_weighted_mean():
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 2])
    weights = (0.5, 1.0, 2.0)
    losses = -outputs.log_softmax(1)[range(6), targets]
    each = torch.tensor(weights)[targets]
    expected = (each * losses).sum() / each.sum()
    assert torch.allclose(classes.cross_entropy(outputs, targets, 0.0, weights, None), expected)


def test_balanced_loss_has_zero_gradient_at_uniform_constant_outputs():
    targets = torch.tensor([0] * 90 + [1] * 10)
    for how in ("weights", "logits"):
        outputs = torch.zeros(1, 2, requires_grad=True)
        loss = classes.cross_entropy(
            outputs.expand(100, 2),
            targets,
            0.0,
            **{"weights": None, "prior": None} | classes.balance(how, torch.bincount(targets)),
        )
        loss.backward()
        assert torch.allclose(outputs.grad, torch.zeros(1, 2), atol=1e-6), how


def test_item_scores_are_those_of_each_example():
    chance = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(20, 3, generator=chance), torch.randint(3, (20,), generator=chance)
    classify = tasks.KINDS["classify"](("a", "b", "c"))
    assert float(classify.item_scores(outputs, targets).mean()) == pytest.approx(
        classify.measure(outputs, targets)["accuracy"]
    )
    several = tasks.KINDS["regress"].of([(0.0, 10.0), (1.0, 30.0)])
    numbers = torch.randn(20, 2, generator=chance)
    assert float(several.item_scores(outputs[:, :2], numbers).mean()) == pytest.approx(
        several.measure(outputs[:, :2], numbers)["mae"]
    )
    labels = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 0]])
    logits = torch.tensor([[9.0, -9, -9], [-9, -9, -9], [9, -9, -9]])
    assert tasks.KINDS["multilabel"](("a", "b", "c")).item_scores(logits, labels).tolist() == pytest.approx(
        [2 / 3, 1, 0]
    )
    tag = tasks.KINDS["tag"].of([("x", "y")])
    words = [torch.tensor([[9.0, 0], [9.0, 0]]), torch.tensor([[0, 9.0]])]
    assert tag.item_scores(words, [torch.tensor([0, 1]), torch.tensor([1])]).tolist() == [0.5, 1]
    with pytest.raises(RecipeError, match="has no labels"):
        tasks.KINDS["causal-lm"]().item_scores(words, None)


NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "task",
    [
        Classify(NAMES),
        Classify(NAMES, weights=(0.5, 2.0, 1.0, 3.0)),
        Classify(NAMES, prior=(-0.1, -3.0, -2.0, -4.0)),
        Tag(NAMES, weights=(0.5, 2.0, 1.0, 3.0)),
        Multilabel(NAMES),
        Multilabel(NAMES, weights=(0.5, 2.0, 1.0, 3.0)),
    ],
    ids=lambda task: f"{task.name}-{'plain' if task.weights is None else 'weights'}",
)
def test_curvature_in_closed_form_is_that_of_differentiating_twice(task):
    chance = torch.Generator().manual_seed(0)
    outputs, directions = (3 * torch.randn(2, 9, 4, generator=chance, dtype=torch.float64)).unbind()
    targets = torch.randint(4, (9,), generator=chance)
    if task.name == "multilabel":
        targets = F.one_hot(targets, 4).double()
    found = task.loss_curvature(outputs, targets)(directions)
    torch.testing.assert_close(found, Task.loss_curvature(task, outputs, targets)(directions))
    assert found.abs().max() > 1e-3
