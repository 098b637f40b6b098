"""Worker of test_distributed: shard a network by FSDP, change, copy back, train, save; prints the memory of each."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from zoo.finetune.network import Network
from zoo.finetune.runtime import distributed
from zoo.finetune.training import fsdp
from zoo.finetune.training.checkpoint import Checkpointer, Saved
from zoo.plugin import Features
from zoo.store import out_folder
from zoo.weights import safetensors_file
from zoo.weights.safetensors_file import read_state, write_state

SIDE, LAYERS = 1023, 16
"""Rows that two, three or more processes cannot share evenly; 67 MB of weights."""


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    path = folder / "weights.safetensors"
    with distributed.process_group(torch.device("cpu")):
        warm = layers(2, 3)
        fsdp.copy_back(fsdp.shard(warm), warm, torch.device("cpu"))  # imports
        network = layers(LAYERS, SIDE)
        if distributed.rank() == 0:
            write_state(path, network.state_dict(), {})
        distributed.barrier()
        network.load_state_dict(read_state(path)[0], assign=True)
        expected = sum(float(value.sum(dtype=torch.float64)) for value in network.state_dict().values())
        before = private()
        sharded = fsdp.shard(network)
        shards = private() - before
        with torch.no_grad():
            for parameter in sharded.parameters():
                parameter.mul_(2)
        fsdp.copy_back(sharded, network, torch.device("cpu"))
        found = sum(float(value.sum(dtype=torch.float64)) for value in network.state_dict().values())
        twice = all(torch.equal(value, 2 * read_state(path)[0][name]) for name, value in network.state_dict().items())
        del sharded
        row = {"shards": shards, "after": private() - before, "twice": twice and abs(found - 2 * expected) < 1e-6}
        row |= trained(fsdp.shard(network), folder)
        rows = distributed.all_gather(row | {"weights": sum(one.nbytes for one in network.parameters())})
        left = [str(each) for each in (Path(os.environ["ZOO_HOME"]) / "cache").rglob("*") if each.is_file()]
        if distributed.rank() == 0:
            print(json.dumps({"rows": rows, "left": left}))


class Layers(nn.Sequential):
    """Linear layers, whose output is the pooled features."""

    def forward(self, inputs: torch.Tensor) -> Features:
        return Features(super().forward(inputs))


def layers(count: int, side: int) -> Network:
    """Return a network whose stages are linear layers."""
    stages = tuple((str(number),) for number in range(count))
    return Network(Layers(*(nn.Linear(side, side) for _ in stages)), nn.Linear(side, 3), stages=stages)


def trained(network: Network, folder: Path) -> dict[str, int]:
    """Take AdamW steps and write a checkpoint; returns peak bytes of each above those before the first step."""
    before = resting()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    with peak() as training:
        for _ in range(3):
            network(torch.randn(4, SIDE)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    tensors = {name: one.detach() for name, one in network.named_parameters()}
    for name, one in network.named_parameters():
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state[one].items()}
    after = resting()
    with peak() as saving:
        Checkpointer(folder).save("tune", Saved(tensors), set())
    if distributed.rank() == 0:
        assert safetensors_file.read_state(folder / out_folder.STATE)[0].keys() == tensors.keys()
    return {"training": training[0] - before, "trained": after - before, "saving": saving[0] - after}


@contextmanager
def peak() -> Iterator[list[int]]:
    """Yield a list that ends with the most memory within the block, read every few milliseconds."""
    found, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            found[0] = max(found[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        is_over.set()
        thread.join()


def resting() -> int:
    private()  # gives back what is free
    return anonymous()


def anonymous() -> int:
    """Return the bytes of memory that no file has, which is read faster than `private`."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def private() -> int:
    """Return the bytes of memory that no other process and no file has."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
