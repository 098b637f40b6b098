"""Features of a frozen backbone for a linear head: pooled features and stage outputs of one pass, as rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.data.datasets import AugmentedViews, Dataset, LabelledDataset
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.features import linear_probe, stage_search, streamed_features
from zoo.finetune.features.feature_cache import cached_features
from zoo.finetune.features.linear_probe import MAX_VALUES, ProbeData
from zoo.finetune.features.stage_outputs import StageOutput, total_dim
from zoo.finetune.heads import stages_of
from zoo.finetune.inference import Outputs
from zoo.plugin import Backbone
from zoo.tasks import Task


def readable_stages(
    backbone: Backbone, task: Task, data: Dataset, hp: Hyperparameters
) -> tuple[tuple[StageOutput, ...], str]:
    """Return the stage outputs that a head may read, and why there are none ("" where there are some)."""
    if hp.head_stages == 0:
        return (), ""
    found = stage_search.find(backbone, hp.head_stages)
    if task.reads == "tokens":
        found = tuple(stage for stage in found if stage.layout == "NTC")
    if not found:
        return (), "the outputs of its stages cannot be pooled"
    if isinstance(data, StreamedDataset) and hp.strategy == "probe":
        rows = data.examples or MAX_VALUES
    else:
        data = _sample(data)
        words = data.lengths if task.reads == "tokens" else None
        rows = len(data) * hp.most_views if words is None else int(words.sum())
    if rows * total_dim(backbone.dim, found) > MAX_VALUES:
        return (), f"{rows:,} rows with stage outputs take more than {MAX_VALUES * 4 >> 20} MiB"
    return found, ""


def rows(
    backbone: Backbone,
    task: Task,
    data: Dataset,
    hp: Hyperparameters,
    stages: tuple[StageOutput, ...] = (),
    groups: Tensor | None = None,
) -> tuple[ProbeData, bool]:
    """Return features and targets of a dataset as rows, and whether they were in the feature cache.

    Each view of an image is a row. Where the task reads tokens each word of a text is one, and those of a text are a
    group. Rows of the examples of a group, if `groups` (N,) are given, are one too. Of a stream a probe reads all
    examples; where more is trained than its head, the head starts from those of the first window.
    """
    if isinstance(data, StreamedDataset) and hp.strategy == "probe":
        return streamed_features.rows(backbone, task, data, hp.precision, stages)
    data = _sample(data)
    views = hp.most_views if isinstance(data, LabelledDataset) else 1
    found, cached = features(backbone, task, data, hp.precision, stages)
    if isinstance(found.values, Tensor):
        values = found.values
        if views > 1:
            assert isinstance(data, LabelledDataset)
            others = AugmentedViews(data, views, hp.augment, hp.seed, first=1)
            augmented, also = cached_features(
                backbone.module, others, reads=task.reads, precision=hp.precision, stages=stages
            )
            values, cached = torch.cat([values, augmented.values]), cached and also
        assert isinstance(data.targets, Tensor)
        targets = torch.cat([data.targets] * views)
        return ProbeData(values, targets, None if groups is None else groups.repeat(views), stages, views), cached
    counts = torch.tensor([len(part) for part in found.values])
    groups = (torch.arange(len(counts)) if groups is None else groups).repeat_interleave(counts)
    return ProbeData(torch.cat(found.values), torch.cat(found.targets), groups, stages), cached


def _sample(data: Dataset) -> Dataset:
    """Return the first window of a stream; other data as it is."""
    return data.first_window if isinstance(data, StreamedDataset) else data


def outputs(
    backbone: Backbone,
    head: nn.Linear,
    task: Task,
    data: Dataset,
    precision: str,
    stages: tuple[StageOutput, ...] | None = None,
) -> Outputs:
    """Return the statistics of a head on the features of a dataset, with its targets.

    The head reads the last ones of `stages`, of which features are computed; None: of its own.
    """
    kept = stages_of(head)
    found, _ = features(backbone, task, data, precision, kept if stages is None else stages)
    values = found.values
    if isinstance(values, Tensor):
        values = linear_probe.select(values, backbone.dim, kept)
    else:
        values = [linear_probe.select(part, backbone.dim, kept) for part in values]
    return Outputs(linear_probe.predict(task, head, Outputs(values, found.targets)), found.targets)


def features(
    backbone: Backbone, task: Task, data: Dataset, precision: str, stages: tuple[StageOutput, ...]
) -> tuple[Outputs, bool]:
    """Return features of a dataset, computed with all examples that were read with it, and whether they were cached.

    Training and validation data are mostly parts of one whole: one pass serves both, and every other split of it. Where
    a copy of its rows would not fit into memory, each part has a pass and a file of its own.
    """
    dim = backbone.dim + sum(stage.dim for stage in stages)
    whole = data.pool() if isinstance(data, LabelledDataset) and len(data) * dim <= MAX_VALUES else data
    found, cached = cached_features(backbone.module, whole, reads=task.reads, precision=precision, stages=stages)
    if not isinstance(data, LabelledDataset) or whole is data:
        return found, cached
    rows = data.inputs.rows
    is_whole = torch.equal(rows, torch.arange(len(found.values)))  # no copy
    return Outputs(found.values if is_whole else found.values[rows], data.targets), cached
