"""Worker of test_distributed: shard a network by FSDP, change it, copy it back; prints the memory of each process."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from zoo.finetune.network import Network
from zoo.finetune.runtime import distributed
from zoo.finetune.training import fsdp
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
        rows = distributed.all_gather(row | {"weights": sum(one.nbytes for one in network.parameters())})
        left = [str(each) for each in (Path(os.environ["ZOO_HOME"]) / "cache").rglob("*") if each.is_file()]
        if distributed.rank() == 0:
            print(json.dumps({"rows": rows, "left": left}))


def layers(count: int, side: int) -> Network:
    """Return a network whose stages are linear layers."""
    stages = tuple((str(number),) for number in range(count))
    return Network(nn.Sequential(*(nn.Linear(side, side) for _ in stages)), nn.Linear(side, 3), stages=stages)


def private() -> int:
    """Return the bytes of memory that no other process and no file has."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
