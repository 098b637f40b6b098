"""The whole computation as one module, from pixels or tokens to answers, as graph exporters take it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.export.source import Source
from zoo.plugin import ImageInput

IMAGES = "images"
TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""Names of the inputs."""


class Graph(nn.Module):
    """Map uint8 images (N, C, S, S), or token tensors (N, T), to answers (N, K), of tokens (N, T, K).

    Normalisation, the calibrated head and softmax or sigmoid are inside; language models give logits (N, T, V).
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.network = source.network
        self.activation = source.activation
        self.is_regression = source.task.name == "regress"
        self.is_image = isinstance(source.how.input, ImageInput)
        mean, std = source.unit
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        if isinstance(source.how.input, ImageInput):
            mean, std = (torch.tensor(row).view(1, -1, 1, 1) for row in (source.how.input.mean, source.how.input.std))
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("shift", mean / std)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the answers to images, or to the token tensors in the order of TOKENS."""
        if self.is_image:
            outputs = self.network(inputs[0].float() * self.scale - self.shift)
        else:
            outputs = self.network(dict(zip(TOKENS, inputs, strict=False)))
        if self.activation == "softmax":
            return outputs.softmax(-1)  # type: ignore[no-any-return]
        if self.activation == "sigmoid":
            return outputs.sigmoid()  # type: ignore[no-any-return]
        return outputs * self.std + self.mean if self.is_regression else outputs  # type: ignore[no-any-return]


def example(source: Source, items: Sequence[object]) -> tuple[Tensor, ...]:
    """Return two inputs of a graph, of at least two tokens: sizes of 1 would be taken for constants."""
    from zoo.export.source import prepared

    spec = source.how.input
    if isinstance(spec, ImageInput):
        return (torch.zeros(2, spec.channels, spec.size, spec.size, dtype=torch.uint8),)
    inputs, _ = prepared(source, items)
    assert isinstance(inputs, dict)
    return tuple(inputs[name] for name in TOKENS if name in inputs)
