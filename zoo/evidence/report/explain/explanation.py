"""What the section "why it works" shows: plain numbers, arrays and texts, as `explain` returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zoo.evidence.report.explain.similarity import Similarity

Picture = NDArray[np.uint8]
"""(H, W, C), C 1 or 3."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The score of a linear probe on held-out examples, with its 95 % interval where the metric has one."""

    score: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the backbone, and last the pooled features that the head reads.

    number      from 1, input to output; None for the pooled features
    name        of its modules
    parameters  their number
    moved       |tuned - pretrained| / |pretrained|, norms over its parameters; None without pretrained weights
    similarity  of its outputs before and after fine-tuning on the same examples; None where they cannot be pooled
    before      a probe on its outputs with the pretrained weights; probe: with the fine-tuned ones
    p           that the latter is as good as the one on the pooled features: permutation test, Holm's correction
    """

    number: int | None
    name: str
    parameters: int = 0
    moved: float | None = None
    similarity: Similarity | None = None
    before: Probe | None = None
    probe: Probe | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of the first convolution, those with the largest norm first: (K, h, w, C) uint8, zero is mid-grey."""

    module: str
    shape: tuple[int, int, int, int]
    pictures: Picture


@dataclass(frozen=True, slots=True)
class Item:
    """An example: the name of its part, its index in Part.whole, its label and the model's answer."""

    part: str
    index: int
    truth: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """The part of a picture to which a channel responds most, and its response."""

    item: Item
    picture: Picture
    value: float


@dataclass(frozen=True, slots=True)
class Channel:
    """The strongest responses of one channel of a stage, each in another picture.

    field   side of the square that holds 90 % of the gradient (effective receptive field), as a share of the picture
    """

    stage: int
    channel: int
    field: float
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Saliency:
    """What in an input moves the model towards `towards` and away from `against`.

    score   the output of `towards` minus that of `against`
    wrong   whether the answer is wrong
    heat    of an image, (G, G): how much the score falls where that cell is hidden
    words   of a text, its words in order with their share of score - blank
    blank   of a text, the score where all its words are masked
    error   by how much the shares of a text miss score - blank
    word    of a tagger, the word whose tag it is
    """

    item: Item
    towards: str
    against: str
    score: float
    wrong: bool = True
    heat: NDArray[np.float32] | None = None
    words: tuple[tuple[str, float], ...] = ()
    blank: float = 0.0
    error: float = 0.0
    word: str = ""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A wrong example and its nearest training examples, each with the cosine of their centred features."""

    item: Item
    nearest: tuple[tuple[Item, float], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a model works.

    metric      of the probes
    is_frozen   whether the fine-tuned backbone is bit-identical to the pretrained one; None where that is not known
    p_tuned     that a probe on the pooled features is as good with the pretrained weights as with the fine-tuned ones
    counts      numbers of examples: "train", "valid" or "test" of the probes, "similarity", "patches"
    held        name of the part that probes, errors and saliency are of
    sentences   what the numbers say
    missing     why a part is not there: "stages", "similarity", "probe", "filters", "patches", "saliency", "neighbours"
    """

    metric: str
    is_frozen: bool | None = None
    stages: tuple[Stage, ...] = ()
    p_tuned: float | None = None
    filters: Filters | None = None
    channels: tuple[Channel, ...] = ()
    saliency: tuple[Saliency, ...] = ()
    neighbours: tuple[Neighbours, ...] = ()
    sentences: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    held: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
