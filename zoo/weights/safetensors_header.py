"""The header of a safetensors file, checked in full before a byte of it is mapped.

The format: eight bytes with the length of the header (little endian), the header as JSON, then the tensors one after
the other. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

LONGEST = 100_000_000
"""Bytes that a header may have: the format's own limit."""
DIMENSIONS = 64
"""The most dimensions of a tensor: PyTorch's limit."""
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""The bits of a number of each type that can be in a file."""


def check(text: bytes, size: int) -> dict[str, str]:
    """Return the metadata of a header whose tensors fill a file of `size` bytes: no gap, no overlap, nothing beyond.

    Raises ValueError that names the tensor which is wrong.
    """
    try:
        header = json.loads(text, object_pairs_hook=without_twins, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("it is no JSON object")  # one kind of error for all that is wrong
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no texts")
    end = 0
    for name, (start, stop) in sorted(
        ((name, _span(name, facts)) for name, facts in header.items()), key=lambda x: x[1]
    ):
        if start != end:
            raise ValueError(f"tensor {name!r} begins at byte {start:,}, and the one before it ends at {end:,}")
        end = stop
    if 8 + len(text) + end != size:
        raise ValueError(f"the file has {size:,} bytes, and its header tells of {8 + len(text) + end:,}")
    return metadata


def _span(name: str, facts: Any) -> tuple[int, int]:
    """Return the first byte of a tensor and the one after its last; its type and shape have to fill them."""
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} has to have dtype, shape and data_offsets")
    if not name.isprintable():  # it is going to be in messages
        raise ValueError(f"tensor {name!r:.80} has a name that cannot be printed")
    bits, shape, offsets = BITS.get(str(facts["dtype"])), facts["shape"], facts["data_offsets"]
    if bits is None:
        raise ValueError(f"tensor {name!r} is of type {facts['dtype']!r:.80}, which is unknown")
    if not _are_counts(shape) or len(shape) > DIMENSIONS:
        raise ValueError(f"tensor {name!r} has the shape {shape!r:.80}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"tensor {name!r} has the data_offsets {offsets!r:.80}")
    if (offsets[1] - offsets[0]) * 8 != prod(shape) * bits:
        raise ValueError(f"tensor {name!r}, {facts['dtype']} {shape!r:.80}, has {offsets[1] - offsets[0]:,} bytes")
    return offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    """Tell whether this is a list of whole numbers from 0 up that fit into 63 bits."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def without_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; ValueError if a key is there twice: each reader would take another one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        (twin, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twin!r:.80} is there twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")
