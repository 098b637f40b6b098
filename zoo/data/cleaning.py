"""Convert texts and labels to plain Python types and validate them."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from zoo.data.examples import Label
from zoo.errors import DataError


def cleaned(inputs: Sequence[Any], where: Callable[[int], str]) -> list[Any]:
    """Return texts as str, pairs of texts as tuples, pre-tokenised texts as lists of str.

    Tuples are words as well, unless all have length two. `where` returns the location of an input for messages.
    Raises DataError for inputs that are not text.
    """
    texts = [item.tolist() if hasattr(item, "tolist") else item for item in inputs]
    if any(isinstance(item, tuple) and len(item) != 2 for item in texts):
        texts = [list(item) if isinstance(item, tuple) else item for item in texts]
    for index, item in enumerate(texts):
        for text in item if isinstance(item, tuple | list) else (item,):
            _check_text(text, index, where)
    return texts


def _check_text(text: Any, index: int, where: Callable[[int], str]) -> None:
    if not isinstance(text, str):
        what = "no value" if is_missing(text) else f"{reprlib.repr(text):.60} ({type(text).__name__})"
        raise DataError(
            f"{where(index)} has {what} where a text is expected",
            fix="pass texts, pairs of texts or lists of words; remove examples without a text",
        )
    if text.isascii():  # takes no time, whatever its length
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where(index)} contains a lone surrogate, which is not valid Unicode",
            fix='remove it: text.encode("utf-8", "ignore").decode()',
        ) from error


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: None, NaN, pandas.NA or pandas.NaT."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def plain_label(value: Any, where: str) -> Label:
    """Convert a label, including numpy and torch scalars and arrays, to plain Python; True becomes "True"."""
    if hasattr(value, "ndim") and value.ndim:
        value = value.tolist()
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, dict) and plain:
        numbers = [number.item() if hasattr(number, "item") else number for number in plain.values()]
        if all(map(_is_number, numbers)):
            return dict(zip(map(str, plain), map(float, numbers), strict=True))
    if isinstance(plain, tuple | list | set | frozenset):
        several = sorted(plain, key=str) if isinstance(plain, set | frozenset) else plain
        if not any(isinstance(item, tuple | list | set | frozenset) for item in several):
            return tuple(plain_label(item, where) for item in several)
    if isinstance(plain, bool):
        return str(plain)
    if plain is None or isinstance(plain, str | int) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    shown = f"{reprlib.repr(value):.60} ({type(value).__name__})"
    raise DataError(
        f"label of {where} is {shown}, not str, int, float or a list of labels",
        fix="convert the labels to str, int or float, lists of str, or numbers by name",
    )


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number that 64 bits hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
