"""Near-duplicates between training and validation data: they make a validation score better than the model is.

Both kinds of inputs are searched in two steps: the likeliest partners by a product of short codes, in blocks, then a
closer look at these alone. Images are compared by the differences of neighbouring cells of a small thumbnail (as dHash
does, but without rounding them to bits), once whole and once cropped; texts by the Jaccard similarity of their shingles
(Broder 1997, "On the resemblance and containment of documents").
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.datasets import Inputs
from zoo.data.image_batches import Images
from zoo.data.sampler import in_turn
from zoo.data.texts import Texts

PARTNERS = 4
"""How many likely partners of each example get a closer look."""
CROWD, APART = 10, 0.5
"""A near-duplicate image is at most this share as far (1 - correlation) as the CROWD-th likeliest partner: small images
of like things, as letters or shoes, are all near each other (cf. the ratio test of Lowe 2004, section 7.1). Where the
training data holds as many copies of one image, only closer ones than these are found."""
BLOCK = 512
"""Examples, or pairs of them, that are worked on at a time."""
SIDE, COARSE, FINE = 40, 8, 16
"""Cells a side: of the thumbnails that are kept, of the codes that are searched, and in the closer look."""
LIKELY_IMAGES, NEAR_IMAGES = 0.75, 0.9
"""Correlation from which images get a closer look, and from which, in it, they are near-duplicates.

Chosen on 289 photos of things on white (tuxpaint-stamps), each looked for among all in a variant. Found, and with its
own partner: halved, 64 px, JPEG at quality 50, darker by 10 %, more contrast, mirrored 100 %; cropped by 5 % 100 %
(99.7 %), mirrored as well 100 % (99.7 %); brighter by 10 % 99.7 % (99.3 %); cropped, halved and JPEG 98.6 %; cropped by
10 % 30 %. Of the 41,616 pairs of photos five are found: four are mirrored, one is an apple in another colour. With the
64 bits of dHash or pHash alone, 43 % or 69 % of the crops are found at about as few pairs. 10,000 photos of clothes at
28 px (Fashion-MNIST's test images) have 137 near-duplicates in 10,000 others, 5,000 without APART, which costs 30 % of
the crops there.
"""
CROP = 38
"""Cells a side of the nine crops in the closer look: they are 5 % smaller, so that a crop of a photo is found."""
CONTRAST = 1.0
"""Root mean square difference of neighbouring cells, in grey levels, below which an image counts as empty."""
SHINGLE = 5
"""Tokens in a shingle."""
BITS = 256
"""Bits in a text's code, one of each of as many MinHashes (Li and König 2010, arXiv 0910.3349)."""
LIKELY_TEXTS, NEAR_TEXTS = 0.65, 0.8
"""Jaccard similarity from which texts get a closer look, estimated to about 0.04, and from which they are near."""
MIX = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""Odd 64-bit multipliers of SplitMix64 (Steele, Lea and Flood 2014)."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Which of `valid` have a near-duplicate in `train`, for each of them one such, and how many are identical."""

    valid: tuple[int, ...]
    train: tuple[int, ...]
    exact: int


def near(train: Inputs, valid: Inputs) -> Duplicates:
    """Find the validation examples that are in the training data as well, identical or nearly so."""
    if not len(train) or not len(valid):
        return Duplicates((), (), 0)
    if isinstance(train, Images) and isinstance(valid, Images):
        theirs, ours = _thumbnails(train), _thumbnails(valid)
        same = _identical(train, valid, *([thumb.numpy().tobytes() for thumb in thumbs] for thumbs in (theirs, ours)))
        rest = [i for i in range(len(valid)) if i not in same]
        others = _near_images(theirs, ours[rest]) if rest else {}
    else:
        assert isinstance(train, Texts)
        assert isinstance(valid, Texts)
        same = _identical(train, valid, train.lengths.tolist(), valid.lengths.tolist())
        rest = [i for i in range(len(valid)) if i not in same]
        others = _near_texts(train, valid.at(rest)) if rest else {}
    found = same | {rest[i]: j for i, j in others.items()}
    places = sorted(found)
    return Duplicates(tuple(places), tuple(found[i] for i in places), len(same))


def _identical(train: Inputs, valid: Inputs, theirs: Sequence[Hashable], ours: Sequence[Hashable]) -> dict[int, int]:
    """Return the first partner in `train` of each identical example of `valid`; identical ones have equal keys."""
    common = set(theirs) & set(ours)
    first: dict[bytes, int] = {}
    for j, key in enumerate(theirs):
        if key in common:
            first.setdefault(_digest(train, j), j)
    partners = {i: first.get(_digest(valid, i)) for i, key in enumerate(ours) if key in common}
    return {i: j for i, j in partners.items() if j is not None}


def _digest(inputs: Inputs, index: int) -> bytes:
    """Return a digest of an image's shape and pixels, or of a text's tokens."""
    row = int(inputs.rows[index])
    content = inputs.pixels[row] if isinstance(inputs, Images) else inputs.ids[_span(inputs, row)]
    return hashlib.sha256(repr(tuple(content.shape)).encode() + content.numpy().tobytes()).digest()


def _likely(valid: Tensor, train: Tensor, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return pairs of rows (P,), (P,) whose product is at least `least`: the best few partners of each of `valid`.

    The third is the product (P,) with the CROWD-th best partner, how alike even others are; -1 where there are fewer.
    """
    found = []
    for start in range(0, len(valid), BLOCK):
        # (B, D) @ (D, M) -> (B, M)
        products, places = (valid[start : start + BLOCK] @ train.T).topk(min(CROWD, len(train)), 1)
        row, rank = (products[:, :PARTNERS] >= least).nonzero().unbind(1)
        crowd = products[row, -1] if len(train) >= CROWD else torch.full(row.shape, -1.0)
        found.append((row + start, places[row, rank], crowd))
    rows, partners, crowds = (torch.cat(parts) for parts in zip(*found, strict=True))
    return rows, partners, crowds


def _best(rows: Tensor, partners: Tensor, scores: Tensor, near: Tensor) -> dict[int, int]:
    """Return for each row (P,) with partners that are near (P,) the one with the highest score, the first of equals."""
    order = scores.argsort(stable=True, descending=True)
    order = order[near[order]]
    found: dict[int, int] = {}
    for i, j in zip(rows[order].tolist(), partners[order].tolist(), strict=True):
        found.setdefault(i, j)
    return found


def _near_images(train: Tensor, valid: Tensor) -> dict[int, int]:
    """Return the near-duplicate among thumbnails `train` of each of `valid` that has one, mirrored or not."""
    codes, pairs = _codes_of_images(train), []
    for turned in (valid, valid.flip(-1)):
        rows, partners, crowds = _likely(_codes_of_images(turned), codes, LIKELY_IMAGES)
        parts = zip(rows.split(BLOCK), partners.split(BLOCK), strict=True)
        scores = torch.cat([_alike(turned[i].float(), train[j].float()) for i, j in parts])
        pairs.append((rows, partners, scores, (scores >= NEAR_IMAGES) & (1 - scores <= APART * (1 - crowds))))
    return _best(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))


def _thumbnails(images: Images) -> Tensor:
    """Shrink whole images to (N, C, SIDE, SIDE) uint8."""
    return torch.cat([_shrink(images.pixels[row][None], SIDE) for row in images.rows.tolist()])


def _shrink(images: Tensor, side: int) -> Tensor:
    small: Tensor = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return small


def _codes_of_images(thumbs: Tensor) -> Tensor:
    return torch.cat([_edges(_shrink(block.float(), COARSE)) for block in thumbs.split(BLOCK)])


def _edges(cells: Tensor) -> Tensor:
    """Return the differences of neighbouring cells (N, C, S, S) as rows (N, D) of length 1; shorter with hardly any."""
    edges = torch.cat([cells.diff(dim=-1).flatten(1), cells.diff(dim=-2).flatten(1)], 1)
    lengths: Tensor = edges.norm(dim=1, keepdim=True)
    return edges / lengths.clamp(min=CONTRAST * edges.shape[1] ** 0.5)


def _alike(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the highest correlation (P,) of pairs of thumbnails: both whole, or one with a crop of the other."""
    whole = _windows((0,), SIDE)
    crops = _windows((0, (SIDE - CROP) // 2, SIDE - CROP), CROP)
    our, their = _cut(ours, whole), _cut(theirs, whole)  # (P, 1, D) each
    products = [our * their, our * _cut(theirs, crops), _cut(ours, crops) * their]
    return torch.cat([product.sum(2) for product in products], 1).amax(1)


def _windows(starts: Sequence[int], length: int) -> Tensor:
    """Return the weights (W, FINE, SIDE) that shrink `length` cells of a side from each start, as `_shrink` does."""
    weights = F.interpolate(torch.eye(length)[None, None], (FINE, length), mode="bilinear", antialias=True)[0, 0]
    return torch.stack([F.pad(weights, (start, SIDE - length - start)) for start in starts])


def _cut(thumbs: Tensor, windows: Tensor) -> Tensor:
    """Return the edges (P, W * W, D) of every window of thumbnails (P, C, SIDE, SIDE)."""
    cells = torch.einsum("yih,pchw,xjw->pyxcij", windows, thumbs, windows)
    edges: Tensor = _edges(cells.flatten(0, 2)).unflatten(0, (len(thumbs), len(windows) ** 2))
    return edges


def _near_texts(train: Texts, valid: Texts) -> dict[int, int]:
    """Return the near-duplicate in `train` of each text of `valid` that has one; a text without a shingle has none."""
    rows, partners, _ = _likely(_codes_of_texts(valid), _codes_of_texts(train), LIKELY_TEXTS)
    pairs = zip(rows.tolist(), partners.tolist(), strict=True)
    scores = torch.tensor([_jaccard(valid, i, train, j) for i, j in pairs])
    return _best(rows, partners, scores, scores >= NEAR_TEXTS)


def _span(texts: Texts, row: int) -> slice:
    return slice(int(texts.begins[row]), int(texts.begins[row + 1]))


def _jaccard(valid: Texts, i: int, train: Texts, j: int) -> float:
    """Return what share of the shingles of two texts both have."""
    spans = (texts.ids[_span(texts, int(texts.rows[k]))] for texts, k in ((valid, i), (train, j)))
    ours, theirs = (set(_shingles(ids.long()).tolist()) for ids in spans)
    return len(ours & theirs) / len(ours | theirs)


def _shingles(ids: Tensor) -> Tensor:
    """Hash each run of SHINGLE tokens (…, T) to 64 bits, (…, T - SHINGLE + 1), none of fewer tokens."""
    runs = ids.unfold(-1, SHINGLE, 1) if ids.shape[-1] >= SHINGLE else ids.new_zeros(*ids.shape[:-1], 0, SHINGLE)
    hashes = torch.zeros_like(runs[..., 0])
    for token in runs.unbind(-1):
        hashes = _mixed(hashes + token + 1)
    return hashes


def _mixed(numbers: Tensor) -> Tensor:
    """Scramble 64-bit integers one to one: SplitMix64, products modulo 2^64."""
    numbers = numbers + MIX[0]
    for shift, factor in ((30, MIX[1]), (27, MIX[2]), (31, 1)):
        high = (numbers >> shift) & ((1 << (64 - shift)) - 1)  # torch shifts the sign in
        numbers = (numbers ^ high) * factor
    return numbers


def _codes_of_texts(texts: Texts) -> Tensor:
    """Return +-1 codes (N, BITS) / sqrt(BITS), whose products are the Jaccard similarities on average; 0 for too short.

    Each bit is that of the smallest hash of the text's shingles: equal with chance J + (1 - J) / 2.
    """
    codes: Tensor = torch.zeros(len(texts), BITS)
    factors = (_mixed(torch.arange(BITS)) | 1).int()
    for rows in in_turn(len(texts), BLOCK, texts.lengths):
        batch = texts.batch(rows)
        shingles = _shingles(batch["input_ids"])
        mask = batch["attention_mask"][:, SHINGLE - 1 :].bool()
        if not mask.shape[1]:
            continue
        # Repeating the first shingle in the place of padding leaves the smallest as it is.
        short = torch.where(mask, shingles, shingles[:, :1]).int()
        least = torch.stack([(short * factor).amin(1) for factor in factors], 1)  # (B, T) -> (B, BITS)
        bits: Tensor = _mixed(least.long() + torch.arange(BITS) * MIX[0]) & 1
        codes[rows] = (2 * bits - 1).float() * mask[:, :1] / BITS**0.5
    return codes
