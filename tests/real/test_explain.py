"""Why a frozen ImageNet net works on photos: the deeper a stage, the more it knows of the task."""

from __future__ import annotations

import pytest
import real_data

import zoo
from zoo.evidence.report.explain.stage_table import stage_table
from zoo.evidence.report.facts import collect

pytestmark = pytest.mark.real


def test_depth_knows_the_task_on_photos(hub):
    photos = real_data.photos()
    model = zoo.load("timm/tf_efficientnet_lite0.in1k", "cpu")
    model.finetune(photos, strategy="probe", views=1, l2=0.1, quiet=True)
    found = stage_table(collect(model, photos))
    assert found.is_frozen
    assert all(stage.similarity.cka == pytest.approx(1) for stage in found.stages)
    scores = [stage.probe.score for stage in found.stages]
    assert scores[0] < 0.55 < 0.75 < scores[-1]
    assert found.stages[0].p < 0.001  # the stem reads worse than the pooled features
    assert max(scores[5:8]) > 0.75  # the last stages know as much
