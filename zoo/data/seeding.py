"""Seeds and generators: every random number of a run follows from its seed, what the number is for, and the step."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Return a 63-bit seed, independent for each purpose ("order", "augment", …) and each step, epoch or rank.

    It is the head of a SHA-256, so neighbouring steps and purposes share no stream.
    """
    text = "/".join((str(seed), purpose, *map(str, numbers)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """Return a CPU generator seeded with `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *numbers))
