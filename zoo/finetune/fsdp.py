"""A network whose parameters, gradients and optimiser state are spread over the processes (PyTorch's FSDP2)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence

from torch import nn

from zoo.finetune import distributed
from zoo.finetune.network import Network, lay_out

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""They are never called themselves, so they cannot gather what is spread when they are."""


def wanted() -> bool:
    """Tell whether the processes were launched to share one net: `accelerate launch --use_fsdp`."""
    return distributed.world() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def spread(network: Network, stages: Sequence[Sequence[str]]) -> Network:
    """Return a copy of a network that is spread over the processes, stage by stage; the network itself stays whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device = next(network.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.world(),))
    copied = copy.deepcopy(network)
    lay_out(copied, channels_last=False)  # only tensors that lie in memory row by row can be spread
    for part in _parts(copied.backbone, stages):
        fully_shard(part, mesh=mesh)
    fully_shard(copied, mesh=mesh)
    return copied


def _parts(module: nn.Module, stages: Sequence[Sequence[str]]) -> Iterator[nn.Module]:
    """Yield the modules of the stages that are called, each with its own parameters."""
    modules = dict(module.named_modules())
    for name in (name for stage in stages for name in stage):
        part = modules.get(name)
        if part is not None and not isinstance(part, CONTAINERS) and next(part.parameters(), None) is not None:
            yield part
