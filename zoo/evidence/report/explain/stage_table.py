"""The stages of a backbone: how far each moved, how similar its outputs are, what a probe reads from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zoo.evidence import statistics
from zoo.evidence.report.explain import depth, moved, stages
from zoo.evidence.report.explain.depth import Probed
from zoo.evidence.report.explain.explanation import Stage
from zoo.evidence.report.explain.similarity import Similarity, compare
from zoo.evidence.report.explain.stages import Readings
from zoo.evidence.report.facts import Facts, Part
from zoo.evidence.report.features import STAGES, Examined
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.plugin import Backbone

PROBED, TAGGED = 400, 200
"""Examples that a probe is fitted on, and measured on, at most; the second where each word is a row."""
COMPARED = 256
"""Examples (words, where tokens are read) of the similarity, at most."""
LATEST = "pooled features"


@dataclass(frozen=True, slots=True)
class StageTable:
    """The stages, how many examples of which part they were measured on, and why something is missing."""

    stages: tuple[Stage, ...]
    is_frozen: bool | None = None
    p_tuned: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def stage_table(facts: Facts) -> StageTable:
    """Measure every stage on samples of the training and the held-out examples."""
    tuned, pretrained = facts.backbone, facts.pretrained()
    rows = [*_weights(tuned, pretrained), Stage(None, LATEST)]
    table = StageTable(tuple(rows), facts.is_frozen)
    reads = facts.task.reads if facts.task.labelled else "pooled"
    outputs = stages.outputs_by_stage(tuned, reads)
    if lacking := [str(number) for number in range(1, len(tuned.stages) + 1) if number not in outputs]:
        table.missing["stages"] = f"it is not certain how to pool the outputs of stage {', '.join(lacking)}"
    outputs = {number: outputs[number] for number in stages.evenly(list(outputs), STAGES)}
    samples = _samples(facts, TAGGED if reads == "tokens" else PROBED)
    before: dict[str, Readings] | None
    if reads == "pooled":
        after = _of_examined(outputs, samples, {name: part.examined for name, part in facts.parts.items()})
        before = None if facts.before is None else _of_examined(outputs, samples, facts.before)
    else:
        after = _of_tokens(tuned, outputs, samples, facts.recipe.precision)
        before = after if facts.is_frozen else None
        if pretrained is not None and before is None:
            before = _of_tokens(pretrained, outputs, samples, facts.recipe.precision)
    table.counts.update({name: len(rows) for name, (_, rows) in samples.items()})
    return _probed(facts, samples, (before, after), _compared(table, (before, after)))


Samples = Mapping[str, tuple[Part, Sequence[int]]]
Both = tuple[Mapping[str, Readings] | None, Mapping[str, Readings]]
"""Readings by part, with the pretrained weights and with the fine-tuned ones."""


def _of_examined(
    outputs: Mapping[int, StageOutput], samples: Samples, examined: Mapping[str, Examined]
) -> dict[str, Readings]:
    """Return the outputs of stages for the samples, which are among the examined examples."""
    found = {}
    for name, (part, rows) in samples.items():
        own = examined[name]
        places = torch.searchsorted(own.rows, torch.tensor(rows))
        values = [own.outputs(stage)[places] for stage in outputs.values()]
        targets = part.targets[rows] if isinstance(part.targets, Tensor) else None
        found[name] = Readings((*outputs, None), (*values, own.pooled[places]), targets)
    return found


def _of_tokens(
    backbone: Backbone, outputs: dict[int, StageOutput], samples: Samples, precision: str
) -> dict[str, Readings]:
    """Return the outputs of stages for each token of the samples."""
    return {
        name: stages.read(backbone, outputs, stages.at(part.data, rows), reads="tokens", precision=precision)
        for name, (part, rows) in samples.items()
    }


def _weights(tuned: Backbone, pretrained: Backbone | None) -> list[Stage]:
    """Return the stages with name, parameters and distance."""
    count = len(tuned.stages)
    distances = [None] * count if pretrained is None else moved.weight_distances(tuned, pretrained)
    sizes = moved.parameter_counts(tuned)
    return [Stage(i + 1, _name(tuned.stages[i]), sizes[i], distances[i]) for i in range(count)]


def _name(parts: Sequence[str]) -> str:
    """Return the module that all parts of a stage are in, else the first one and how many others there are."""
    shared = parts[0].split(".")
    for part in parts[1:]:
        pairs = zip(shared, part.split("."), strict=False)
        shared = shared[: next((i for i, (one, two) in enumerate(pairs) if one != two), len(shared))]
    if shared:
        return ".".join(shared)
    return parts[0] if len(parts) == 1 else f"{parts[0]} and {len(parts) - 1} more"


def _samples(facts: Facts, most: int) -> Samples:
    """Return the training part and the held-out one, each with the indices of a sample of it."""
    parts = {part.name: part for part in (facts.parts.get("train"), facts.held_out) if part is not None}
    return {
        name: (part, part.examined.rows[stages.sample(len(part.examined.rows), most, "probe")].tolist())
        for name, part in parts.items()
    }


def _compared(table: StageTable, both: Both) -> StageTable:
    """Add the similarity of each stage's outputs before and after, held-out examples first."""
    before, after = both
    if before is None:
        table.missing["similarity"] = "the pretrained weights of the backbone are not in the store"
        return table
    found: dict[int | None, Similarity | None] = {}
    names = list(after)[::-1]
    for index, number in enumerate(after[names[0]].numbers):
        one, two = (torch.cat([each[name].rows(index) for name in names])[:COMPARED] for each in (before, after))
        found[number] = compare(one, two)
        table.counts["similarity"] = len(one)
    return replace(table, stages=tuple(replace(row, similarity=found.get(row.number)) for row in table.stages))


def _probed(facts: Facts, samples: Samples, both: Both, table: StageTable) -> StageTable:
    """Add the probes, with the tests of their differences."""
    held = facts.held_out
    if not facts.task.labelled or held is None or "train" not in samples:
        lacks = "training and held-out examples" if facts.task.labelled else "labels, which a language model has not"
        table.missing["probe"] = f"a probe needs {lacks}"
        return table
    part, rows = samples["train"]
    groups = _groups(part, rows)

    def probe(readings: Mapping[str, Readings]) -> Probed:
        return depth.probe_each(facts.task, readings["train"], readings[held.name], groups)

    before, after = both
    now = probe(after)
    then = None if before is None else now if table.is_frozen else probe(before)
    numbers = after["train"].numbers
    tests = [statistics.permutation(now.items[-1].numpy(), items.numpy()) for items in now.items[:-1]]
    chances = dict(zip(numbers, [*statistics.holm(tests), None], strict=True))
    found = dict(zip(numbers, now.probes, strict=True))
    earlier = {} if then is None else dict(zip(numbers, then.probes, strict=True))
    p_tuned = None
    if then is not None and not table.is_frozen:
        p_tuned = statistics.permutation(then.items[-1].numpy(), now.items[-1].numpy())
    filled = (
        replace(row, probe=found.get(row.number), before=earlier.get(row.number), p=chances.get(row.number))
        for row in table.stages
    )
    return replace(table, stages=tuple(filled), p_tuned=p_tuned)


def _groups(part: Part, rows: Sequence[int]) -> Tensor | None:
    """Return the numbers of the groups of some examples (N,); None without groups."""
    groups = part.whole.examples.groups
    if groups is None:
        return None
    chosen = [groups[part.chosen[row]] for row in rows]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(chosen))}
    return torch.tensor([numbers[group] for group in chosen])
