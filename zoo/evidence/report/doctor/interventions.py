"""Interventions: does the model still answer when the cue in an image is that of another class?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.data.datasets import LabelledDataset
from zoo.data.image_batches import Images
from zoo.data.seeding import generator
from zoo.evidence import statistics
from zoo.evidence.report.doctor import cues
from zoo.evidence.report.doctor.examination import Examination
from zoo.finetune import inference
from zoo.model import answers

MOST = 256
"""Images that are changed at most."""
MAX_P, LEAST_FALL = 0.01, 0.1


@dataclass(frozen=True, slots=True)
class Effect:
    """Accuracy before and after the cue was exchanged, on `count` images, and the exact p of McNemar's test."""

    before: float
    after: float
    count: int
    p: float

    @property
    def is_used(self) -> bool:
        """Whether the model depends on the cue, clearly and beyond chance."""
        return self.p <= MAX_P and self.before - self.after >= LEAST_FALL


def measure(found: Examination, part: str, cue: str) -> Effect | None:
    """Measure the model with the border or the corners of each image taken from one of another class.

    None for cues that are no region of an image.
    """
    images, labels = found.inputs[part], found.targets[part]
    if not isinstance(images, Images) or cue not in ("border", "corners"):
        return None
    count = min(MOST, len(images))
    pixels = images.batch(torch.arange(count))
    changed = exchanged(pixels, labels[:count], cue)
    network, _ = answers.network(found.facts.model)
    precision = answers.precision(found.facts.model)
    hits = []
    for version in (pixels, changed):
        data = LabelledDataset(replace(images, pixels=version, rows=torch.arange(count)))
        outputs = inference.predict(network, data, precision=precision)
        hits.append((outputs.argmax(1) == labels[:count]).numpy())
    before, after = hits
    return Effect(float(before.mean()), float(after.mean()), count, statistics.mcnemar(before, after))


def exchanged(pixels: Tensor, labels: Tensor, cue: str) -> Tensor:
    """Return images (N, C, S, S) whose border or corners are those of a random image of another class."""
    chance = generator(0, "exchange", len(labels))
    order = torch.randperm(len(labels), generator=chance).tolist()
    partners = [next((j for j in _after(order, i) if labels[j] != labels[i]), i) for i in range(len(labels))]
    changed, other = pixels.clone(), pixels[torch.tensor(partners)]
    border, corners = cues.regions(pixels.shape[-1])
    for rows, columns in border if cue == "border" else corners:
        changed[..., rows, columns] = other[..., rows, columns]
    return changed


def _after(order: list[int], index: int) -> list[int]:
    place = order.index(index)
    return order[place + 1 :] + order[:place]
