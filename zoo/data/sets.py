"""What a loop takes: prepared inputs with their targets, batch by batch, whatever the modality and the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.data.batches import Images
from zoo.data.texts import Texts

MASKED = 0.15
"""Share of tokens that a masked model guesses; of these 80 % are hidden, 10 % swapped (BERT, arXiv 1810.04805)."""
Inputs = Images | Texts
Prepared = Tensor | dict[str, Tensor]


class Batch(NamedTuple):
    """Inputs of N examples; where in them an output is wanted, (N, T) bool (None: one an example); the targets."""

    inputs: Prepared
    where: Tensor | None = None
    targets: Tensor | None = None


class Set(Protocol):
    """Examples that can be taken in batches; `lengths` are their tokens (N,), None where all cost the same."""

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each example, (N,), or None."""
        ...

    @property
    def targets(self) -> Any:
        """The targets of all examples, None where the inputs themselves are the targets or there are none."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None) -> Batch:
        """Prepare some examples; whatever is random draws from `chance` alone."""
        ...


def _lengths(inputs: Inputs) -> Tensor | None:
    return inputs.lengths if isinstance(inputs, Texts) else None


@dataclass(frozen=True, slots=True)
class Labelled:
    """Inputs with a target for each example, (N, …), or none."""

    inputs: Inputs
    targets: Tensor | None = None

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each example, (N,); None for images."""
        return _lengths(self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None) -> Batch:
        """Prepare some examples."""
        targets = None if self.targets is None else self.targets[indices]
        return Batch(self.inputs.batch(indices, augment, chance), None, targets)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Texts given as words, with a target for each word, or none. A word is read at its first token."""

    inputs: Texts
    targets: Sequence[Tensor] | None = None

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, (N,)."""
        return self.inputs.lengths

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None) -> Batch:
        """Prepare some texts; words that were cut off have no target."""
        words = self.inputs.word_numbers(indices)  # (N, T)
        where = words >= 0
        inputs = self.inputs.batch(indices)
        if self.targets is None:
            return Batch(inputs, where)
        rows = zip(indices.tolist(), words, where, strict=True)
        return Batch(inputs, where, torch.cat([self.targets[i][line[kept].long()] for i, line, kept in rows]))


@dataclass(frozen=True, slots=True)
class Masked:
    """Blocks of text of which a share of the tokens is hidden and has to be guessed."""

    inputs: Texts
    mask: int
    words: int
    special: frozenset[int]
    targets: None = None

    @property
    def lengths(self) -> Tensor:
        """Tokens of each block, (N,)."""
        return self.inputs.lengths

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None) -> Batch:
        """Hide tokens of some blocks, others at each training step; without `chance` always the same ones."""
        chance = chance or torch.Generator().manual_seed(int(indices[0]) + 1)
        inputs = self.inputs.batch(indices)
        ids, free = inputs["input_ids"], inputs["attention_mask"].bool()
        for token in self.special:
            free &= ids != token
        draw = torch.rand(ids.shape, generator=chance).masked_fill_(~free, 2.0)
        # At least one token of each block: the one with the smallest draw.
        where = (draw < MASKED) | ((draw == draw.amin(1, keepdim=True)) & free)
        fate = torch.rand(ids.shape, generator=chance)
        others = torch.randint(self.words, ids.shape, generator=chance)
        changed = ids.masked_fill(where & (fate < 0.8), self.mask)
        changed = torch.where(where & (fate >= 0.9), others, changed)
        return Batch({**inputs, "input_ids": changed}, where, ids[where])


@dataclass(frozen=True, slots=True)
class Causal:
    """Blocks of text of which each token is guessed from those before it."""

    inputs: Texts
    targets: None = None

    @property
    def lengths(self) -> Tensor:
        """Tokens of each block, (N,)."""
        return self.inputs.lengths

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None) -> Batch:
        """Prepare some blocks; the last token of each is only a target."""
        inputs = self.inputs.batch(indices)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        where = torch.zeros_like(mask)
        where[:, :-1] = mask[:, 1:]
        return Batch(inputs, where, ids[:, 1:][mask[:, 1:]])
