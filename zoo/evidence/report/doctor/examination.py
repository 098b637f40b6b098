"""Examination: what several doctors need of a model's data, computed once: frozen features, out-of-fold predictions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data import duplicates
from zoo.data.datasets import Inputs
from zoo.data.duplicates import Duplicates
from zoo.data.examples import Examples, Label
from zoo.evidence.report import features
from zoo.evidence.report.doctor import drift
from zoo.evidence.report.doctor.drift import Drift
from zoo.evidence.report.facts import Facts, Part, trained_on
from zoo.evidence.report.features import Examined
from zoo.evidence.report.findings import Item
from zoo.finetune.features import out_of_fold
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.features.out_of_fold import OutOfFold
from zoo.finetune.heads import stages_of

USUAL = {"--valid": "valid", "--test": "test"}
"""Options that are kept where they name data."""
FEWEST = 20
"""Examples in all below which no out-of-fold predictions are made."""


@dataclass(frozen=True)
class Examination:
    """The examined examples of each part, and what is known of them without the fine-tuned weights."""

    facts: Facts

    @cached_property
    def parts(self) -> Mapping[str, Part]:
        """The parts that were run, in the order train, valid, test."""
        return self.facts.parts

    @cached_property
    def rows(self) -> Mapping[str, Tensor]:
        """Places in each Part of the examined examples, ascending."""
        return {name: part.examined.rows for name, part in self.parts.items()}

    @cached_property
    def targets(self) -> Mapping[str, Tensor]:
        """Targets of the examined examples of each part."""
        return {name: part.targets[self.rows[name]] for name, part in self.parts.items()}

    @cached_property
    def inputs(self) -> Mapping[str, Inputs]:
        """Prepared inputs of the examined examples of each part."""
        return {name: part.inputs.at(self.rows[name].tolist()) for name, part in self.parts.items()}

    @cached_property
    def examples(self) -> Mapping[str, Examples]:
        """The examined examples of each part."""
        return {name: part.examples.at(self.rows[name].tolist()) for name, part in self.parts.items()}

    @cached_property
    def labels(self) -> Mapping[str, NDArray[np.int64]]:
        """Class indices of the examined examples of each part, for a task with one class for each."""
        return {name: targets.numpy() for name, targets in self.targets.items()}

    @cached_property
    def scores(self) -> Mapping[str, NDArray[np.float64]]:
        """The model's score of each example of each part (Task.item_scores)."""
        task = self.facts.task
        return {name: task.item_scores(part.values, part.targets).numpy() for name, part in self.parts.items()}

    @property
    def is_blind(self) -> bool:
        """Whether the features are of the pretrained weights, which never saw the labels.

        The backbone of a probe may have: the model may have been fine-tuned before.
        """
        return self.facts.before is not None

    @property
    def _examined(self) -> Mapping[str, Examined]:
        """The features of the examined examples by the pretrained weights, or else those of the model."""
        before = self.facts.before
        return {name: part.examined for name, part in self.parts.items()} if before is None else before

    @property
    def pooled(self) -> Mapping[str, Tensor]:
        """Pooled features (N, D) of each part by the frozen backbone."""
        return {name: examined.pooled for name, examined in self._examined.items()}

    @cached_property
    def out_of_fold(self) -> Mapping[str, OutOfFold] | None:
        """Predictions for all parts by heads on frozen features that did not see the example; None for few examples."""
        if not self.has_rows or sum(map(len, self.rows.values())) < FEWEST:
            return None
        hp, backbone = self.facts.recipe, self.facts.backbone
        own = stages_of(self.facts.model.head)
        stages = own if hp.strategy == "probe" else features.probed_stages(backbone, hp.head_stages)
        rows = {name: examined.columns(stages) for name, examined in self._examined.items()}
        targets = torch.cat(list(self.targets.values()))
        data = ProbeData(torch.cat(list(rows.values())), targets, self._groups, stages)
        found = out_of_fold.predict(self.facts.task, data)
        sizes = [len(part) for part in rows.values()]
        split = zip(rows, found.values.split(sizes), found.held.split(sizes), strict=True)
        return {name: OutOfFold(values, held) for name, values, held in split}

    @property
    def _groups(self) -> Tensor | None:
        """The group of each example of all parts; None unless all parts have groups."""
        names: list[Any] = []
        for name, examples in self.examples.items():
            if examples.groups is None:
                return None
            names += [(name == "test", group) for group in examples.groups]
        numbers = {group: number for number, group in enumerate(dict.fromkeys(names))}
        return torch.tensor([numbers[group] for group in names])

    @property
    def has_rows(self) -> bool:
        """Whether each example has one row of outputs: taggers have one for each word."""
        return self.facts.task.reads == "pooled"

    @cached_property
    def near(self) -> Mapping[tuple[str, str], Duplicates]:
        """The examples of a part with a near-duplicate in an earlier part, by (earlier, later part)."""
        return {(a, b): duplicates.near(self.compared[a], self.compared[b]) for a, b in combinations(self.parts, 2)}

    @cached_property
    def compared(self) -> Mapping[str, Inputs]:
        """What near-duplicates are looked for in: the images, or all words of the texts, of each part."""
        wholes = [(part.whole.inputs, part.whole.examples.inputs) for part in self.parts.values()]
        return dict(zip(self.parts, duplicates.comparable(wholes), strict=True))

    @property
    def is_random_split(self) -> bool:
        """Whether the validation data are a random share of the same examples as the training data."""
        parts = self.parts
        return "valid" in parts and parts["valid"].whole.examples.origin == parts["train"].whole.examples.origin

    @cached_property
    def drifts(self) -> Mapping[str, Drift]:
        """How each part differs from the training data; a random share of the same data, or a small one, has none."""
        if "train" not in self.parts or not self.has_rows:
            return {}
        others = [name for name in self.parts if name != "train" and not (name == "valid" and self.is_random_split)]
        found = {name: drift.find(self.pooled["train"], self.pooled[name]) for name in others}
        return {name: moved for name, moved in found.items() if moved is not None}

    def of_all(self, row: int) -> tuple[str, int]:
        """Return part and place of a row of all parts together."""
        for name, rows in self.rows.items():
            if row < len(rows):
                return name, row
            row -= len(rows)
        raise IndexError(row)

    def item(self, where: tuple[str, int], note: str, suggested: Label = None, score: float | None = None) -> Item:
        """Return the item of an examined example, given its part and its place in that."""
        part, place = where
        return Item(part, self.parts[part].chosen[int(self.rows[part][place])], note, suggested, score)

    def label(self, number: int) -> Any:
        """Return a label by its index."""
        return self.facts.task.labels[number]

    @property
    def review(self) -> str:
        """What to do about examples in doubt: list them, decide, fine-tune again."""
        listed = f"zoo report {self.facts.folder} --fixes fixes.csv"
        decide = "decide in its column action (relabel, drop, keep)"
        return f"list them: {listed}, {decide}, then: {self.command('--fixes fixes.csv')}"

    def command(self, options: str = "") -> str:
        """Return the command that fine-tunes again on the same data with other options."""
        facts = self.facts
        data, run = trained_on(facts.model), facts.training.get("split", {})
        given = {"--input": ",".join(facts.summary.columns.input), "--label": facts.summary.columns.label}
        given |= {"--task": run.get("task"), "--groups": facts.training.get("request", {}).get("groups")}
        given |= {name: run[key] for name, key in USUAL.items() if isinstance(run.get(key), str)}
        kept = {name: value for name, value in given.items() if value and name not in options}
        named = (facts.entry.name, data if isinstance(data, str) else "DATA")
        words = [*map(shlex.quote, named), *(f"{name} {shlex.quote(str(value))}" for name, value in kept.items())]
        return " ".join(filter(None, ["zoo finetune", *words, options]))
