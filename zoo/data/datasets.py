"""Datasets: prepared inputs and targets, served in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zoo.data.batch_options import EVALUATION, BatchOptions
from zoo.data.image_batches import Images, normalise
from zoo.data.seeding import generator
from zoo.data.texts import Texts
from zoo.plugin import ImageInput

MASK_RATE = 0.15
"""Share of tokens that a masked model predicts; of these 80 % are masked, 10 % replaced (BERT, arXiv 1810.04805)."""
Inputs = Images | Texts
Prepared = Tensor | dict[str, Tensor]


class Batch(NamedTuple):
    """Inputs of N examples with their targets, as a dataset serves them or, after `to`, as a network takes them.

    inputs         images (N, C, S, S), uint8 before `to`, float32 after it; or a dict of token tensors (N, T)
    spec           how `to` normalises images; None: they are not pixels
    selected       (N, T) bool: the M tokens that get an output; None: one output for each example
    targets        (N, …), or (M, …) where tokens are selected; None for prediction
    mixed_targets  targets of the examples that were mixed in (mixup, cutmix), None without mixing
    mix_weight     each example's own share of its mixture, in [0, 1]
    weight         share of the targets of the whole batch that this micro-batch or shard holds
    """

    inputs: Prepared
    spec: ImageInput | None = None
    selected: Tensor | None = None
    targets: Tensor | None = None
    mixed_targets: Tensor | None = None
    mix_weight: float = 1.0
    weight: float = 1.0

    @property
    def size(self) -> int:
        """Number of examples, N."""
        return len(next(iter(self.inputs.values())) if isinstance(self.inputs, dict) else self.inputs)

    def to(self, device: torch.device) -> Batch:
        """Move the tensors to a device, and normalise images there: pixels are a quarter of the bytes.

        `selected` stays on the CPU: counting it on a GPU would make the CPU wait.
        """
        batch = self
        if device.type != "cpu":
            moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
            batch = moved._replace(selected=self.selected)
        if batch.spec is None:
            return batch
        assert isinstance(batch.inputs, Tensor)
        return batch._replace(inputs=normalise(batch.inputs, batch.spec), spec=None)

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU copies while the CPU goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to every tensor."""
        return self._replace(**{name: _map(function, value) for name, value in self._asdict().items()})

    def rows(self, part: slice) -> Batch:
        """Return some of the examples, with their targets and their share of the weight."""
        inputs, selected = self.inputs, self.selected
        kept: Prepared = {k: v[part] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[part]
        if selected is None:
            chosen, share = part, len(range(self.size)[part]) / self.size
        else:
            ends = selected.sum(1).cumsum(0).tolist()
            begin, end, _ = part.indices(len(ends))
            chosen = slice(ends[begin - 1] if begin else 0, ends[end - 1] if end else 0)
            share = (chosen.stop - chosen.start) / max(1, ends[-1])
        return self._replace(
            inputs=kept,
            selected=None if selected is None else selected[part],
            targets=None if self.targets is None else self.targets[chosen],
            mixed_targets=None if self.mixed_targets is None else self.mixed_targets[chosen],
            weight=self.weight * share,
        )


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, dict):
        return {name: function(tensor) for name, tensor in value.items()}
    return function(value) if isinstance(value, Tensor) else value


class Dataset(Protocol):
    """Examples served in batches; `lengths` are their tokens (N,), None where all cost the same."""

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each example, (N,), or None."""
        ...

    @property
    def targets(self) -> Any:
        """Targets of all examples; None where the inputs are the targets, or for prediction."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Return the examples at `indices` (N,), or the shard of them that the options name."""
        ...


@dataclass(frozen=True, slots=True)
class LabelledDataset:
    """Inputs with one target each, (N, …), or none."""

    inputs: Inputs
    targets: Tensor | None = None

    def pool(self) -> LabelledDataset:
        """Return all inputs that were prepared together, of which `inputs.rows` are these; without targets."""
        return LabelledDataset(self.inputs.pool())

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each example, (N,); None for images."""
        return self.inputs.lengths if isinstance(self.inputs, Texts) else None

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Return some examples; images are augmented as the options say."""
        kept = options.of(indices)
        targets = None if self.targets is None else self.targets[kept]
        weight = len(kept) / max(1, len(indices))
        if isinstance(self.inputs, Texts):
            return Batch(self.inputs.batch(kept), targets=targets, weight=weight)
        return Batch(self.inputs.batch(indices, options), self.inputs.spec, targets=targets, weight=weight)


@dataclass(frozen=True, slots=True)
class AugmentedViews:
    """`count` views of each image: the image itself, then augmented versions fixed by `seed`.

    View v of example i has index (v - first) * N + i, for `first` <= v < count.
    """

    data: LabelledDataset
    count: int
    augment: str | Callable[[Tensor], Any]
    seed: int
    first: int = 0

    @property
    def lengths(self) -> None:
        """None: every image costs the same."""
        return None

    @property
    def targets(self) -> Tensor | None:
        """Targets of all views, one view after the other."""
        return None if self.data.targets is None else torch.cat([self.data.targets] * (self.count - self.first))

    def __len__(self) -> int:
        return (self.count - self.first) * len(self.data)

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Return some views; each is drawn by a generator of its own."""
        kept = options.of(indices)
        images = []
        for index in (kept + self.first * len(self.data)).tolist():
            view, example = divmod(index, len(self.data))
            how = BatchOptions(self.augment, generator(self.seed, "view", index)) if view else EVALUATION
            images.append(self.data.batch(torch.tensor([example]), how).inputs)
        targets = None if self.data.targets is None else self.data.targets[kept % len(self.data)]
        stacked = torch.cat([image for image in images if isinstance(image, Tensor)])
        spec = None if isinstance(self.data.inputs, Texts) else self.data.inputs.spec
        return Batch(stacked, spec, targets=targets, weight=len(kept) / max(1, len(indices)))


@dataclass(frozen=True, slots=True)
class _TextDataset:
    inputs: Texts

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, (N,)."""
        return self.inputs.lengths

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, slots=True)
class TaggedTexts(_TextDataset):
    """Texts split into words, with a target for each word, or none. A word is read at its first token."""

    targets: Sequence[Tensor] | None = None

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Return some texts; truncated words have no target."""
        words = self.inputs.word_numbers(indices)  # (N, T)
        selected = words >= 0
        batch = Batch(self.inputs.batch(indices), selected=selected)
        if self.targets is not None:
            rows = zip(indices.tolist(), words, selected, strict=True)
            batch = batch._replace(targets=torch.cat([self.targets[i][row[kept].long()] for i, row, kept in rows]))
        return batch.rows(options.rows)


@dataclass(frozen=True, slots=True)
class MaskedTexts(_TextDataset):
    """Blocks of tokens of which a share is masked and has to be predicted (BERT).

    `mask` is the mask token, `vocabulary` the number of tokens a replacement is drawn from, `special` is never masked.
    """

    mask: int
    vocabulary: int
    special: frozenset[int]
    targets: None = None

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Mask tokens of some blocks: newly drawn at each training step, fixed for evaluation."""
        draws = options.generator or generator(0, "mask", int(indices[0]))
        inputs = self.inputs.batch(indices)
        ids, free = inputs["input_ids"], inputs["attention_mask"].bool()
        for token in self.special:
            free &= ids != token
        draw = torch.rand(ids.shape, generator=draws).masked_fill_(~free, 2.0)
        # At least one token of each block: the one with the smallest draw.
        selected = (draw < MASK_RATE) | ((draw == draw.amin(1, keepdim=True)) & free)
        fate = torch.rand(ids.shape, generator=draws)
        replacements = torch.randint(self.vocabulary, ids.shape, generator=draws)
        changed = ids.masked_fill(selected & (fate < 0.8), self.mask)
        changed = torch.where(selected & (fate >= 0.9), replacements, changed)
        return Batch({**inputs, "input_ids": changed}, None, selected, ids[selected]).rows(options.rows)


@dataclass(frozen=True, slots=True)
class CausalTexts(_TextDataset):
    """Blocks of tokens, each predicted from those before it (GPT)."""

    targets: None = None

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Return some blocks; the last token of each is only a target."""
        inputs = self.inputs.batch(indices)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        selected = torch.zeros_like(mask)
        selected[:, :-1] = mask[:, 1:]
        return Batch(inputs, None, selected, ids[:, 1:][mask[:, 1:]]).rows(options.rows)
