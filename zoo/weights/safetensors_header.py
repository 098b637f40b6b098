"""Validate the header of a safetensors file before the file is mapped.

Format: eight bytes with the length of the header (little endian), the header as JSON, then the tensors without gaps.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

LONGEST = 100_000_000
"""Maximum header size in bytes, as in the safetensors library."""
DIMENSIONS = 64
"""Maximum number of dimensions of a tensor, as in PyTorch."""
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits per element of each dtype of the format."""


def check(text: bytes, size: int) -> dict[str, str]:
    """Validate a header and return its metadata; the tensors must fill a file of `size` bytes without gap or overlap.

    Raises ValueError, which names the invalid tensor.
    """
    try:
        header = json.loads(text, object_pairs_hook=without_twins, parse_constant=_reject_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("not a JSON object")  # ValueError, not TypeError: callers catch one type
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata values must be strings")
    end = 0
    for name, (start, stop) in sorted(
        ((name, _span(name, facts)) for name, facts in header.items()), key=lambda x: x[1]
    ):
        if start != end:
            raise ValueError(f"tensor {name!r} starts at byte {start:,}, but the previous one ends at {end:,}")
        end = stop
    if 8 + len(text) + end != size:
        raise ValueError(f"the file has {size:,} bytes, but its header describes {8 + len(text) + end:,}")
    return metadata


def _span(name: str, facts: Any) -> tuple[int, int]:
    """Return the start and end offset of a tensor in bytes; raise ValueError unless dtype and shape match them."""
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets")
    if not name.isprintable():  # names appear in error messages
        raise ValueError(f"tensor {name!r:.80} has a name with unprintable characters")
    bits, shape, offsets = BITS.get(str(facts["dtype"])), facts["shape"], facts["data_offsets"]
    if bits is None:
        raise ValueError(f"tensor {name!r} has the unknown dtype {facts['dtype']!r:.80}")
    if not _are_counts(shape) or len(shape) > DIMENSIONS:
        raise ValueError(f"tensor {name!r} has the invalid shape {shape!r:.80}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has the invalid data_offsets {offsets!r:.80}")
    if (offsets[1] - offsets[0]) * 8 != prod(shape) * bits:
        size = offsets[1] - offsets[0]
        raise ValueError(f"tensor {name!r}: {facts['dtype']} {shape!r:.80} does not match its {size:,} bytes")
    return offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    """Return whether a value is a list of non-negative integers below 2**63."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict. Raises ValueError for a duplicate key, which parsers resolve differently."""
    found = dict(pairs)
    if len(found) != len(pairs):
        (duplicate, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {duplicate!r:.80}")
    return found


def _reject_constant(text: str) -> None:
    raise ValueError(f"{text} is not a valid number")
