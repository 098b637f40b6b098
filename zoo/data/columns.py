"""Infer the input and label columns of a table: by the arguments, by common names, or as the only ones left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from zoo.data.examples import IMAGE_SUFFIXES, Columns, Unlabelled
from zoo.data.table import Table
from zoo.errors import DataError

TEXTS = (
    *("text", "sentence", "review", "content", "body", "document", "message", "comment", "tweet", "tokens", "words"),
    *("question", "premise", "abstract", "description", "utterance", "title", "headline"),
    *("mail", "email", "sms", "post", "article", "caption", "transcript", "texts", "sentences", "reviews", "prompt"),
)
IMAGES = ("image", "img", "picture", "photo", "file", "path", "file_name", "filename", "image_path", "filepath")
PICTURE_WORDS = {"image", "img", "picture", "pic", "photo", "photograph", "jpg", "jpeg", "png", "file", "filename"}
PICTURE_WORDS |= {"path", "filepath", "fname", "frame", "scan", "slide"}
"""Words of the names of columns of images: photo_path, imageFile, IMG name."""
FILLERS = {"path", "name", "file", "fn", "uri", "full", "rel", "relative", "local", "the", "s"}
LABELS = ("label", "labels", "target", "class", "ner_tags")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
ALSO_LABELS = (
    *("category", "sentiment", "topic", "intent", "emotion", "score", "rating", "stars", "pos_tags", "tags", "tag"),
    *("targets", "classes", "categories", "label_name", "class_name", "y", "upos"),
)
"""Label names used only if a table has exactly one of them: rating and sentiment together are ambiguous."""
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text1", "text2")),
    *(("question", "passage"), ("question", "context"), ("question", "sentence"), ("question", "answer")),
    *(("query", "passage"), ("query", "document"), ("text_a", "text_b"), ("sentence_a", "sentence_b")),
)
"""Names of columns that form a pair of texts."""
COUNTERS = ("", "id", "idx", "index", "guid", "uuid", "row_id", "unnamed: 0", "__index_level_0__")
"""Names of row index columns, never inferred as input or label."""
MAX_NAME = 40
"""Maximum length of a column name in characters; a longer header value is data."""


def choose(table: Table, asked: Columns, modality: str) -> Columns:
    """Return the input and label columns; raises DataError listing all columns if the choice is ambiguous."""
    _check(table, asked)
    several = several_labels(table, asked.label)
    free = [name for name in table.names if name.lower() not in COUNTERS and name not in (asked.groups, *several)]
    label = asked.label if asked.label is not None else _label(free, asked.input)
    inputs = asked.input or _input([name for name in free if name != label], modality)
    if not inputs and modality == "image" and len(free) > 2:
        inputs = _only_images(table, [name for name in free if name != label])
    if not inputs and label is None:
        _check_header(table)
        inputs, label = _by_values(table, free, modality)
    rest = [name for name in free if name != label and name not in inputs]
    if not inputs and len(rest) == 1:
        inputs = (rest.pop(),)
    if not inputs:
        raise _ambiguous(table, "input")
    if label is None and len(rest) == 1:
        label = rest.pop()
    if label is None and rest:
        raise _ambiguous(table, "label")
    return replace(asked, input=inputs, label=label or None)


def several_labels(table: Table, label: str | None) -> tuple[str, ...]:
    """Return the columns of a list such as "red,green,blue"; () for a single column."""
    if not label or "," not in label or label in table.names:
        return ()
    return tuple(name.strip() for name in label.split(","))


def choose_inputs(table: Table, asked: tuple[str, ...], modality: str) -> tuple[str, ...]:
    """Return the input columns, as `choose`, of a table whose other columns do not matter: for prediction."""
    _check(table, Columns(asked))
    free = [name for name in table.names if name.lower() not in COUNTERS]
    label = _label(free, asked)
    return (
        asked or _input([name for name in free if name != label], modality) or choose(table, Columns(), modality).input
    )


def _check(table: Table, asked: Columns) -> None:
    names = [name for name in table.names if name]  # spreadsheets append unnamed columns
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"{table.origin} has two columns called {twice[0]!r}", fix="rename one of them")
    if not names:
        raise DataError(f"{table.origin} has no columns", fix="write a table with an input column and a label column")
    labels = several_labels(table, asked.label) or ([asked.label] if asked.label else [])
    groups = [] if asked.groups is None else [asked.groups]
    for option, wanted in (("input", asked.input), ("groups", groups), ("label", labels)):
        for name in wanted:
            if name not in names:
                kind = Unlabelled if option == "label" else DataError
                what = f"{table.origin} has no column {name!r}; it has {', '.join(names)}"
                raise kind(what, fix=f'--{option} "{names[-1 if option == "label" else 0]}", or another')


def _label(names: Sequence[str], taken: Sequence[str]) -> str | None:
    """Return the column with a common label name, unless that is ambiguous."""
    lower = {name.lower(): name for name in names if name not in taken}
    first = next((lower[name] for name in LABELS if name in lower), None)
    others = [lower[name] for name in ALSO_LABELS if name in lower]
    return first or (others[0] if len(others) == 1 else None)


def _input(names: Sequence[str], modality: str) -> tuple[str, ...]:
    """Return the column, or the pair of columns, with common input names."""
    lower = {name.lower(): name for name in names}
    pairs = PAIRS if modality == "text" else ()
    usual = IMAGES if modality == "image" else TEXTS
    found = [pair for pair in (*pairs, *((name,) for name in usual)) if all(name in lower for name in pair)]
    if found:
        return tuple(lower[name] for name in found[0])
    is_one = _names_images if modality == "image" else _names_texts
    alike = [name for name in names if is_one(name)]
    return tuple(alike) if len(alike) == 1 else ()


def _names_images(name: str) -> bool:
    """Return whether a name is made of words for images and files: photo_path, imageFile, "IMG name"."""
    words = [word.lower().rstrip("s") for word in WORD.findall(name)]
    return any(word in PICTURE_WORDS for word in words) and all(word in PICTURE_WORDS | FILLERS for word in words)


def _names_texts(name: str) -> bool:
    return "text" in [word.lower() for word in WORD.findall(name)]


def _only_images(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    """Return the only column whose values are names of image files."""
    found = [name for name in names if isinstance(first := table.column(name)[0], str) and _are_images([first])]
    return tuple(found) if len(found) == 1 else ()


def _by_values(table: Table, names: Sequence[str], modality: str) -> tuple[tuple[str, ...], str | None]:
    """Infer input and label of two columns by their values, (), None if unclear; a single column is the input."""
    if len(names) != 2:
        return tuple(names[:1]) if len(names) == 1 else (), None
    is_input = _are_images if modality == "image" else _are_texts
    inputs = [name for name in names if is_input(table.column(name))]
    if len(inputs) != 1:
        return (), None
    return (inputs[0],), next(name for name in names if name != inputs[0])


def _are_images(values: Sequence[Any]) -> bool:
    first = values[0]
    return (
        PurePath(first).suffix.lower() in IMAGE_SUFFIXES
        if isinstance(first, str)
        else not isinstance(first, int | float)
    )


def _are_texts(values: Sequence[Any]) -> bool:
    """Return whether values are mostly unique strings, unlike labels."""
    return all(isinstance(value, str) for value in values) and 2 * len(set(values)) > len(values)


def _check_header(table: Table) -> None:
    """Raise DataError if the first line of a CSV file looks like data instead of a header."""
    if not table.untyped:
        return
    for name in filter(None, table.names):
        if len(name) > MAX_NAME or re.fullmatch(r"-?[0-9.]+", name) or name in table.column(name):
            what = f"{table.origin} seems to have no header; its first line is: {', '.join(table.names)}"
            fix = f"add a header line to {table.origin}, such as: text,label"
            raise DataError(what, fix=fix)


def _ambiguous(table: Table, what: str) -> DataError:
    fix = f'name it: --{what} NAME, or {what}="NAME" in Python'
    if what == "label":
        fix += '; without labels: --label ""'
    names = ", ".join(filter(None, table.names))
    return DataError(f"{table.origin}: cannot infer the {what} column from: {names}", fix=fix)
