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
