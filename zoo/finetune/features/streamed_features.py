"""Features of a stream for a linear head: computed window by window, written to a memory-mapped file as they come."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from zoo.console import Bar
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.finetune.features.feature_cache import key
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.inference import extract_features
from zoo.finetune.runtime import distributed
from zoo.plugin import Backbone
from zoo.store import cache_file, caches
from zoo.tasks import Task


def rows(
    backbone: Backbone, task: Task, data: StreamedDataset, precision: str, stages: tuple[StageOutput, ...]
) -> tuple[ProbeData, bool]:
    """Return features (M, D) and targets of all examples of a stream, and whether they were in the feature cache.

    Features are mapped from the disk; targets, and the groups of words, are in memory: 8 bytes a row each.
    """
    what = repr(("stream", task.reads, stages, task.to_dict()))
    path = caches.folder("features") / f"{key(backbone.module, data, what, precision)}.safetensors"
    found = cache_file.read(path)
    if all(distributed.all_gather(found is not None)) and found is not None:
        return _probe_data(found, stages), True
    targets: list[Tensor] = []
    groups: list[Tensor] = []
    count = 0
    with cache_file.Writer(path, in_memory=False) as writer, Bar("features", data.examples or 0) as bar:
        for part in data.epoch():
            outputs = extract_features(backbone.module, part, reads=task.reads, precision=precision, stages=stages)
            writer.append(_joined(outputs.values))
            targets.append(_joined(outputs.targets))
            if not isinstance(outputs.values, Tensor):
                lengths = torch.tensor([len(words) for words in outputs.values])
                groups.append(torch.arange(count, count + len(part)).repeat_interleave(lengths))
            count += len(part)
            bar.advance(len(part))
        tensors = {"targets": torch.cat(targets)} | ({"groups": torch.cat(groups)} if groups else {})
        dim = backbone.dim + sum(stage.dim for stage in stages)
        facts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "values": (torch.float32, (len(tensors["targets"]), dim))
        }
        for name, tensor in tensors.items():
            writer.append(tensor)
            facts[name] = (tensor.dtype, tuple(tensor.shape))
        found = writer.finish(facts)
    if not data.is_identified:  # nobody could find it again
        with suppress(OSError):
            path.unlink()
    return _probe_data(found, stages), False


def _joined(values: Tensor | Sequence[Tensor]) -> Tensor:
    return values if isinstance(values, Tensor) else torch.cat(list(values))


def _probe_data(found: dict[str, Tensor], stages: tuple[StageOutput, ...]) -> ProbeData:
    return ProbeData(found["values"], found["targets"], found.get("groups"), stages)
