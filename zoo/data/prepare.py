"""From examples to what a loop takes: decode or tokenise once, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.console import Bar
from zoo.data import split, texts
from zoo.data.datasets import Inputs
from zoo.data.decode_cache import Decoded, decode, name_of
from zoo.data.examples import Examples
from zoo.data.image_batches import Images
from zoo.data.texts import Texts
from zoo.errors import DataError
from zoo.plugin import ImageInput, TextInput, Tokenizer
from zoo.store import home

FEW_TEXTS = 10
"""With fewer texts than this, language modelling takes their paragraphs for texts: some have to be held out."""


@dataclass(frozen=True, slots=True)
class How:
    """How inputs become numbers: what the backbone takes, and what the recipe says about it.

    `skip_bad` leaves out images that cannot be read; `keep` decodes images only once ever; a text is cut to `length`
    tokens as `cut` says; `blocks`: texts are laid end to end for language modelling.
    """

    input: ImageInput | TextInput
    tokenizer: Tokenizer | None = None
    skip_bad: bool = False
    keep: bool = True
    length: int = 0
    cut: str = "head"
    blocks: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples and their prepared inputs, in the same order; `skipped` names inputs left out as unreadable."""

    examples: Examples
    inputs: Inputs
    skipped: tuple[str, ...] = ()

    def at(self, indices: Sequence[int]) -> Prepared:
        """Return some of the examples, in that order."""
        return Prepared(self.examples.at(indices), self.inputs.at(indices))


@dataclass(frozen=True, slots=True)
class Split:
    """Training and validation data, in words where the validation data came from, and what was left out."""

    train: Prepared
    valid: Prepared | None
    said: str
    skipped: tuple[str, ...]


def prepare(examples: Examples, how: How) -> Prepared:
    """Decode images or tokenise texts for a net's input; DataError for an example that cannot be read."""
    return _images(examples, how) if isinstance(how.input, ImageInput) else _texts(examples, how)


def prepare_all(examples: Examples, how: How) -> Prepared:
    """Prepare examples to measure on; for language modelling, laid end to end."""
    return _blocks(prepare(examples, how), how)


def _images(examples: Examples, how: How) -> Prepared:
    assert isinstance(how.input, ImageInput)
    cache = home() / "cache" / "decoded" if how.keep else None
    with Bar("decode", len(examples)) as bar:
        decoded = decode(examples, how.input, cache, skip_bad=how.skip_bad, advance=bar.advance)
    if len(decoded) == 0:
        raise DataError(f"{examples.origin}: not one image can be read", fix="look at one of them in an image viewer")
    return Prepared(_without(examples, decoded), Images.of(decoded, how.input), _names(examples, decoded))


def _texts(examples: Examples, how: How) -> Prepared:
    assert isinstance(how.input, TextInput)
    assert how.tokenizer is not None
    length = how.length if not how.blocks else 1 << 30
    found = texts.tokenise(
        examples.inputs, how.input, how.tokenizer, length=length, cut=how.cut, special=not how.blocks
    )
    return Prepared(examples, found)


def _without(examples: Examples, decoded: Decoded) -> Examples:
    left_out = set(decoded.skipped)
    return examples.at(i for i in range(len(examples)) if i not in left_out) if left_out else examples


def _names(examples: Examples, decoded: Decoded) -> tuple[str, ...]:
    return tuple(name_of(examples.inputs[i], i) for i in decoded.skipped)


def train_and_valid(examples: Examples, own: Examples | None, share: float, task: str, how: How, seed: int) -> Split:
    """Prepare training and validation data: `own` where there is some, else a share of the examples (0: none).

    Raises DataError for one class only, a class too small to split, and labels that only `own` has.
    """
    if how.blocks:
        examples, own = _pieces(examples), own and _pieces(own)
    split.check(examples, own, task)
    if own is None and share:
        split.held_out(examples, share, task, seed)  # a class that is too small is told before the work of decoding
    train = prepare(examples, how)
    split.check(train.examples, None, task)
    if own is not None:
        held = _blocks(prepare(own, how), how)
        return Split(_blocks(train, how), held, f"validation on {own.origin}", train.skipped + held.skipped)
    if not share:
        return Split(_blocks(train, how), None, "no validation", train.skipped)
    kept, away = split.held_out(train.examples, share, task, seed)
    evenly = "stratified, " if task == "classify" else ""
    said = f"{share * 100:.3g} % held out for validation ({evenly}seed {seed})"
    return Split(_blocks(train.at(kept), how), _blocks(train.at(away), how), said, train.skipped)


def _blocks(prepared: Prepared, how: How) -> Prepared:
    """Lay the texts of a language-modelling set end to end; other sets stay as they are."""
    if not how.blocks:
        return prepared
    assert how.tokenizer is not None
    assert isinstance(prepared.inputs, Texts)
    around = texts.around(how.tokenizer)
    return Prepared(prepared.examples, texts.blocks(prepared.inputs, around, how.tokenizer.end, how.length))


def _pieces(examples: Examples) -> Examples:
    """Split a handful of long texts into their paragraphs, or failing that into their lines."""
    for separator in ("\n\n", "\n"):
        if len(examples) >= FEW_TEXTS:
            break
        pieces = [piece for text in examples.inputs for piece in str(text).split(separator) if piece.strip()]
        examples = Examples(pieces, [None] * len(pieces), examples.origin)
    return examples


def inputs_only(inputs: object) -> Examples:
    """Wrap one input or a list of them, without labels, for `predict` and `embed`."""
    many: list[Any] = list(inputs) if isinstance(inputs, list) else [inputs]
    if not many:
        raise DataError("there is nothing to predict: the list of inputs is empty", fix="give at least one input")
    return Examples(many, [None] * len(many), f"{len(many)} inputs")
