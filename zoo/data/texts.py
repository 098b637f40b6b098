"""Texts as token ids: tokenised once, cut to length, gathered into padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.plugin import TextInput, Tokenizer

CUTS = ("head", "tail", "head-tail")
CHUNK = 1_000
"""Texts tokenised in one call: enough for the tokenizer's threads, few enough to show progress."""
HEAD_SHARE = 0.25
"""What head-tail takes from the beginning: 128 of 510 tokens (Sun et al. 2019, arXiv 1905.05583, 5.3.1)."""


@dataclass(frozen=True, slots=True)
class Texts:
    """Token ids of many texts end to end, where each begins, and which of them (`rows`) are meant.

    ids, types and words are flat (B,): the token, 0 or 1 for the first or second of a pair, and the number of the word
    it belongs to (-1: none). `begins` (N + 1,) holds where each text starts. `cut` counts the texts that were too long.
    """

    ids: Tensor
    types: Tensor
    words: Tensor
    begins: Tensor
    rows: Tensor
    pad: int
    cut: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, indices: Sequence[int]) -> Texts:
        """Return a view of some of the texts, in that order."""
        return replace(self, rows=self.rows[torch.tensor(indices, dtype=torch.long)])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each text, (N,)."""
        return self.begins[self.rows + 1] - self.begins[self.rows]

    def batch(self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None) -> dict[str, Tensor]:
        """Return input_ids, attention_mask and token_type_ids, each (N, T), padded on the right to the longest."""
        where, mask = self._places(indices)
        return {
            "input_ids": self.ids[where].long().masked_fill_(~mask, self.pad),
            "attention_mask": mask.long(),
            "token_type_ids": self.types[where].long().masked_fill_(~mask, 0),
        }

    def word_numbers(self, indices: Tensor) -> Tensor:
        """Return the word of the first token of each word, and -1 at every other place, (N, T)."""
        where, mask = self._places(indices)
        words = self.words[where].masked_fill_(~mask, -1)
        before = torch.full_like(words, -1)
        before[:, 1:] = words[:, :-1]
        return words.masked_fill_(words == before, -1)

    def _places(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return where in the flat tensors each token of a batch is, (N, T), and which places hold one."""
        rows = self.rows[indices]
        starts, lengths = self.begins[rows], self.begins[rows + 1] - self.begins[rows]
        offsets = torch.arange(int(lengths.max()) if len(lengths) else 0)
        mask = offsets < lengths[:, None]  # (N, 1) against (T,) -> (N, T)
        return (starts[:, None] + offsets).masked_fill(~mask, 0), mask


def tokenise(
    texts: Sequence[Any], spec: TextInput, tokenizer: Tokenizer, *, length: int, cut: str, special: bool = True
) -> Texts:
    """Tokenise texts, (text, text) pairs or lists of words once, and cut what is longer than `length` tokens.

    cut      head: keep the beginning; tail: the end; head-tail: a quarter from the beginning, the rest from the end
    special  put the tokens around each text that the net was pretrained with ([CLS] … [SEP])

    A pair loses from the longer of the two. Raises DataError for what is no text.
    """
    for index, text in enumerate(texts):
        _check(text, index, spec)
    fast = tokenizer.fast
    fast.no_padding()
    fast.no_truncation()
    pairs = bool(texts) and isinstance(texts[0], tuple)
    if pairs:  # the library knows how to take turns between two texts
        fast.enable_truncation(length, strategy="longest_first", direction="left" if cut == "tail" else "right")
    split = bool(texts) and isinstance(texts[0], list)
    found, too_long = [], 0
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        for encoding in fast.encode_batch(chunk, is_pretokenized=split, add_special_tokens=special):
            too_long += len(encoding.ids) > length or bool(encoding.overflowing)
            kept = _kept(encoding, length, cut)
            words = [-1 if word is None else word for word in encoding.word_ids] if split else [-1] * len(encoding.ids)
            found.append(tuple([row[i] for i in kept] for row in (encoding.ids, encoding.type_ids, words)))
    return _flat(found, tokenizer.pad, too_long)


def _check(text: Any, index: int, spec: TextInput) -> None:
    parts = (text,) if isinstance(text, str) else text
    if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
        raise DataError(
            f"input {index} is {type(text).__name__}, not a text",
            fix="give texts, (text, text) pairs or lists of words; remove rows without a text",
        )
    if isinstance(text, tuple) and (len(text) != 2 or not spec.pairs):
        taken = "a text or a pair of texts" if spec.pairs else "one text for each input, not pairs"
        raise DataError(
            f"input {index} has {len(text)} texts, and this backbone takes {taken}",
            fix="join them into one text, or name one column: input=… (--input)",
        )


def _kept(encoding: Any, length: int, cut: str) -> list[int]:
    """Return which tokens of an encoding stay; the special tokens at both ends always do."""
    count = len(encoding.ids)
    if count <= length:
        return list(range(count))
    special = encoding.special_tokens_mask
    first = next((i for i, flag in enumerate(special) if not flag), 0)
    last = next((i for i, flag in enumerate(reversed(special)) if not flag), 0)
    room = max(0, length - first - last)
    head = room if cut == "head" else 0 if cut == "tail" else round(HEAD_SHARE * room)
    middle = [*range(first, first + head), *range(count - last - (room - head), count - last)]
    return [*range(first), *middle, *range(count - last, count)]


def _flat(found: Sequence[Any], pad: int, cut: int) -> Texts:
    lengths = torch.tensor([0] + [len(ids) for ids, _, _ in found])
    columns = list(zip(*found, strict=True)) or [(), (), ()]
    ids, types, words = (torch.tensor(list(chain.from_iterable(column)), dtype=torch.int32) for column in columns)
    return Texts(ids, types, words, lengths.cumsum(0), torch.arange(len(found)), pad, cut)


def blocks(texts: Texts, around: tuple[Sequence[int], Sequence[int]], end: int | None, length: int) -> Texts:
    """Lay texts end to end, with `end` after each, and cut them into blocks of `length` tokens for language modelling.

    `around` are the special tokens before and after each block; the last block may be shorter.
    """
    before, after = (torch.tensor(list(tokens), dtype=torch.int32) for tokens in around)
    closing = torch.tensor([] if end is None else [end], dtype=torch.int32)
    pieces = [(texts.ids[texts.begins[row] : texts.begins[row + 1]], closing) for row in texts.rows.tolist()]
    stream = torch.cat([part for piece in pieces for part in piece] or [closing[:0]])
    chunks = [chunk for chunk in stream.split(length - len(before) - len(after)) if len(chunk) > 1]
    if not chunks:
        raise DataError("the texts hold too few tokens for language modelling", fix="give more text")
    filled = [torch.cat([before, chunk, after]) for chunk in chunks]
    ids = torch.cat(filled)
    begins = torch.tensor([0] + [len(block) for block in filled]).cumsum(0)
    return Texts(ids, torch.zeros_like(ids), torch.full_like(ids, -1), begins, torch.arange(len(filled)), texts.pad)


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text."""
    tokenizer.fast.no_truncation()
    encoding = tokenizer.fast.encode("a")
    ids, special = encoding.ids, encoding.special_tokens_mask
    first = next((i for i, flag in enumerate(special) if not flag), 0)
    last = next((i for i, flag in enumerate(reversed(special)) if not flag), 0)
    return ids[:first], ids[len(ids) - last :]
