"""BatchOptions: how a dataset prepares a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch is prepared.

    augment    name of the augmentation of images (zoo.data.augmentation.STEPS), or a function of one image
    generator  source of everything random; None: nothing is random (evaluation)
    shard      rows of the batch that this process prepares, equal to the same rows of the whole batch; None: all
    """

    augment: str | Callable[[Tensor], Any] = "none"
    generator: torch.Generator | None = None
    shard: slice | None = None

    @property
    def rows(self) -> slice:
        """The shard as a slice."""
        return slice(None) if self.shard is None else self.shard

    def of(self, indices: Tensor) -> Tensor:
        """Return the indices of this shard."""
        return indices[self.rows]


EVALUATION = BatchOptions()
