"""Task metrics compared with torchmetrics, which zoo avoids because its import takes seconds."""

from __future__ import annotations

import pytest
import torch

from zoo.tasks import CausalLM, Classify, Multilabel, Regress

pytestmark = pytest.mark.real
COUNT, LABELS = 500, 7


@pytest.fixture(scope="module")
def metrics():
    return pytest.importorskip("torchmetrics.functional", reason="pip install torchmetrics")


def test_classify_metrics_match_torchmetrics(metrics):
    outputs, targets = torch.randn(COUNT, LABELS), torch.randint(LABELS, (COUNT,))
    found = Classify(tuple(range(LABELS))).measure(outputs, targets)
    options = {"task": "multiclass", "num_classes": LABELS}
    assert found["accuracy"] == pytest.approx(float(metrics.accuracy(outputs, targets, **options)))
    assert found["macro_f1"] == pytest.approx(float(metrics.f1_score(outputs, targets, average="macro", **options)))


def test_multilabel_metrics_match_torchmetrics(metrics):
    outputs, targets = torch.randn(COUNT, LABELS), torch.randint(2, (COUNT, LABELS))
    found = Multilabel(tuple(range(LABELS))).measure(outputs, targets.float())
    options = {"task": "multilabel", "num_labels": LABELS}
    assert found["map"] == pytest.approx(float(metrics.average_precision(outputs, targets, **options)), rel=1e-5)
    for average in ("macro", "micro"):
        expected = float(metrics.f1_score(outputs, targets, average=average, **options))
        assert found[f"{average}_f1"] == pytest.approx(expected)


def test_regress_metrics_match_torchmetrics(metrics):
    labels, outputs = (100 + 5 * torch.randn(COUNT)).tolist(), torch.randn(COUNT, 1)
    task = Regress.of(labels)
    targets = task.targets(labels)
    found = task.measure(outputs, targets)
    truth = torch.tensor(labels, dtype=torch.float64)
    guess = outputs[:, 0].double() * task.std[0] + task.mean[0]
    assert found["r2"] == pytest.approx(float(metrics.r2_score(guess, truth)), rel=1e-4)
    assert found["mae"] == pytest.approx(float(metrics.mean_absolute_error(guess, truth)), rel=1e-4)
    assert found["rmse"] == pytest.approx(float(metrics.mean_squared_error(guess, truth, squared=False)), rel=1e-4)


def test_perplexity_matches_torchmetrics(metrics):
    logits, tokens = torch.randn(COUNT, 50), torch.randint(50, (COUNT,))
    task = CausalLM()
    found = task.measure([task.statistics(logits, tokens)], None)
    assert found["perplexity"] == pytest.approx(float(metrics.text.perplexity(logits[None], tokens[None])), rel=1e-4)
