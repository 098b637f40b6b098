"""What a loop takes: prepared inputs with their targets, batch by batch, whatever the modality and the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.data.image_batches import Images
from zoo.data.texts import Texts

MASKED = 0.15
"""Share of tokens that a masked model guesses; of these 80 % are hidden, 10 % swapped (BERT, arXiv 1810.04805)."""
Inputs = Images | Texts
Prepared = Tensor | dict[str, Tensor]


class Batch(NamedTuple):
    """Inputs of N examples; where in them an output is wanted, (N, T) bool (None: one an example); the targets.

    `others` are the targets of what is mixed in, of which each example holds the share 1 - `own`. `weight` is the
    batch's share of the targets of the whole batch that it is a part of.
    """

    inputs: Prepared
    where: Tensor | None = None
    targets: Tensor | None = None
    others: Tensor | None = None
    own: float = 1.0
    weight: float = 1.0


def rows(batch: Batch, part: slice) -> Batch:
    """Return some of the examples of a batch."""
    inputs, where = batch.inputs, batch.where
    kept: Prepared = {k: v[part] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[part]
    if where is None:
        chosen, count = part, len(range(len(_first(inputs)))[part])
        share = count / len(_first(inputs))
    else:
        ends = where.sum(1).cumsum(0).tolist()
        begin, end, _ = part.indices(len(ends))
        chosen = slice(ends[begin - 1] if begin else 0, ends[end - 1] if end else 0)
        share = (chosen.stop - chosen.start) / max(1, ends[-1])
    targets, others = (None if rows is None else rows[chosen] for rows in (batch.targets, batch.others))
    return Batch(kept, None if where is None else where[part], targets, others, batch.own, batch.weight * share)


def _first(inputs: Prepared) -> Tensor:
    return next(iter(inputs.values())) if isinstance(inputs, dict) else inputs


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

    def batch(
        self,
        indices: Tensor,
        augment: str = "none",
        chance: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Batch:
        """Prepare some examples; whatever is random draws from `chance` alone.

        Of a batch that several processes share, `part` is prepared: the same rows as of the whole.
        """
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

    def batch(
        self,
        indices: Tensor,
        augment: str = "none",
        chance: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Batch:
        """Prepare some examples."""
        kept = indices[part]
        targets = None if self.targets is None else self.targets[kept]
        inputs = self.inputs
        prepared = inputs.batch(kept) if isinstance(inputs, Texts) else inputs.batch(indices, augment, chance, part)
        return Batch(prepared, None, targets, weight=len(kept) / max(1, len(indices)))


@dataclass(frozen=True, slots=True)
class Views:
    """Examples `count` times over: each image as it is, then augmented in ways that depend on `seed` alone."""

    data: Labelled
    count: int
    augment: str
    seed: int

    @property
    def lengths(self) -> None:
        """None: images cost all the same."""
        return None

    @property
    def targets(self) -> Tensor | None:
        """The targets of all views, (count * N,): those of the first views first."""
        return None if self.data.targets is None else torch.cat([self.data.targets] * self.count)

    def __len__(self) -> int:
        return self.count * len(self.data)

    def batch(
        self,
        indices: Tensor,
        augment: str = "none",
        chance: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Batch:
        """Prepare some views."""
        found = []
        for index in indices[part].tolist():
            view, example = divmod(index, len(self.data))
            dice = torch.Generator().manual_seed(self.seed * 1_000_003 + index) if view else None
            found.append(self.data.batch(torch.tensor([example]), self.augment if view else "none", dice).inputs)
        kept = indices[part] % len(self.data)
        targets = None if self.data.targets is None else self.data.targets[kept]
        images = [image for image in found if isinstance(image, Tensor)]
        return Batch(torch.cat(images), None, targets, weight=len(kept) / max(1, len(indices)))


@dataclass(frozen=True, slots=True)
class _OfTexts:
    inputs: Texts

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, (N,)."""
        return self.inputs.lengths

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class Tagged(_OfTexts):
    """Texts given as words, with a target for each word, or none. A word is read at its first token."""

    targets: Sequence[Tensor] | None = None

    def batch(
        self,
        indices: Tensor,
        augment: str = "none",
        chance: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Batch:
        """Prepare some texts; words that were cut off have no target."""
        words = self.inputs.word_numbers(indices)  # (N, T)
        where = words >= 0
        inputs = self.inputs.batch(indices)
        if self.targets is None:
            return rows(Batch(inputs, where), part)
        lines = zip(indices.tolist(), words, where, strict=True)
        targets = torch.cat([self.targets[i][line[kept].long()] for i, line, kept in lines])
        return rows(Batch(inputs, where, targets), part)


@dataclass(frozen=True, slots=True)
class Masked(_OfTexts):
    """Blocks of text of which a share of the tokens is hidden and has to be guessed."""

    mask: int
    words: int
    special: frozenset[int]
    targets: None = None

    def batch(
        self,
        indices: Tensor,
        augment: str = "none",
        chance: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Batch:
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
        return rows(Batch({**inputs, "input_ids": changed}, where, ids[where]), part)


@dataclass(frozen=True, slots=True)
class Causal(_OfTexts):
    """Blocks of text of which each token is guessed from those before it."""

    targets: None = None

    def batch(
        self,
        indices: Tensor,
        augment: str = "none",
        chance: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Batch:
        """Prepare some blocks; the last token of each is only a target."""
        inputs = self.inputs.batch(indices)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        where = torch.zeros_like(mask)
        where[:, :-1] = mask[:, 1:]
        return rows(Batch(inputs, where, ids[:, 1:][mask[:, 1:]]), part)
