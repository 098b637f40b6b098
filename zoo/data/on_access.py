"""Images that are decoded whenever a batch needs them, for data whose pixels fit neither in memory nor on the disk."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from zoo.data.images import pixels
from zoo.plugin import ImageInput


@dataclass(frozen=True, slots=True)
class OnAccess:
    """Encoded images (paths, bytes, …) with their names in messages; an item is its pixels (C, H, W), uint8."""

    items: Sequence[Any]
    names: Sequence[str]
    spec: ImageInput

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Tensor:
        return pixels(self.items[index], self.spec, self.names[index])

    def decoded(self, rows: Tensor, part: slice) -> list[Tensor]:
        """Return the images at `rows` (N,), decoded in threads; those outside `part` are empty, (C, 0, 0)."""
        empty = torch.empty(self.spec.channels, 0, 0, dtype=torch.uint8)
        found = [empty] * len(rows)
        is_encoded = len(self.items) and isinstance(self.items[0], str | os.PathLike | bytes | dict)
        alone = get_worker_info() is not None  # one of several processes that load
        run = _pool(os.getpid()).map if is_encoded and not alone else map
        found[part] = run(self.__getitem__, rows[part].tolist())
        return found


@functools.lru_cache(1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process that decode images: decoders do not hold Python's lock."""
    return ThreadPoolExecutor(os.cpu_count(), "zoo-decode")
