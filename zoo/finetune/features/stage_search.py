"""Find the stage outputs of a backbone that can be pooled, by running it on two small random batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Prepared
from zoo.finetune.features.prefix_units import called_parts
from zoo.finetune.features.stage_outputs import StageOutput, catch, pool
from zoo.finetune.freezing import eval_mode
from zoo.finetune.network import check_features
from zoo.plugin import Backbone, ImageInput

STAGES = 5
"""Stages that a head reads, at most: the last ones (docs/log.md)."""
LENGTHS = (11, 7)
"""Tokens of the two batches of texts; the first text, of fewer tokens, is in both."""
SHORT = 5
TOLERANCE = 5e-3
"""Largest difference of an example's pooled output between the two batches, relative to the largest value."""
SAME = 1e-4
"""Relative difference below which a pooled output is the pooled features."""


def find(backbone: Backbone, limit: int | None = None) -> tuple[StageOutput, ...]:
    """Return the outputs of the last `limit` stages, input to output, without the backbone's own pooled features.

    By default they are at most five, and none of the first half. () where none can be pooled.
    """
    kept = [output for output, is_pooled in _find(backbone, by_parameters=False) if not is_pooled]
    if limit is None:
        limit = min(STAGES, len(kept) // 2 + 1)
    return tuple(kept[-limit:]) if limit else ()


def find_all(backbone: Backbone) -> tuple[StageOutput, ...]:
    """Return the outputs of all stages that can be pooled, input to output.

    Of a stage that names parameters, not modules, it is the output of the largest module that has no others.
    """
    return tuple(output for output, _ in _find(backbone, by_parameters=True))


def _find(backbone: Backbone, *, by_parameters: bool) -> list[tuple[StageOutput, bool]]:
    """Return the outputs of stages, input to output, each with whether its mean is the pooled features.

    Of a stage its largest module counts. An output is left out if its layout is not certain, or if an example's mean
    depends on the rest of the batch or on padding.
    """
    module = backbone.module
    batches = [_to(inputs, next(module.parameters()).device) for inputs in random_batches(backbone)]
    with eval_mode(module):
        names = list(_candidates(backbone, batches[1], by_parameters=by_parameters))
        first, second = (_measure(module, names, inputs) for inputs in batches)
    found = [name for name in names if name in first and name in second and _is_stable(first[name], second[name])]
    own = first[""][1]
    scaled = isinstance(batches[0], dict)  # texts gain by it, images do not beyond chance (docs/log.md)
    outputs = [StageOutput(name, *_shape(first[name]), scaled) for name in found]
    return [(output, _is_close(first[output.module][1], own, SAME)) for output in outputs]


Measured = tuple[str, Tensor]
"""The layout of an output, and its pooled value (N, C)."""


def _shape(measured: Measured) -> tuple[str, int]:
    return measured[0], measured[1].shape[1]


def _is_stable(one: Measured, two: Measured) -> bool:
    """Return whether layout, channels, and the mean of the example that both batches share, agree."""
    return _shape(one) == _shape(two) and _is_close(one[1][:1], two[1][:1], TOLERANCE)


def _is_close(one: Tensor, two: Tensor, tolerance: float) -> bool:
    if one.shape != two.shape or not one.isfinite().all():
        return False
    return bool((one - two).abs().max() <= tolerance * one.abs().max())


def _measure(module: nn.Module, names: Sequence[str], inputs: Prepared) -> dict[str, Measured]:
    """Run the module on a batch; returns layout and pooled value of each output, and of the module itself as ""."""
    layouts: dict[str, str] = {}

    def keep(output: Tensor, stage: StageOutput) -> Tensor:
        layout = layout_of(output, module.get_submodule(stage.module), inputs)
        if layout is None:
            return torch.empty(0)
        layouts[stage.module] = layout
        return pool(output, layout, inputs)

    with catch(module, [StageOutput(name, "NTC", 1) for name in names], keep) as caught:
        features = check_features(module(inputs))
    return {name: (layout, caught[name]) for name, layout in layouts.items()} | {"": ("NTC", features.pooled.float())}


def layout_of(output: Tensor, module: nn.Module, inputs: Prepared) -> str | None:
    """Return the layout of a module's output for a batch, None if it is not certain.

    Maps of square images are square. The tokens of a text are as many as its inputs. Those of an image are told from
    channels by the module's parameters, which have the channels among their dimensions, and not the number of tokens.
    """
    shape = tuple(output.shape)
    if isinstance(inputs, dict):
        count, length = inputs["input_ids"].shape
        return "NTC" if len(shape) == 3 and shape[:2] == (count, length) and shape[2] != length else None
    if shape[0] != len(inputs):
        return None
    if len(shape) == 4:
        first, last = shape[2] == shape[3], shape[1] == shape[2]
        return None if first == last else "NCHW" if first else "NHWC"
    widths = {size for parameter in module.parameters() for size in parameter.shape}
    return "NTC" if len(shape) == 3 and shape[2] in widths and shape[1] not in widths else None


def _candidates(backbone: Backbone, inputs: Prepared, *, by_parameters: bool) -> Iterator[str]:
    """Yield the largest module of each stage that is called once in a pass; of a container its last part."""
    calls: list[str] = []
    modules = dict(backbone.module.named_modules())

    def note(name: str) -> Any:
        return lambda *_: calls.append(name)

    with ExitStack() as hooks:
        for name, part in modules.items():
            hooks.callback(part.register_forward_hook(note(name)).remove)
        backbone.module(inputs)
    for stage in backbone.stages:
        named = [name for name in stage if name in modules]
        if by_parameters and not named:
            named = _owners(backbone.module, stage)
        largest = max(named, key=lambda name: _size(modules[name]), default=None)
        parts = called_parts(largest, modules[largest], calls) if largest is not None else []
        parts = [part for part in parts if calls.count(part) == 1]
        if parts:
            yield max(parts, key=calls.index)


def _owners(module: nn.Module, stage: Sequence[str]) -> list[str]:
    """Return the modules below the root, outer ones first, all of whose parameters are of the stage."""

    def owns(prefix: str, part: nn.Module) -> bool:
        names = [f"{prefix}.{name}" for name, _ in part.named_parameters()]
        return bool(names) and all(any(f"{name}.".startswith(f"{one}.") for one in stage) for name in names)

    return [name for name, part in module.named_modules() if name and owns(name, part)]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def random_batches(backbone: Backbone) -> tuple[Prepared, Prepared]:
    """Return inputs of three and of two examples, the first of which is the same, but for padding."""
    generator = torch.Generator().manual_seed(0)
    spec = backbone.input
    if isinstance(spec, ImageInput):
        images = torch.randn(4, spec.channels, spec.size, spec.size, generator=generator)
        return images[:3], images[[0, 3]]
    longest = min(spec.max_length, LENGTHS[0])
    words = backbone.tokenizer.fast.get_vocab_size() if backbone.tokenizer else 100
    ids = torch.randint(0, words, (4, longest), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, min(SHORT, longest) :] = 0
    ids[mask == 0] = backbone.tokenizer.pad if backbone.tokenizer else 0
    whole = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    shorter = min(LENGTHS[1], longest)
    return {k: v[:3] for k, v in whole.items()}, {k: v[[0, 3], :shorter] for k, v in whole.items()}


def _to(inputs: Prepared, device: torch.device) -> Prepared:
    if isinstance(inputs, dict):
        return {name: tensor.to(device) for name, tensor in inputs.items()}
    return inputs.to(device)
