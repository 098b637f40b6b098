"""From what the user gave to what a loop takes: read, check, decode once, split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.console import Bar
from zoo.data import examples as reader
from zoo.data import split
from zoo.data.batches import Images
from zoo.data.decoded import Decoded, decode
from zoo.data.examples import Examples
from zoo.errors import DataError
from zoo.plugin import ImageInput
from zoo.store import home


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples and their decoded images, in the same order; `skipped` names inputs left out as unreadable."""

    examples: Examples
    images: Images
    skipped: tuple[str, ...] = ()

    def at(self, indices: Sequence[int]) -> Prepared:
        """Return some of the examples, in that order."""
        return Prepared(self.examples.at(indices), self.images.at(indices))


@dataclass(frozen=True, slots=True)
class Split:
    """Training and validation data, in words where the validation data came from, and what was left out."""

    train: Prepared
    valid: Prepared | None
    said: str
    skipped: tuple[str, ...]


def prepare(examples: Examples, spec: ImageInput, *, skip_bad: bool = False, keep: bool = True) -> Prepared:
    """Decode examples for a net's input, and with `keep` only once ever.

    Raises DataError for an example that cannot be read, unless `skip_bad`.
    """
    cache = home() / "cache" / "decoded" if keep else None
    with Bar("decode", len(examples)) as bar:
        decoded = decode(examples, spec, cache, skip_bad=skip_bad, advance=bar.advance)
    if len(decoded) == 0:
        raise DataError(f"{examples.origin}: not one image can be read", fix="look at one of them in an image viewer")
    return Prepared(_without(examples, decoded), Images.of(decoded, spec), _names(examples, decoded))


def _without(examples: Examples, decoded: Decoded) -> Examples:
    left_out = set(decoded.skipped)
    return examples.at(i for i in range(len(examples)) if i not in left_out) if left_out else examples


def _names(examples: Examples, decoded: Decoded) -> tuple[str, ...]:
    return tuple(str(examples.inputs[i]) for i in decoded.skipped)


def train_and_valid(data: object, valid: object, spec: ImageInput, *, seed: int, skip_bad: bool) -> Split:
    """Read training and validation data and split where needed.

    `valid` is a share (0: none) or data of its own; a share gives way to the valid/ folder of the data.
    Raises DataError for one class only, a class too small to split, and labels that only `valid` has.
    """
    examples, own = reader.read(data)
    split.check_classes(examples)
    share = 0.0
    if valid is not None and not isinstance(valid, int | float):
        own = reader.read_one(valid)
    elif own is None:
        share = float(valid or 0)
    if own is not None:
        split.check_same_labels(examples, own)
    if share:
        split.stratified(examples, share, seed)  # a class that is too small is told before the work of decoding
    train = prepare(examples, spec, skip_bad=skip_bad)
    split.check_classes(train.examples)
    if own is not None:
        held_out = prepare(own, spec, skip_bad=skip_bad)
        return Split(train, held_out, f"validation on {own.origin}", train.skipped + held_out.skipped)
    if not share:
        return Split(train, None, "no validation", train.skipped)
    kept, held = split.stratified(train.examples, share, seed)
    said = f"{share * 100:.3g} % held out for validation (stratified, seed {seed})"
    return Split(train.at(kept), train.at(held), said, train.skipped)


def inputs_only(inputs: object) -> Examples:
    """Wrap one input or a list of them, without labels, for `predict` and `embed`."""
    many: list[Any] = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
    if not many:
        raise DataError("there is nothing to predict: the list of inputs is empty", fix="give at least one input")
    return Examples(many, [""] * len(many), f"{len(many)} inputs")
