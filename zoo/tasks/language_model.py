"""Language modelling, causal and masked, with the head of the pre-training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.datasets import CausalTexts, Dataset, Inputs, MaskedTexts
from zoo.data.examples import Label
from zoo.data.texts import Texts
from zoo.errors import RecipeError
from zoo.plugin import Tokenizer
from zoo.tasks.intervals import Interval, bootstrap
from zoo.tasks.task import Prediction, Task


@dataclass(frozen=True, slots=True)
class LanguageModel(Task):
    """Predict tokens (M,) from logits (M, V): self-supervised, the text is its own label."""

    labels: tuple[Any, ...] = ()
    main_metric: ClassVar[str] = "loss"
    reads: ClassVar[str] = "tokens"
    labelled: ClassVar[bool] = False

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Return the task; labels are ignored."""
        return cls()

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Create the task from the result of `to_dict`."""
        return cls()

    def head(self, dim: int) -> nn.Module:
        """Raise RecipeError: the head is that of the backbone."""
        raise RecipeError(f"{self.name} keeps the head of the backbone", fix='strategy="full", or strategy="lora"')

    def targets(self, labels: Sequence[Label]) -> None:
        """Return None: the batches hold the target tokens."""

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of tokens in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return loss in nats and correctness of each token, (M, 2): logits are too large to keep."""
        costs = F.cross_entropy(outputs, targets, reduction="none")
        return torch.stack([costs, (outputs.argmax(1) == targets).float()], 1)

    def measure(self, outputs: Sequence[Tensor], targets: Any) -> dict[str, float]:
        """Return perplexity, token accuracy, and mean loss in nats per token."""
        loss, accuracy = torch.cat(list(outputs)).double().mean(0).tolist()
        return {"perplexity": math.exp(min(loss, 700.0)), "accuracy": accuracy, "loss": loss}

    def intervals(self, outputs: Sequence[Tensor], targets: Any) -> dict[str, Interval]:
        """Return bootstrap intervals over texts, as tokens of one text depend on each other."""
        table = torch.stack([torch.cat([part.sum(0), part.new_tensor([len(part)])]) for part in outputs]).double()

        def score(weights: Tensor) -> dict[str, Tensor]:
            loss, hits, tokens = (weights @ table).unbind(1)
            return {"perplexity": (loss / tokens.clamp(min=1)).exp(), "accuracy": hits / tokens.clamp(min=1)}

        return bootstrap(score, *table.shape)

    def decode(self, outputs: Any, top: int) -> list[Prediction]:
        """Raise RecipeError: zoo.model.generation predicts with language models."""
        raise RecipeError(f"{self.name} has no labels to decode", fix="model.predict(texts), or model.generate(texts)")

    def baseline(self, labels: Sequence[Label]) -> str:
        """Describe that no baseline was measured."""
        return "no baseline measured"

    def balanced(self, how: str, targets: Any) -> Self:
        """Return the task itself; RecipeError for any balancing: there are no classes."""
        if how != "none":
            raise RecipeError(
                f'class_balance="{how}" needs classes, and {self.name} has none', fix='class_balance="none"'
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": self.name, "labels": []}


@dataclass(frozen=True, slots=True)
class CausalLM(LanguageModel):
    """Predict each token from those before it (GPT)."""

    name: ClassVar[str] = "causal-lm"
    autoregressive: ClassVar[bool] = True

    def dataset(self, inputs: Inputs, labels: Sequence[Label] | None, tokenizer: Tokenizer | None) -> Dataset:
        """Return blocks of tokens."""
        assert isinstance(inputs, Texts)
        return CausalTexts(inputs)


@dataclass(frozen=True, slots=True)
class MaskedLM(LanguageModel):
    """Predict masked tokens from those around them (BERT, arXiv 1810.04805, section 3.1)."""

    name: ClassVar[str] = "masked-lm"

    def dataset(self, inputs: Inputs, labels: Sequence[Label] | None, tokenizer: Tokenizer | None) -> Dataset:
        """Return blocks of tokens with some of them masked; RecipeError if the tokenizer has no mask token."""
        assert isinstance(inputs, Texts)
        assert tokenizer is not None
        if tokenizer.mask is None:
            raise RecipeError("the tokenizer of this backbone has no mask token", fix='task="causal-lm"')
        special = frozenset(i for i, token in tokenizer.fast.get_added_tokens_decoder().items() if token.special)
        vocabulary = tokenizer.fast.get_vocab_size(with_added_tokens=False)
        return MaskedTexts(inputs, tokenizer.mask, vocabulary, special)
