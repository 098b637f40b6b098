"""Prepare examples for a net: decode images or tokenise texts once, and hold out validation data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoo.console import Bar, say
from zoo.data import split, texts
from zoo.data.datasets import Inputs
from zoo.data.decode_cache import Decoded, decode, exceeds_limit, name_of, unreadable
from zoo.data.examples import Examples
from zoo.data.image_batches import Images
from zoo.data.on_access import OnAccess
from zoo.data.texts import Texts
from zoo.errors import DataError
from zoo.plugin import ImageInput, TextInput, Tokenizer
from zoo.store import caches, home

SHOWN = 3
"""Names of unreadable inputs that an error shows."""
FEW_TEXTS = 10
"""Below this number of texts, language modelling splits them into paragraphs, so that some can be held out."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How inputs become tensors.

    input       what the backbone takes
    tokenizer   of a text backbone
    skip_bad    leave out unreadable images
    cache       keep decoded images in the store
    length      tokens to which texts are truncated, as `truncation` says
    blocks      concatenate texts into blocks for language modelling
    lazy        decode images for each batch, and keep none; with skip_bad they are in memory
    """

    input: ImageInput | TextInput
    tokenizer: Tokenizer | None = None
    skip_bad: bool = False
    cache: bool = True
    length: int = 0
    truncation: str = "head"
    blocks: bool = False
    lazy: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples and their prepared inputs, in the same order; `skipped` names the unreadable ones left out."""

    examples: Examples
    inputs: Inputs
    skipped: tuple[str, ...] = ()

    def at(self, indices: Sequence[int]) -> Prepared:
        """Return some of the examples, in that order."""
        return Prepared(self.examples.at(indices), self.inputs.at(indices))


@dataclass(frozen=True, slots=True)
class Validation:
    """Where validation data comes from: examples of its own, else a share held out of the training data (0: none)."""

    examples: Examples | None = None
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Split:
    """Prepared training and validation data; `held_out`: the latter is a part of the examples, not data of its own."""

    train: Prepared
    valid: Prepared | None
    description: str
    held_out: bool = False

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the unreadable inputs of both parts."""
        return self.train.skipped + (self.valid.skipped if self.valid else ())


def prepare(examples: Examples, how: Preprocessing, names: Sequence[str] = ()) -> Prepared:
    """Decode images or tokenise texts; DataError for an example that cannot be read.

    `names` are those of images in messages, where images are decoded for each batch.
    """
    if not isinstance(how.input, ImageInput):
        return _texts(examples, how)
    if how.lazy and not how.skip_bad:
        named = names or [name_of(item, index) for index, item in enumerate(examples.inputs)]
        pixels = OnAccess(examples.inputs, named, how.input)
        return Prepared(examples, Images(pixels, how.input, torch.arange(len(examples))))
    return _images(examples, how)


def prepare_for_evaluation(examples: Examples, how: Preprocessing, names: Sequence[str] = ()) -> Prepared:
    """Prepare examples; for language modelling, concatenated into blocks."""
    return _blocks(prepare(examples, how, names), how)


def _images(examples: Examples, how: Preprocessing) -> Prepared:
    assert isinstance(how.input, ImageInput)
    cache = home() / "cache" / "decoded" if how.cache and not how.lazy else None
    if cache is not None and exceeds_limit(examples, how.input, cache, skip_bad=how.skip_bad):
        return _on_access(examples, how)
    with nullcontext() if how.lazy else Bar("decode", len(examples)) as bar:
        advance = bar.advance if bar else lambda count: None
        decoded = decode(examples, how.input, cache, skip_bad=how.skip_bad, advance=advance)
    if len(decoded) == 0:
        raise DataError(f"{examples.origin}: no image can be read", fix="open one of them in an image viewer")
    return Prepared(_without_skipped(examples, decoded), Images.of(decoded, how.input), _names(examples, decoded))


def _on_access(examples: Examples, how: Preprocessing) -> Prepared:
    """Return images that are decoded for each batch, as their pixels fit nowhere; each is decoded once to check it."""
    assert isinstance(how.input, ImageInput)
    say("decode", f"images are decoded for each batch: the caches have no room for the pixels ({caches.VARIABLE})")
    with Bar("decode", len(examples)) as bar:
        skipped = unreadable(examples, how.input, skip_bad=how.skip_bad, advance=bar.advance)
    names = tuple(name_of(examples.inputs[i], i) for i in skipped)
    bad = set(skipped)
    kept = examples.at(i for i in range(len(examples)) if i not in bad) if bad else examples
    found = prepare(kept, replace(how, lazy=True, skip_bad=False))
    return Prepared(found.examples, found.inputs, names)


def _texts(examples: Examples, how: Preprocessing) -> Prepared:
    assert isinstance(how.input, TextInput)
    assert how.tokenizer is not None
    length = how.length if not how.blocks else 1 << 30
    found = texts.tokenise(
        examples.inputs, how.input, how.tokenizer, length=length, truncation=how.truncation, special=not how.blocks
    )
    return Prepared(examples, found)


def _without_skipped(examples: Examples, decoded: Decoded) -> Examples:
    skipped = set(decoded.skipped)
    return examples.at(i for i in range(len(examples)) if i not in skipped) if skipped else examples


def _names(examples: Examples, decoded: Decoded) -> tuple[str, ...]:
    return tuple(name_of(examples.inputs[i], i) for i in decoded.skipped)


def train_and_valid(
    examples: Examples, validation: Validation, how: Preprocessing, *, classes: bool, seed: int
) -> Split:
    """Prepare training and validation data; with `classes`, the split is stratified.

    Raises DataError for a single class, a class too small to split, and labels that only the validation data has.
    """
    own, share = validation.examples, validation.share
    if how.blocks:
        examples, own = _paragraphs(examples), own and _paragraphs(own)
    if classes:
        split.check_classes(examples, own)
    if own is None and share:
        split.held_out(examples, share, stratify=classes, seed=seed)  # raise before decoding, which takes long
    train = prepare(examples, how)
    if classes:
        with _naming(train.skipped):
            split.check_classes(train.examples, None)
    if own is not None:
        valid = _blocks(prepare(own, how), how)
        return Split(_blocks(train, how), valid, f"validation on {own.origin}, {len(valid.examples):,}")
    if not share:
        return Split(_blocks(train, how), None, "no validation")
    with _naming(train.skipped):
        kept, held = split.held_out(train.examples, share, stratify=classes, seed=seed)
    stratified = "stratified, " if classes and train.examples.groups is None else ""
    groups = "" if train.examples.groups is None else ", whole groups"
    description = f"{share * 100:.3g} % held out for validation ({stratified}seed {seed}{groups})"
    parts = (_blocks(train.at(indices), how) for indices in (kept, held))
    fitted, valid = parts
    return Split(Prepared(fitted.examples, fitted.inputs, train.skipped), valid, description, held_out=True)


@contextmanager
def _naming(skipped: Sequence[str]) -> Iterator[None]:
    """Add the names of unreadable inputs that were left out to a DataError of the block."""
    try:
        yield
    except DataError as error:
        if not skipped:
            raise
        names = ", ".join(skipped[:SHOWN]) + (f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else "")
        raise DataError(
            f"{error.what}; {len(skipped)} inputs are missing or unreadable and were left out: {names}",
            fix="restore these files, or correct their paths",
        ) from error


def _blocks(prepared: Prepared, how: Preprocessing) -> Prepared:
    """Concatenate texts into blocks for language modelling; other data stays as it is."""
    if not how.blocks:
        return prepared
    assert how.tokenizer is not None
    assert isinstance(prepared.inputs, Texts)
    around = texts.special_tokens_around(how.tokenizer)
    return Prepared(prepared.examples, texts.blocks(prepared.inputs, around, how.tokenizer.end, how.length))


def _paragraphs(examples: Examples) -> Examples:
    """Split a few long texts into paragraphs, or lines where there are too few of these."""
    for separator in ("\n\n", "\n"):
        if len(examples) >= FEW_TEXTS:
            break
        pieces = [piece for text in examples.inputs for piece in str(text).split(separator) if piece.strip()]
        examples = Examples(pieces, [None] * len(pieces), examples.origin)
    return examples


def unlabelled(inputs: Sequence[Any]) -> Examples:
    """Wrap inputs of `predict` and `embed` as examples without labels; DataError for none at all."""
    if not len(inputs):
        raise DataError("there is nothing to predict: the list of inputs is empty", fix="give at least one input")
    return Examples(inputs, [None] * len(inputs), f"{len(inputs)} inputs")
