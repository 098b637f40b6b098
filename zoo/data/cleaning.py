"""Turn texts and labels into plain Python values, or say what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from zoo.data.examples import Label
from zoo.errors import DataError


def cleaned(inputs: Sequence[Any], where: Callable[[int], str]) -> list[Any]:
    """Return texts as str, pairs of texts as tuples, texts that are given as words as lists of str.

    Tuples are words, too, unless each has two. DataError for what is no text; `where` says where an input is.
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
        what = "nothing" if is_missing(text) else f"{text!r:.60} ({type(text).__name__})"
        raise DataError(
            f"{where(index)} has {what} where a text is expected",
            fix="give texts, pairs of texts or lists of words; leave out what has none",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where(index)} holds half a character (a lone surrogate), which no tokenizer can read",
            fix='take it out: text.encode("utf-8", "ignore").decode()',
        ) from error


def is_missing(value: Any) -> bool:
    """Tell whether a value says that there is none: None, NaN, and what pandas has for it."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def plain_label(value: Any, where: str) -> Label:
    """Turn a label into plain Python: numpy and torch scalars and arrays too; True is the class "True"."""
    if hasattr(value, "ndim") and value.ndim:
        value = value.tolist()
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, tuple | list | set | frozenset):
        several = sorted(plain, key=str) if isinstance(plain, set | frozenset) else plain
        return tuple(plain_label(item, where) for item in several)
    if isinstance(plain, bool):
        return str(plain)
    if plain is None or isinstance(plain, str | int) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    raise DataError(
        f"label of {where} is {value!r:.60} ({type(value).__name__}), not a text, a number or a list of labels",
        fix="turn the labels into str, int or float, or lists of str",
    )
