"""What is exported: a network with its task and preprocessing, on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data import prepare
from zoo.data.datasets import LabelledDataset, Prepared
from zoo.data.prepare import Preprocessing
from zoo.errors import ExportError
from zoo.finetune.network import Network
from zoo.finetune.runtime.distributed import world_size
from zoo.plugin import Backbone, Entry, ImageInput, Trained
from zoo.tasks import Task
from zoo.tasks.regress import Regress

ACTIVATIONS = {"classify": "softmax", "multilabel": "sigmoid", "tag": "softmax", "regress": "none"}
"""From outputs of the head to answers; language models give logits, of which the runner takes the softmax."""


@dataclass(frozen=True, slots=True)
class Source:
    """A fine-tuned network (a copy on the CPU, in eval mode), how its inputs are prepared, and its plugin's files."""

    entry: Entry
    backbone: Backbone
    network: Network
    task: Task
    how: Preprocessing
    files: Mapping[str, Path]
    pairs: bool = False

    @property
    def takes_words(self) -> bool:
        """Whether inputs are lists of words."""
        return self.task.name == "tag"

    @property
    def activation(self) -> str:
        """What maps outputs of the head to answers: softmax, sigmoid or none."""
        return ACTIVATIONS.get(self.task.name, "none")

    @property
    def unit(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (K,) by which outputs become numbers in the labels' own units; else 0 and 1."""
        if isinstance(self.task, Regress):
            return torch.tensor(self.task.mean), torch.tensor(self.task.std)
        return torch.zeros(1), torch.ones(1)

    def labels(self) -> tuple[str, ...]:
        """Return the labels as texts."""
        return tuple(map(str, self.task.labels))


def copied(network: Network) -> Network:
    """Return a copy of a network on the CPU, in eval mode and in contiguous memory."""
    assert world_size() == 1
    made = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    return made.to(memory_format=torch.contiguous_format)


def answer_head(source: Source) -> tuple[Tensor, Tensor]:
    """Return weight (K, D) and bias (K,) of the head, for numbers in the labels' own unit.

    A calibrated temperature is part of them already. Raises ExportError for a head that is no linear layer on the
    backbone's last features.
    """
    head = source.network.head
    if not isinstance(head, nn.Linear) or head.in_features != source.backbone.dim:
        what = f"the head ({type(head).__name__}) reads more than the last features of the backbone"
        fix = "train with head_stages=0 (--set head_stages=0), or export the whole graph: --to onnx"
        raise ExportError(what, fix=fix)
    weight, bias = head.weight.detach().float(), head.bias.detach().float()
    mean, std = source.unit
    return weight * std[:, None], bias * std + mean


def trained(source: Source) -> Trained:
    """Return the network as plugins export it."""
    weight, bias = answer_head(source) if source.task.labelled else (None, None)
    state = source.network.backbone.state_dict()
    length = None if isinstance(source.how.input, ImageInput) else source.how.length
    return Trained(source.task.name, source.labels(), state, weight, bias, length)


def prepared(source: Source, items: Sequence[Any]) -> tuple[Prepared, Tensor | None]:
    """Return inputs as the network takes them, and of a tagger the first tokens of words, (N, T) bool."""
    found = prepare.prepare(prepare.unlabelled(source.task.parse(items)), source.how).inputs
    every = torch.arange(len(found))
    inputs = LabelledDataset(found).batch(every).to(torch.device("cpu")).inputs
    words = getattr(found, "word_numbers", None)
    return inputs, words(every) >= 0 if words and source.takes_words else None


def answers(source: Source, items: Sequence[Any]) -> list[Tensor]:
    """Return what the runner of an export has to give for each item, in float32.

    Probabilities (K,), of a tagger (words, K); a number (1,); of a language model the probabilities (V,) of the next
    token, or of the masked one.
    """
    found = []
    for item in items:  # one by one: padding differs in the last bits
        inputs, first = prepared(source, [item])
        with torch.inference_mode():
            outputs = source.network(inputs)[0].float()
        if not source.task.labelled:
            assert isinstance(inputs, dict)
            outputs = outputs[_place(source, inputs["input_ids"][0])].softmax(0)
        elif source.task.name == "regress":
            mean, std = source.unit
            outputs = outputs.double() * std + mean
        else:
            outputs = source.task.probabilities(outputs[None] if first is None else [outputs[first[0]]])[0]
        found.append(outputs)
    return found


def same_answer(source: Source, truth: Tensor, answer: Tensor) -> bool:
    """Return whether the decoded answer is the same: top label, labels above 1/2, tags of all words."""
    if source.activation == "sigmoid":
        return bool(((truth >= 0.5) == (answer >= 0.5)).all())
    if source.task.name == "regress":
        return True
    return bool((truth.argmax(-1) == answer.argmax(-1)).all())


def _place(source: Source, ids: Tensor) -> int:
    """Return the token whose distribution is compared: the last one, or the masked one."""
    if source.task.autoregressive:
        return -1
    assert source.backbone.tokenizer is not None
    mask = source.backbone.tokenizer.mask
    assert mask is not None
    return ids.tolist().index(mask)
