"""Network: a backbone with a head as one module, and the state of it that training changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from zoo.data.datasets import Prepared
from zoo.errors import PluginError
from zoo.finetune.features.stage_outputs import StageOutput, catch, pool
from zoo.finetune.runtime import distributed
from zoo.plugin import Features


class Network(nn.Module):
    """Map prepared inputs to the outputs (logits) of a task.

    The head reads float32, whatever the precision of the backbone: `reads` "pooled" features, outputs (N, K), or
    "tokens", outputs (N, T, K), (M, K) of selected ones; a StageHead reads stage outputs beside them. `stages` are
    those of the backbone, names of its submodules from input to output.
    """

    def __init__(
        self, backbone: nn.Module, head: nn.Module, reads: str = "pooled", stages: Sequence[Sequence[str]] = ()
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.reads = reads
        self.stages = tuple(map(tuple, stages))

    def forward(self, inputs: Prepared, selected: Tensor | None = None) -> Tensor:
        """Map images (N, C, H, W) or token tensors (N, T) to outputs; `selected` (N, T) bool picks M of the tokens."""
        features = head_inputs(self.backbone, inputs, self.reads, getattr(self.head, "stages", ()), selected)
        with torch.autocast(features.device.type, enabled=False):
            outputs: Tensor = self.head(features)
        return outputs

    def tensors(self) -> dict[str, Tensor]:
        """Return the state dict with each tensor once, tied weights under their first name."""
        first: dict[int, str] = {}
        state = self.state_dict(keep_vars=True)
        return {name: t.detach() for name, t in state.items() if first.setdefault(id(t), name) == name}


def check_features(features: object) -> Features:
    """Return the output of a backbone. Raises PluginError unless it is Features."""
    if not isinstance(features, Features):
        what = f"the net returned {type(features).__name__}"
        raise PluginError(what, fix="return zoo.plugin.Features from forward")
    return features


def read_features(found: object, reads: str, selected: Tensor | None) -> Tensor:
    """Return the float32 input of the head: pooled (N, D), all tokens (N, T, D), or the selected ones (M, D).

    Raises PluginError for anything but Features, with tokens if the head reads them.
    """
    features = check_features(found)
    if reads == "pooled":
        return features.pooled.float()
    if features.tokens is None:
        raise PluginError("the net returned no tokens", fix="return tokens (N, T, D) in Features, or list fewer tasks")
    return select_tokens(features.tokens, selected)


def select_tokens(tokens: Tensor, selected: Tensor | None) -> Tensor:
    """Return float32 tokens: all (N, T, D), or the selected ones (M, D)."""
    if selected is None:
        return tokens.float()
    places = selected.flatten().nonzero()[:, 0].to(tokens.device, non_blocking=True)
    return tokens.flatten(0, 1).index_select(0, places).float()  # (N, T, D) -> (M, D)


def head_inputs(
    backbone: nn.Module,
    inputs: Prepared,
    reads: str,
    stages: Sequence[StageOutput] = (),
    selected: Tensor | None = None,
) -> Tensor:
    """Return the float32 input of a head in one forward pass: pooled features or tokens, then those of `stages`.

    (N, D), (N, T, D) or of the selected tokens (M, D), where D is `total_dim` of the stages. Outputs of stages are
    pooled as they appear. Raises PluginError as `read_features` does.
    """
    if not stages:
        return read_features(backbone(inputs), reads, selected)

    def keep(output: Tensor, stage: StageOutput) -> Tensor:
        return pool(output, stage.layout, inputs) if reads == "pooled" else select_tokens(output, selected)

    with catch(backbone, stages, keep) as found:
        features = read_features(backbone(inputs), reads, selected)
    return torch.cat([features, *(found[stage.module] for stage in stages)], -1)


def trained_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes, by name: parameters with gradients, and buffers."""
    yield from ((name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad)
    yield from network.named_buffers()


def copy_state(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of what training changes."""
    return {name: tensor.detach().clone() for name, tensor in trained_tensors(network)}


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore the result of `copy_state`."""
    tensors = dict((*network.named_parameters(), *network.named_buffers()))
    for name, value in state.items():
        distributed.copy_into(tensors[name], value)


def set_memory_format(module: nn.Module, *, channels_last: bool = True) -> None:
    """Lay out convolution weights channels last (1.15 to 1.3 times faster on a CPU, docs/log.md), or contiguous."""
    module.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision, "fp32", "bf16" or "fp16", which is fp32 on a CPU."""
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    enabled = precision == "bf16" or (precision == "fp16" and device.type != "cpu")
    return torch.autocast(device.type, dtype=half, enabled=enabled)
