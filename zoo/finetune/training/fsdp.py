"""FSDP2: parameters, gradients and optimiser state sharded over the processes."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence

from torch import nn

from zoo.finetune.network import Network, set_memory_format
from zoo.finetune.runtime import distributed

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Never called themselves, so they cannot gather their shards."""


def is_requested() -> bool:
    """Return whether the processes were launched for FSDP: `accelerate launch --use_fsdp`."""
    return distributed.world_size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def shard(network: Network) -> Network:
    """Return a copy of a network that is sharded stage by stage; the network itself stays full."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(network.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.world_size(),))
    sharded = copy.deepcopy(network)
    set_memory_format(sharded, channels_last=False)  # only contiguous tensors can be sharded
    for part in _callable_parts(sharded.backbone, network.stages):
        fully_shard(part, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    return sharded


def _callable_parts(module: nn.Module, stages: Sequence[Sequence[str]]) -> Iterator[nn.Module]:
    """Yield the modules of the stages that are called and have parameters."""
    modules = dict(module.named_modules())
    for name in (name for stage in stages for name in stage):
        part = modules.get(name)
        if part is not None and not isinstance(part, CONTAINERS) and next(part.parameters(), None) is not None:
            yield part
