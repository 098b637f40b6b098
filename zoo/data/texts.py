"""Tokenised texts: truncated once, gathered into padded batches, laid out in blocks for language modelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.plugin import TextInput, Tokenizer

INT32 = 2**31 - 1
NONE = np.empty(0, np.int32)
CHUNK = 1_000
"""Texts tokenised in one call, of at most MAX_CHARACTERS together."""
MAX_CHARACTERS = 2_000_000
"""Maximum length of one text: tokenising takes up to 500 bytes for each character."""
HEAD_SHARE = 0.25
"""Share of a "head-tail" truncation that is the head: 128 of 510 tokens (Sun et al. 2019, arXiv 1905.05583, 5.3.1)."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Token ids of many texts in flat tensors, and the selected `rows` (N,).

    ids        (B,) int32: token ids of all texts, concatenated
    types      (B,) int8: 0 or 1, first or second text of a pair
    words      (B,) int32: index of the word a token belongs to, -1 for none; of texts that are not split one value
    begins     (number of texts + 1,) offset of each text in the flat tensors
    truncated  number of texts that exceeded the maximal length
    """

    ids: Tensor
    types: Tensor
    words: Tensor
    begins: Tensor
    rows: Tensor
    pad: int
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, indices: Sequence[int]) -> Texts:
        """Return a view of some of the texts, in that order."""
        return replace(self, rows=self.rows[torch.tensor(indices, dtype=torch.long)])

    def pool(self) -> Texts:
        """Return all texts, of which these are a selection."""
        return replace(self, rows=torch.arange(len(self.begins) - 1))

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, (N,)."""
        return self.begins[self.rows + 1] - self.begins[self.rows]

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Return input_ids, attention_mask and token_type_ids, each (N, T), padded on the right to the longest."""
        where, mask = self._places(indices)
        return {
            "input_ids": self.ids[where].long().masked_fill_(~mask, self.pad),
            "attention_mask": mask.long(),
            "token_type_ids": self.types[where].long().masked_fill_(~mask, 0),
        }

    def word_numbers(self, indices: Tensor) -> Tensor:
        """Return (N, T): the word index at the first token of each word, -1 elsewhere."""
        where, mask = self._places(indices)
        words = self.words[where].masked_fill_(~mask, -1)
        before = torch.full_like(words, -1)
        before[:, 1:] = words[:, :-1]
        return words.masked_fill_(words == before, -1)

    def _places(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the offset of each token in the flat tensors, (N, T), and the attention mask (N, T) bool."""
        rows = self.rows[indices]
        starts, lengths = self.begins[rows], self.begins[rows + 1] - self.begins[rows]
        offsets = torch.arange(int(lengths.max()) if len(lengths) else 0)
        mask = offsets < lengths[:, None]  # (N, 1) against (T,) -> (N, T)
        return (starts[:, None] + offsets).masked_fill(~mask, 0), mask


def tokenise(
    texts: Sequence[Any], spec: TextInput, tokenizer: Tokenizer, *, length: int, truncation: str, special: bool = True
) -> Texts:
    """Tokenise texts, (text, text) pairs or lists of words, and truncate them to `length` tokens.

    truncation  head: keep the beginning; tail: the end; head-tail: a quarter from the beginning, the rest from the end
    special     add the special tokens of the pre-training ([CLS] … [SEP])

    Of a pair, the longer text is truncated first. Raises DataError for anything but texts.
    """
    for index, text in enumerate(texts):
        _check(text, index, spec)
    fast = tokenizer.fast
    fast.no_padding()
    fast.no_truncation()
    pairs = bool(texts) and isinstance(texts[0], tuple)
    if pairs:  # the library truncates pairs itself
        fast.enable_truncation(length, strategy="longest_first", direction="left" if truncation == "tail" else "right")
    split = bool(texts) and isinstance(texts[0], list)
    lengths, too_long = [0], 0
    columns: tuple[list[np.ndarray[Any, Any]], ...] = ([], [], [])
    for start, chunk in _chunks(texts):
        rows = []
        for encoding in _encode(fast, chunk, start, is_pretokenized=split, add_special_tokens=special):
            row = _row(encoding, split=split)
            if row.shape[1] > length or encoding.overflowing:
                too_long += 1
                row = row[:, _kept(encoding, length, truncation)]
            rows.append(row)
            lengths.append(row.shape[1])
        _add(columns, np.concatenate(rows, axis=1), tokenizer)
    if max(lengths) > length:
        what = f"the tokenizer adds special tokens to a text up to {max(lengths):,}, and the model takes {length:,}"
        raise DataError(what, fix="choose another backbone: zoo list")
    ids, types, words = (torch.from_numpy(np.concatenate(parts or [NONE])) for parts in columns)
    words = words if split else torch.tensor([-1], dtype=torch.int32).expand(len(ids))
    begins = torch.tensor(lengths).cumsum(0)
    return Texts(ids, types, words, begins, torch.arange(len(lengths) - 1), tokenizer.pad, too_long)


def token_spans(
    text: Any, tokenizer: Tokenizer, *, length: int, truncation: str
) -> list[tuple[int, tuple[int, int]] | None]:
    """Return where each token of `tokenise` comes from: (0, characters) of a text, None for a special token.

    The number is 1 in the second text of a pair, and that of the word in a list of words.
    """
    fast = tokenizer.fast
    fast.no_padding()
    fast.no_truncation()
    if isinstance(text, tuple):
        fast.enable_truncation(length, strategy="longest_first", direction="left" if truncation == "tail" else "right")
    split = isinstance(text, list)
    (encoding,) = _encode(fast, [text], 0, is_pretokenized=split, add_special_tokens=True)
    sources = encoding.word_ids if split else encoding.sequence_ids
    kept = _kept(encoding, length, truncation)
    return [None if (source := sources[i]) is None else (source, encoding.offsets[i]) for i in kept]


def _encode(fast: Any, texts: list[Any], start: int, **options: bool) -> Any:
    """Tokenise a chunk. Raises DataError where the library fails, as with a regular expression that takes too long."""
    try:
        return fast.encode_batch(texts, **options)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of Rust
            raise
        what = f"the tokenizer of this backbone failed on one of the texts {start} to {start + len(texts) - 1}: {error}"
        raise DataError(what, fix="choose another backbone (zoo list), or remove that text") from error


def _check(text: Any, index: int, spec: TextInput) -> None:
    parts = (text,) if isinstance(text, str) else text
    if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"input {index} is {type(text).__name__}, not a text",
            fix="give texts, (text, text) pairs or lists of words; remove rows without a text",
        )
    if _length(text) > MAX_CHARACTERS:
        raise DataError(
            f"input {index} has {_length(text):,} characters; the limit is {MAX_CHARACTERS:,}",
            fix="split it into several texts, or lines: split -C 1m FILE",
        )
    if isinstance(text, tuple) and (len(text) != 2 or not spec.pairs):
        taken = "a text or a pair of texts" if spec.pairs else "one text for each input, not pairs"
        raise DataError(
            f"input {index} has {len(text)} texts, and this backbone takes {taken}",
            fix="join them into one text, or name one column: input=… (--input)",
        )


def _chunks(texts: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield the texts in order, as many as one call of the tokenizer takes, with the index of the first."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        size += _length(text)
        if index > start and (index - start == CHUNK or size > MAX_CHARACTERS):
            yield start, list(texts[start:index])
            start, size = index, _length(text)
    if start < len(texts):
        yield start, list(texts[start:])


def _length(text: Any) -> int:
    """Return the characters of a text, a pair or a list of words, each with a separator."""
    return len(text) if isinstance(text, str) else sum(map(len, text)) + len(text)


def _kept(encoding: Any, length: int, truncation: str) -> list[int]:
    """Return the positions of the tokens that truncation keeps; special tokens at both ends always stay."""
    count = len(encoding.ids)
    if count <= length:
        return list(range(count))
    first, last = _special_at_ends(encoding)
    room = max(0, length - first - last)
    head = room if truncation == "head" else 0 if truncation == "tail" else round(HEAD_SHARE * room)
    middle = [*range(first, first + head), *range(count - last - (room - head), count - last)]
    return [*range(first), *middle, *range(count - last, count)]


def _row(encoding: Any, *, split: bool) -> np.ndarray[Any, Any]:
    """Return the ids and types of the tokens of a text, and the words where it is `split`: (2 or 3, T) int64."""
    columns = [encoding.ids, encoding.type_ids]
    if split:
        columns.append([-1 if word is None else word for word in encoding.word_ids])
    return np.array(columns, dtype=np.int64)


def _add(columns: Sequence[list[np.ndarray[Any, Any]]], rows: np.ndarray[Any, Any], tokenizer: Tokenizer) -> None:
    """Append the tokens of a chunk, (2 or 3, T), to the columns. Raises DataError for ids that the model lacks."""
    largest, most = rows[:2].max(axis=1).tolist() if rows.size else (0, 0)
    if largest >= (size := tokenizer.size or INT32):
        what = f"the tokenizer gives the id {largest:,}, and the model knows {size:,}"
        raise DataError(what, fix="choose another backbone: zoo list")
    if most > 1:
        what = f"the tokenizer gives the token type {most}, and models know 0 and 1"
        raise DataError(what, fix="choose another backbone: zoo list")
    for column, row, dtype in zip(columns, rows, (np.int32, np.int8, np.int32), strict=False):
        column.append(row.astype(dtype))


def blocks(texts: Texts, around: tuple[Sequence[int], Sequence[int]], end: int | None, length: int) -> Texts:
    """Concatenate texts, each followed by the `end` token, and split them into blocks of `length` tokens.

    `around` are the special tokens before and after each block; the last block may be shorter.
    """
    before, after = (torch.tensor(list(tokens), dtype=torch.int32) for tokens in around)
    closing = torch.tensor([] if end is None else [end], dtype=torch.int32)
    pieces = [(texts.ids[texts.begins[row] : texts.begins[row + 1]], closing) for row in texts.rows.tolist()]
    stream = torch.cat([part for piece in pieces for part in piece] or [closing[:0]])
    chunks = [chunk for chunk in stream.split(length - len(before) - len(after)) if len(chunk) > 1]
    if not chunks:
        raise DataError("the texts hold too few tokens for language modelling", fix="add more text")
    filled = [torch.cat([before, chunk, after]) for chunk in chunks]
    ids = torch.cat(filled)
    begins = torch.tensor([0] + [len(block) for block in filled]).cumsum(0)
    types, words = torch.zeros(1, dtype=torch.int8), torch.full((1,), -1, dtype=torch.int32)
    return Texts(ids, types.expand(len(ids)), words.expand(len(ids)), begins, torch.arange(len(filled)), texts.pad)


def special_tokens_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    tokenizer.fast.no_truncation()
    encoding = tokenizer.fast.encode("a")
    first, last = _special_at_ends(encoding)
    return encoding.ids[:first], encoding.ids[len(encoding.ids) - last :]


def _special_at_ends(encoding: Any) -> tuple[int, int]:
    """Return the number of special tokens before and after a text."""
    special = encoding.special_tokens_mask
    first, last = (next((i for i, flag in enumerate(order) if not flag), 0) for order in (special, special[::-1]))
    return first, last
