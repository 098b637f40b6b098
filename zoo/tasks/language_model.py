"""Language modelling: guess hidden tokens, or each next one, with the head the backbone was pretrained with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.errors import RecipeError
from zoo.tasks.task import Prediction


@dataclass(frozen=True, slots=True)
class Language:
    """Guess tokens (M,) from logits (M, V): self-supervision, with the text itself for labels."""

    name: str = ""
    best: str = "loss"
    labels: tuple[Any, ...] = ()
    reads: str = "tokens"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Return the task: it takes nothing from labels."""
        return cls()

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Rebuild the task from what `to_dict` returned."""
        return cls()

    def head(self, dim: int) -> nn.Module:
        """Raise RecipeError: the head is the backbone's own."""
        raise RecipeError(f"{self.name} keeps the head of the backbone", fix='strategy="full", or strategy="lora"')

    def targets(self, labels: Sequence[Label]) -> None:
        """Return None: the batches hold the tokens to guess."""

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of tokens in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the nats each token costs and whether it is guessed right, (M, 2): logits are too large to keep."""
        costs = F.cross_entropy(outputs, targets, reduction="none")
        return torch.stack([costs, (outputs.argmax(1) == targets).float()], 1)

    def measure(self, outputs: Sequence[Tensor], targets: Any) -> dict[str, float]:
        """Return perplexity, the share of tokens guessed right, and the mean loss in nats a token."""
        loss, accuracy = torch.cat(list(outputs)).double().mean(0).tolist()
        return {"perplexity": math.exp(min(loss, 700.0)), "accuracy": accuracy, "loss": loss}

    def decode(self, outputs: Any, top: int) -> list[Prediction]:
        """Raise RecipeError: zoo.model.generation writes the answers of language models."""
        raise RecipeError(f"{self.name} has no labels to decode", fix="model.predict(texts), or model.generate(texts)")

    def baseline(self, labels: Sequence[Label]) -> str:
        """Say that nothing is known of one."""
        return "before: not measured"

    def balanced(self, how: str, targets: Any) -> Self:
        """Return the task itself; RecipeError for any way of balancing classes, of which there are none."""
        if how != "none":
            raise RecipeError(f'balance="{how}" is for classes, and {self.name} has none', fix='balance="none"')
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the name."""
        return {"name": self.name, "labels": []}


@dataclass(frozen=True, slots=True)
class CausalLM(Language):
    """Guess each token from those before it (GPT)."""

    name: str = "causal-lm"


@dataclass(frozen=True, slots=True)
class MaskedLM(Language):
    """Guess hidden tokens from those around them (BERT, arXiv 1810.04805, section 3.1)."""

    name: str = "masked-lm"
