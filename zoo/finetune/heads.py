"""Heads: new, from a pretrained classifier, of the backbone itself (language models), or from a saved model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.data.examples import Label
from zoo.data.seeding import derive_seed
from zoo.finetune.features.stage_outputs import StageOutput, scale_blocks, total_dim
from zoo.plugin import Backbone, Classifier
from zoo.tasks import Task


class StageHead(nn.Linear):
    """A linear head on pooled features (or tokens) and, behind them, the outputs of `stages`: (N, D) -> (N, K)."""

    def __init__(self, dim: int, outputs: int, stages: Sequence[StageOutput]) -> None:
        """Leave the values unset; `dim` is that of the pooled features."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.stages = total_dim(dim, stages), outputs, tuple(stages)
        self.weight = nn.Parameter(torch.empty(outputs, self.in_features))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Map pooled features with those of the stages behind them, as they come from the backbone, to outputs."""
        return nn.functional.linear(scale_blocks(features, self.stages), self.weight, self.bias)


def stages_of(head: nn.Module | None) -> tuple[StageOutput, ...]:
    """Return the stage outputs that a head reads beside the pooled features."""
    return head.stages if isinstance(head, StageHead) else ()


def new_head(backbone: Backbone, task: Task, *, seed: int, zero: bool) -> nn.Module:
    """Return the language-modelling head of the backbone where the task keeps it, else a new head.

    A new head is zero on pretrained features (BiT, arXiv 1912.11370, section 3.3) and random from scratch. Digits, 5 a
    class, from scratch: zero .710, random .862 (docs/log.md).
    """
    if not task.labelled:
        assert backbone.lm_head is not None
        return backbone.lm_head
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "head"))
        head = task.head(backbone.dim)
    if zero:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    return head


def empty_linear(dim: int, outputs: int, stages: Sequence[StageOutput] = ()) -> nn.Linear:
    """Return a linear layer (D -> K) whose values are still to be written; with `stages` one that reads them too."""
    if stages:
        return StageHead(dim, outputs, stages)
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, dim, outputs)
    return layer


def pretrained_head(task: Task, classifier: Classifier | None, stages: Sequence[StageOutput] = ()) -> nn.Linear | None:
    """Return the rows of a pretrained classifier for the labels of a classification task, None if one is unknown.

    `stages` are those that the classifier reads beside the pooled features.
    """
    if classifier is None or not task.single_label:
        return None
    rows = match_labels(task.labels, classifier.labels)
    if rows is None:
        return None
    head = empty_linear(classifier.weight.shape[1] - total_dim(0, stages), len(rows), stages)
    with torch.no_grad():
        head.weight.copy_(classifier.weight[rows])  # (K, D)
        head.bias.copy_(classifier.bias[rows])
    return head


def match_labels(labels: Sequence[Label], names: Sequence[Sequence[str]]) -> list[int] | None:
    """Return the pretrained class of every label, or None if one is unknown or ambiguous ("crane").

    Case is ignored, and "_", "-" and space are equal; integers match nothing.
    """
    classes: dict[str, set[int]] = defaultdict(set)
    for index, synonyms in enumerate(names):
        for name in synonyms:
            classes[_normalised(name)].add(index)
    found = [classes.get(_normalised(label), set()) if isinstance(label, str) else set() for label in labels]
    if any(len(candidates) != 1 for candidates in found):
        return None
    rows = [next(iter(candidates)) for candidates in found]
    return rows if len(set(rows)) == len(rows) else None


def _normalised(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def restored_head(
    backbone: Backbone, task: Task, state: Mapping[str, Tensor], stages: Sequence[StageOutput] = ()
) -> nn.Module:
    """Return the head of a saved model in float32, from its state dict (keys `backbone.…` and `head.…`).

    Raises ValueError if it does not fit the task, or the backbone has no such stages.
    """
    own = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
    if not task.labelled:
        if own or backbone.lm_head is None:
            raise ValueError(f"{task.name} has the language-modelling head of its backbone, and no other")
        return backbone.lm_head
    modules = dict(backbone.module.named_modules())
    if unknown := [stage.module for stage in stages if stage.module not in modules]:
        raise ValueError(f"the backbone has no module {unknown[0]!r}")
    with torch.device("meta"):
        head = StageHead(backbone.dim, len(task.labels), stages) if stages else task.head(backbone.dim)
    expected = {f"head.{name}": tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    if (found := {name: tuple(tensor.shape) for name, tensor in own.items()}) != expected:
        raise ValueError(f"it has {found}, expected {expected}")
    for name, tensor in own.items():
        if not tensor.is_floating_point() or not tensor.float().isfinite().all():
            raise ValueError(f"{name} has other values than finite numbers")
    head.load_state_dict({name.removeprefix("head."): tensor.float() for name, tensor in own.items()}, assign=True)
    return head
