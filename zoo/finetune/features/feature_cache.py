"""The feature cache: features of a frozen backbone, stored under a hash of weights, inputs and precision."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.data.datasets import AugmentedViews, Dataset, LabelledDataset, TaggedTexts
from zoo.data.fingerprint import identity
from zoo.data.on_access import OnAccess
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.data.texts import Texts
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.inference import Outputs, extract_features
from zoo.finetune.runtime import distributed, machine
from zoo.store import cache_file, caches

WORTH = 2.0
"""Seconds of computation from which features are stored."""


def cached_features(
    module: nn.Module, data: Dataset, *, reads: str, precision: str, stages: Sequence[StageOutput] = ()
) -> tuple[Outputs, bool]:
    """Return the features of a dataset, and whether they were read from the cache (memory-mapped).

    They are pooled (N, D), or a list of those of tokens (Mi, D); D includes the outputs of `stages`.
    """
    what = reads if not stages else repr((reads, tuple(stages)))
    path = caches.folder("features") / f"{key(module, data, what, precision)}.safetensors"
    found = cache_file.read(path)
    if all(distributed.all_gather(found is not None)) and found is not None:
        return _outputs(found, data), True
    start = time.monotonic()
    features = extract_features(module, data, reads=reads, precision=precision, stages=stages)
    if time.monotonic() - start > WORTH and distributed.rank() == 0:
        cache_file.write(path, _tensors(features))
    return features, False


def _outputs(tensors: Mapping[str, Tensor], data: Dataset) -> Outputs:
    """Return stored features; pooled ones have the targets of the dataset, those of tokens their own."""
    if "counts" not in tensors:
        return Outputs(tensors["values"], data.targets)
    counts = tensors["counts"].tolist()
    return Outputs(list(tensors["values"].split(counts)), list(tensors["targets"].split(counts)))


def _tensors(features: Outputs) -> dict[str, Tensor]:
    if isinstance(features.values, Tensor):
        return {"values": features.values}
    counts = torch.tensor([len(part) for part in features.values])
    return {"counts": counts, "targets": torch.cat(features.targets), "values": torch.cat(features.values)}


def key(module: nn.Module, data: Dataset, reads: str, precision: str) -> str:
    """Return the hash of everything that features depend on."""
    device = next(module.parameters()).device.type
    digest = hashlib.sha256(repr((machine.identity(), device, reads, precision, type(data).__name__)).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    for part in _content(data):
        digest.update(part)
    return digest.hexdigest()[:40]


def _content(data: Dataset) -> Iterator[bytes]:
    """Yield the content of a dataset, example by example."""
    if isinstance(data, AugmentedViews):
        known = data.augment if isinstance(data.augment, str) else os.urandom(16)  # a function may have changed
        yield repr((data.count, data.first, known, data.seed)).encode()
        yield from _content(data.data)
        return
    if isinstance(data, StreamedDataset):
        yield data.identity.encode() if data.is_identified else os.urandom(16)
        return
    assert isinstance(data, LabelledDataset | TaggedTexts)
    inputs = data.inputs
    if isinstance(inputs, Texts):
        yield from map(_bytes, (inputs.ids, inputs.types, inputs.words, inputs.begins, inputs.rows))
    else:
        yield repr(inputs.spec).encode()
        if isinstance(inputs.pixels, OnAccess):
            yield from (
                identity(inputs.pixels.items[row]).encode("utf-8", "surrogatepass") for row in inputs.rows.tolist()
            )
            return
        for row in inputs.rows.tolist():
            yield repr(tuple(inputs.pixels[row].shape)).encode()
            yield _bytes(inputs.pixels[row])
    if isinstance(data, TaggedTexts) and data.targets is not None:
        yield from map(_bytes, data.targets)


def _bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content: bytes = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return content
