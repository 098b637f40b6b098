"""Grouped leakage: held-out examples whose nearest training examples are of the same clip, camera or thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.evidence.report.doctor import permutation
from zoo.evidence.report.doctor.permutation import Tested

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FEWEST = 8
"""Held-out examples with training examples of their group, below which nothing is said."""
LEAST_GAIN = 0.25
"""Least surplus of the share over chance: names of files tell subjects as well (rose-1, rose-2 are two roses)."""
LEAST_SHARE = 0.1
"""Least share of the held-out examples that have a training example of their group."""
MAX_P = 0.01


@dataclass(frozen=True, slots=True)
class GroupLeak:
    """How often the nearest training example of a held-out example is of its own group.

    shared   indices of the held-out examples that have training examples of their group
    nearest  index of the nearest training example of each of these
    tested   share of `shared` whose nearest example is of their group; chance: groups shuffled within each class
    """

    shared: Ints
    nearest: Ints
    tested: Tested

    @property
    def is_leak(self) -> bool:
        """Whether members of a group are much more alike than examples of a class are."""
        return self.tested.p <= MAX_P and self.tested.value - self.tested.chance >= LEAST_GAIN


def find(
    train: tuple[Floats, Sequence[str]], held: tuple[Floats, Sequence[str]], classes: Ints, *, seed: int = 0
) -> GroupLeak | None:
    """Test the groups of two parts, each given as features (N, D) and group names (N,), "" for none.

    `classes` (N,) are those of the training examples. None where hardly any group is in both parts.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(filter(None, train[1])))}
    known = np.array([names.get(name, -1) for name in train[1]])
    own = np.array([names.get(name, -2) for name in held[1]])
    shared = np.flatnonzero(own >= 0)
    if len(shared) < max(FEWEST, LEAST_SHARE * len(own)):
        return None
    centre = train[0].mean(0)
    similarity = unit(held[0][shared] - centre) @ unit(train[0] - centre).T  # (S, N)
    nearest = similarity.argmax(1)

    def share(groups: Ints) -> float:
        return float((groups[nearest] == own[shared]).mean())

    return GroupLeak(shared, nearest, permutation.compare(share, known, classes, seed=seed))


def unit(rows: Floats) -> Floats:
    """Return rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))
