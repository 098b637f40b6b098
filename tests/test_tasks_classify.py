"""zoo.tasks.classify: metrics compared with scikit-learn, predictions, class balancing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from torch.nn import functional as F

from zoo.errors import DataError
from zoo.tasks import Classify

sizes = given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10_000))
quick = settings(max_examples=40, deadline=None)


def random_case(classes: int, count: int, seed: int) -> tuple[Classify, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(count, classes, generator=generator)
    return Classify(tuple(range(classes))), outputs, torch.randint(classes, (count,), generator=generator)


@quick
@sizes
def test_metrics_match_scikit_learn(classes, count, seed):
    task, outputs, targets = random_case(classes, count, seed)
    found, guesses = task.measure(outputs, targets), outputs.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(targets, guesses))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, guesses, average="macro"))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(outputs, targets)))


@quick
@sizes
def test_per_class_report_matches_scikit_learn(classes, count, seed):
    task, outputs, targets = random_case(classes, count, seed)
    report = task.per_class(outputs, targets)
    columns = precision_recall_fscore_support(targets, outputs.argmax(1), labels=range(classes), zero_division=0)
    for label, row in zip(range(classes), zip(*columns, strict=True), strict=True):
        assert list(report[label]) == ["precision", "recall", "f1", "support"]
        assert list(report[label].values()) == pytest.approx(list(row))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_cross_entropy_bit_for_bit(smoothing):
    task, outputs, targets = random_case(4, 20, 0)
    assert torch.equal(
        task.loss(outputs, targets, smoothing), F.cross_entropy(outputs, targets, None, label_smoothing=smoothing)
    )
    assert task.statistics(outputs, targets) is outputs


def test_loss_is_finite_for_huge_outputs():
    task = Classify(("a", "b"))
    outputs, targets = torch.tensor([[3e38, -3e38]]), torch.tensor([0])
    assert task.measure(outputs, targets) == {"accuracy": 1.0, "macro_f1": 1.0, "loss": 0.0}
    assert task.decode(outputs, 2)[0].probability == 1.0


def test_class_balance_changes_only_the_loss():
    task, outputs, targets = random_case(4, 20, 0)
    for how in ("weights", "logits"):
        balanced = task.balanced(how, targets)
        assert balanced.loss(outputs, targets) != task.loss(outputs, targets)
        assert balanced.measure(outputs, targets) == task.measure(outputs, targets)
        assert balanced.decode(outputs, 3) == task.decode(outputs, 3)
        assert balanced.to_dict() == task.to_dict()
    assert task.balanced("sampler", targets) == task


def recall_of_rare(how: str) -> float:
    """Fit a head to two overlapping Gaussian classes, 95 to 5; the unweighted loss favours the common class."""
    targets = torch.tensor([0] * 950 + [1] * 50)
    inputs = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)) + targets[:, None] * 2.0
    task = Classify(("common", "rare")).balanced(how, targets)
    head = torch.nn.Linear(1, 2)
    solver = torch.optim.LBFGS(head.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        solver.zero_grad()
        loss = task.loss(head(inputs), targets)
        loss.backward()
        return loss

    solver.step(objective)
    with torch.no_grad():
        return task.per_class(head(inputs), targets)["rare"]["recall"]


def test_class_balance_increases_the_recall_of_rare_classes():
    assert recall_of_rare("none") < 0.4
    assert recall_of_rare("weights") > 0.75
    assert recall_of_rare("logits") > 0.75


@quick
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_sampling_weights_balance_the_classes(found):
    targets = torch.tensor(found)
    weights = Classify(tuple(range(5))).sampling_weights(targets)
    share = torch.zeros(5, dtype=torch.float64).index_add(0, targets, weights)
    assert share[targets.unique()].tolist() == pytest.approx([1.0] * len(set(found)))


def test_decode_ranks_labels_by_probability():
    (answer,) = Classify(("a", "b", "c")).decode(torch.tensor([[0.0, 2.0, 1.0]]), top=2)
    assert answer.label == "b"
    assert [label for label, _ in answer.top] == ["b", "c"]
    assert answer.probability == pytest.approx(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1].item())
    assert len(Classify(("a", "b")).decode(torch.zeros(1, 2), top=9)[0].top) == 2


def test_baseline_is_the_majority_class():
    assert Classify(("a", "b")).baseline(["a", "a", "b", "a"]) == "majority class 0.750"


def test_unknown_label_raises():
    with pytest.raises(DataError, match=r"does not know: owl; it knows a, b"):
        Classify.of(["a", "b"]).targets(["a", "owl"])


def test_improvement_requires_more_than_one_standard_error():
    task, targets = Classify((0, 1)), torch.zeros(100, dtype=torch.long)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])

    def outputs(hits):
        return torch.stack([right if hit else wrong for hit in hits])

    before = outputs([True] * 90 + [False] * 10)
    assert task.improves(before, outputs([True] * 95 + [False] * 5), targets)  # five fixed, none broken
    assert not task.improves(before, before, targets)
    mixed = outputs([False] * 4 + [True] * 92 + [False] * 4)  # six fixed, four broken: 2 < sqrt(10)
    assert not task.improves(before, mixed, targets)
