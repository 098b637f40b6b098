"""Read CoNLL files: a word and its tags on each line, an empty line after each sentence."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.data.table import Table, of_columns
from zoo.errors import DataError

TAG = re.compile(r"O|[BIESLUMW]-\S+")
"""A tag of a span: IOB, IOB2, BIOES or BILOU."""
PROBED = 200
"""First lines by which a text file is recognised."""
COLUMNS = {2: ("tokens", "tags"), 3: ("tokens", "pos_tags", "ner_tags")}
COLUMNS[4] = ("tokens", "pos_tags", "chunk_tags", "ner_tags")  # CoNLL-2003
UNIVERSAL = {"tokens": 1, "lemmas": 2, "upos": 3, "xpos": 4, "deprel": 7}
"""Column of a CoNLL-U file -> its place."""


def looks_like(text: str) -> bool:
    """Return whether a text file is a CoNLL file: each line has two columns or more, the last a tag of a span."""
    lines = [line.split() for line in text.split("\n", PROBED)[:PROBED] if line.strip()]
    lines = [words for words in lines if not words[0].startswith(("#", "-DOCSTART-"))]
    return bool(lines) and all(len(words) > 1 and TAG.fullmatch(words[-1]) for words in lines)


def parse(text: str, path: Path) -> Table:
    """Return a table of a row per sentence: its tokens and tags, lists of equal length.

    Columns are separated by tabs, else by white space. Raises DataError, with the line, where their number changes.
    """
    universal = path.suffix.lower() == ".conllu"
    lines = text.split("\n")  # not splitlines: a word may hold U+2028 and the like
    rows = [line for line in lines if _is_word(line) and not line.startswith("# ")]
    separator = "\t" if universal or all("\t" in line for line in rows) else None
    sentences: list[list[list[str]]] = []
    starts: list[int] = []
    width, within = 0, False
    for number, line in enumerate(lines, 1):
        if not _is_word(line) or (line.startswith("#") and (universal or not within)):
            within = within and bool(line.strip()) and line.startswith("#")
            continue
        fields = line.strip().split(separator)
        width = width or len(fields)
        if len(fields) != width or width < 2:
            what = f"{path}:{number} has {len(fields)} columns, and {max(width, 2)} are expected: a word, then its tags"
            raise DataError(what, fix=f"edit line {number}, or write an empty line between sentences only")
        if universal and not fields[0].isdecimal():  # a contraction (1-2) or an omitted word (1.1)
            continue
        if not within:
            sentences.append([])
            starts.append(number)
        within = True
        sentences[-1].append(fields)
    if not sentences:
        raise DataError(f"{path} holds no sentences", fix="write a word and its tag on each line: London B-LOC")
    places = _places(width, universal, path)
    columns = {name: [[word[at] for word in sentence] for sentence in sentences] for name, at in places.items()}
    found = of_columns(columns, str(path))
    return Table(found.names, found.rows, found.column, str(path), starts, path.parent)


def _is_word(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("-DOCSTART-")


def _places(width: int, universal: bool, path: Path) -> dict[str, int]:
    """Return the place of each named column."""
    if universal:
        if width < 8:
            raise DataError(f"{path} has {width} columns, and CoNLL-U has 10", fix="rename it to .conll")
        return UNIVERSAL
    names = COLUMNS.get(width) or ("tokens", *(f"column_{place}" for place in range(2, width)), "tags")
    return {name: place for place, name in enumerate(names)}
