"""FSDP2: parameters, gradients and optimiser state sharded over the processes."""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from zoo.finetune.network import Network, load_state
from zoo.finetune.runtime import distributed
from zoo.store import cache_file, caches

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
"""Never called themselves, so they cannot gather their shards."""


def is_requested() -> bool:
    """Return whether the processes were launched for FSDP: `accelerate launch --use_fsdp`."""
    return distributed.world_size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")


def shard(network: Network) -> Network:
    """Return a copy of a network that is sharded stage by stage; the network itself stays full, on the CPU.

    The copy is made on the meta device, and takes its part of one tensor after the other: on a CPU, where the weights
    of the network are mapped from their file, no process has a whole copy in memory of its own.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(network.parameters()).device.type, (distributed.world_size(),))
    sharded = _on_meta(network)
    for stage in _callable_parts(sharded.backbone, network.stages):
        fully_shard(stage, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    taken: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    state = sharded.state_dict()
    for name, value in network.named_parameters(remove_duplicate=False):
        if id(value) not in taken:
            own = distributed.shard_like(value.detach().contiguous(), state[name])
            taken[id(value)] = nn.Parameter(own, requires_grad=value.requires_grad)
        state[name] = taken[id(value)]
    sharded.load_state_dict(state, assign=True)
    network.cpu()
    return sharded


def _on_meta(network: Network) -> Network:
    """Return a copy whose parameters are on the meta device, contiguous: others cannot be sharded."""
    empty = {
        id(one): nn.Parameter(torch.empty(one.shape, dtype=one.dtype, device="meta"), requires_grad=one.requires_grad)
        for one in network.parameters()
    }
    return copy.deepcopy(network, empty)  # the memo of deepcopy: copies by id


def copy_back(sharded: Network, network: Network, device: torch.device) -> None:
    """Copy what a sharded network has learnt to the full network, and that to a device; a collective call.

    The tensors are gathered one after the other, written by one process of each machine, and mapped by all of it: a
    model on a CPU takes no memory of its own in any process. Where there is no room for the file they are in memory.
    """
    trained = {name: one.detach() for name, one in sharded.named_parameters() if one.requires_grad}
    values = _mapped({name: one for name, one in trained.items() if one.dtype == torch.float32})
    parameters = dict(network.named_parameters())
    for name, value in values.items():
        parameters[name].data = value
    others = {name: one for name, one in trained.items() if name not in values}
    load_state(network, others | dict(sharded.named_buffers()))
    network.to(device)


def _mapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return sharded float32 tensors as full ones in the memory of a file; {} where it cannot be kept."""
    path = caches.folder("weights") / f"{distributed.broadcast(secrets.token_hex(8))}.safetensors"
    writes = os.environ.get("LOCAL_RANK", "0") == "0"
    found = None
    with cache_file.Writer(path) if writes else nullcontext() as writer:
        for tensor in tensors.values():
            full = distributed.full_tensor(tensor)
            if writer is not None:
                writer.append(full)
        if writer is not None:
            writer.finish({"values": (torch.float32, (sum(one.numel() for one in tensors.values()),))})
    distributed.barrier()
    found = cache_file.read(path)
    if not all(distributed.all_gather(found is not None)) or found is None:
        return {}
    path.unlink(missing_ok=True)  # it stays as long as it is mapped; every process has opened it
    parts = found["values"].split([one.numel() for one in tensors.values()])
    return {name: part.view(one.shape) for (name, one), part in zip(tensors.items(), parts, strict=True)}


def _callable_parts(module: nn.Module, stages: Sequence[Sequence[str]]) -> Iterator[nn.Module]:
    """Yield the modules of the stages that are called and have parameters."""
    modules = dict(module.named_modules())
    for name in (name for stage in stages for name in stage):
        part = modules.get(name)
        if part is not None and not isinstance(part, CONTAINERS) and next(part.parameters(), None) is not None:
            yield part
