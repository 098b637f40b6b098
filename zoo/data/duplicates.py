"""Near-duplicate detection between the parts of a dataset: overlap of training and validation data inflates scores.

The search has two steps: candidates by the dot product of short codes, in blocks, then an exact comparison of these
candidates. Images are compared by the differences of neighbouring cells of a small thumbnail (as in dHash, but without
rounding them to bits), whole and cropped; texts by the Jaccard similarity of their shingles (Broder 1997, "On the
resemblance and containment of documents").
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.datasets import Inputs
from zoo.data.image_batches import Images
from zoo.data.texts import Texts

CANDIDATES = 4
"""Candidates per example that are compared exactly."""
RATIO_RANK, MAX_RATIO = 10, 0.5
"""Ratio test: the distance (1 - correlation) of a near-duplicate is at most MAX_RATIO times that of the RATIO_RANK-th
nearest image, because small images of similar objects (letters, shoes) are all close (cf. Lowe 2004, section 7.1). If
the training data holds RATIO_RANK copies of an image, only closer matches than these are found."""
BLOCK = 512
"""Examples, or pairs of examples, per block."""
MOST_HELD, KNOWN = 5_000, 1 << 15
"""Held-out examples that are searched, of more evenly spaced ones, so that the time is linear in the training data; and
training examples whose codes are in memory at once."""
SIDE, COARSE, FINE = 40, 8, 16
"""Cells per side: of the stored thumbnails, of the codes for the candidate search, and of the exact comparison."""
CANDIDATE_IMAGES, NEAR_IMAGES, NEAR_CROPS = 0.75, 0.97, 0.96
"""Minimum correlation of the codes of candidates, and of near-duplicates in the exact comparison: whole, and cropped.

Chosen on 289 photos of objects on white (tuxpaint-stamps), each searched for in a modified version. Recall: 64 px, 10 %
darker, more contrast, mirrored 100 %; halved, JPEG at quality 50 99.3 %; cropped by 5 % 99.7 %, also mirrored 99.0 %;
10 % brighter 96.2 %; cropped, halved and JPEG 91.7 %; grey 61.9 %; cropped by 10 % 8.7 %. Of the 41,616 pairs of photos
four are reported, all mirrored; of 600 digits of 28 px four have a like one (31 at .9, without SOFT). The 64 bits of
dHash or pHash alone find 43 % or 69 % of the crops.
"""
SOFT = 20
"""Cells per side of a thumbnail that is as blurred as a small copy: one of two images is blurred to compare them whole.

Then 99 % of copies of half the size of 28 px digits correlate by at least .975 with the original, and 0.8 % of other
digits by .97; unblurred .876, which 13 % of the others reach.
"""
CROP = 38
"""Cells per side of the nine crops in the exact comparison: 5 % smaller, so that cropped copies are found."""
CONTRAST = 1.0
"""Root mean square difference of neighbouring cells, in grey levels, below which an image is treated as blank."""
SHINGLE = 5
"""Tokens per shingle (n-gram)."""
TOKENS = 1 << 17
"""Tokens, or words, of the texts that are hashed at a time."""
BITS = 256
"""Bits in the code of a text: b-bit MinHash with b = 1 (Li and König 2010, arXiv 0910.3349)."""
CANDIDATE_TEXTS, NEAR_TEXTS, CONTAINED = 0.5, 0.8, 0.95
"""Minimum Jaccard similarity of candidates, estimated to about 0.04, and of near-duplicates, exact; or the share of the
shorter text that is in the longer one, as where a line was added to a short mail."""
MAX_CHARACTERS = 100_000_000
"""Characters up to which whole texts are compared, and not the tokens that a network reads."""
AnyInputs = TypeVar("AnyInputs", Images, Texts)
SPLITMIX = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""Odd 64-bit multipliers of SplitMix64 (Steele, Lea and Flood 2014)."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Held-out indices with a near-duplicate, one training index for each, and the number of exact copies.

    All held-out examples were compared for exact copies, and `searched` of the others for near-duplicates.
    """

    held: tuple[int, ...]
    train: tuple[int, ...]
    exact: int
    searched: int = field(default=0, compare=False)


def near(train: Inputs, valid: Inputs) -> Duplicates:
    """Find the held-out examples (of validation or test data) with an exact or near-duplicate in the training data.

    Near-duplicates of at most MOST_HELD examples are searched; memory is that of KNOWN training examples.
    """
    if not len(train) or not len(valid):
        return Duplicates((), (), 0)
    same = _exact_copies(train, valid, *(_keys(inputs) for inputs in (train, valid)))
    rest = [i for i in range(len(valid)) if i not in same]
    rest = rest[:: -(-len(rest) // MOST_HELD)] if rest else []
    if not rest:
        others = {}
    elif isinstance(train, Images) and isinstance(valid, Images):
        others = _near_images(train, valid.at(rest))
    else:
        assert isinstance(train, Texts)
        assert isinstance(valid, Texts)
        others = _near_texts(train, valid.at(rest))
    found = same | {rest[i]: j for i, j in others.items()}
    places = sorted(found)
    return Duplicates(tuple(places), tuple(found[i] for i in places), len(same), len(rest))


def _keys(inputs: Inputs) -> list[Hashable]:
    """Return a hash of each thumbnail, or the length of each text: equal for identical examples."""
    if isinstance(inputs, Texts):
        return [*inputs.lengths.tolist()]
    return [hash(thumb.numpy().tobytes()) for part in _parts(inputs) for thumb in _thumbnails(part)]


def _parts(inputs: AnyInputs) -> Iterator[AnyInputs]:
    """Yield the examples in parts of at most KNOWN."""
    for start in range(0, len(inputs), KNOWN):
        yield inputs.at(range(start, min(start + KNOWN, len(inputs))))


def within(inputs: Inputs) -> list[tuple[int, int]]:
    """Return pairs (i, j), j < i, of near-duplicates inside one set of examples: each later one with its best earlier.

    Exact copies are pairs of the first with each of the others.
    """
    count = len(inputs)
    if count < 2:
        return []
    same = _copies_of_earlier(inputs, _keys(inputs))
    if isinstance(inputs, Images):
        others = _near_images(inputs, inputs, earlier=True)
    else:
        others = _near_texts(inputs, inputs, earlier=True)
    return sorted((others | same).items())


def comparable(parts: Sequence[tuple[Inputs, Sequence[Any]]]) -> list[Inputs]:
    """Return what to compare of prepared inputs and the items they were made of: images, and the words of whole texts.

    A network may read the first and last tokens of a text only, which differ where a line was cut. Very much text is
    compared by its tokens.
    """
    if any(isinstance(inputs, Images) for inputs, _ in parts):
        return [inputs for inputs, _ in parts]
    texts = [[item if isinstance(item, str) else " ".join(map(str, item)) for item in items] for _, items in parts]
    if sum(len(text) for part in texts for text in part) > MAX_CHARACTERS:
        return [inputs for inputs, _ in parts]
    return [_words(part) for part in texts]


def _words(texts: Sequence[str]) -> Texts:
    """Return texts with a number for each word, the CRC-32 of its lower case, in the place of tokens."""
    numbers = [[zlib.crc32(word.encode()) for word in text.lower().split()] for text in texts]
    ids = torch.tensor([number for row in numbers for number in row], dtype=torch.long)
    begins = torch.tensor([0, *itertools.accumulate(map(len, numbers))])
    return Texts(ids, torch.zeros_like(ids), torch.zeros_like(ids), begins, torch.arange(len(texts)), pad=0)


def blank(images: Images) -> list[int]:
    """Return the indices of images of one colour: the standard deviation of their thumbnail is below CONTRAST."""
    if not len(images):
        return []
    return (_thumbnails(images).float().flatten(1).std(1) < CONTRAST).nonzero()[:, 0].tolist()


def _copies_of_earlier(inputs: Inputs, keys: Sequence[Hashable]) -> dict[int, int]:
    """Map each index that has an exact copy before it to the first one; identical examples have equal `keys`."""
    seen: set[Hashable] = set()
    twice = {key for key in keys if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
    first: dict[bytes, int] = {}
    found: dict[int, int] = {}
    for i, key in enumerate(keys):
        if key in twice and (earlier := first.setdefault(_digest(inputs, i), i)) != i:
            found[i] = earlier
    return found


def _exact_copies(train: Inputs, valid: Inputs, theirs: Sequence[Hashable], ours: Sequence[Hashable]) -> dict[int, int]:
    """Map each validation index with an exact copy in `train` to the first one; `theirs` and `ours` are keys of both.

    Identical examples have equal keys; only examples with a common key are hashed.
    """
    common = set(theirs) & set(ours)
    first: dict[bytes, int] = {}
    for j, key in enumerate(theirs):
        if key in common:
            first.setdefault(_digest(train, j), j)
    partners = {i: first.get(_digest(valid, i)) for i, key in enumerate(ours) if key in common}
    return {i: j for i, j in partners.items() if j is not None}


def _digest(inputs: Inputs, index: int) -> bytes:
    """Return the SHA-256 digest of an image's shape and pixels, or of a text's tokens."""
    row = int(inputs.rows[index])
    content = inputs.pixels[row] if isinstance(inputs, Images) else inputs.ids[_span(inputs, row)]
    return hashlib.sha256(repr(tuple(content.shape)).encode() + content.numpy().tobytes()).digest()


def _candidates(valid: Tensor, parts: Iterable[Tensor], least: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return candidate pairs (P,), (P,): for each code of `valid` the top CANDIDATES of all `parts` of training codes.

    Their product is at least `least`. The third tensor (P,) is the product with the RATIO_RANK-th nearest code for the
    ratio test, -1 with fewer codes.
    """
    best: list[tuple[Tensor, Tensor]] = []
    offset = 0
    for train in parts:
        for number, ours in enumerate(valid.split(BLOCK)):
            # (B, D) @ (D, M) -> (B, M)
            products, places = (ours @ train.T).topk(min(RATIO_RANK, len(train)), 1)
            if not offset:
                best.append((products, places))
                continue
            before, where = best[number]
            products, order = torch.cat([before, products], 1).topk(min(RATIO_RANK, offset + len(train)), 1)
            best[number] = products, torch.cat([where, places + offset], 1).gather(1, order)
        offset += len(train)
    products, places = (torch.cat(each) for each in zip(*best, strict=True))
    row, rank = (products[:, :CANDIDATES] >= least).nonzero().unbind(1)
    reference = products[row, -1] if offset >= RATIO_RANK else torch.full(row.shape, -1.0)
    return row, places[row, rank], reference


def _best_partners(rows: Tensor, partners: Tensor, scores: Tensor, near: Tensor) -> dict[int, int]:
    """Map each row (P,) to its highest-scoring partner among the pairs with `near` (P,); ties go to the first."""
    order = scores.argsort(stable=True, descending=True)
    order = order[near[order]]
    found: dict[int, int] = {}
    for i, j in zip(rows[order].tolist(), partners[order].tolist(), strict=True):
        found.setdefault(i, j)
    return found


def _near_images(train: Images, valid: Images, *, earlier: bool = False) -> dict[int, int]:
    """Map the index of each validation image to its near-duplicate in `train`, mirrored or not, if it has one.

    With `earlier`, both are the same images, and a partner comes before.
    """
    ours = _thumbnails(valid)
    turned = torch.cat([ours, ours.flip(-1)])
    known = (_codes_of_images(_thumbnails(part)) for part in _parts(train))
    rows, partners, references = _candidates(_codes_of_images(turned), known, CANDIDATE_IMAGES)
    scores = torch.zeros(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        theirs = _thumbnails(train.at(partners[part].tolist()))
        scores[part] = _similarity(turned[rows[part]].float(), theirs.float())
    rows = rows % len(valid)
    near = (scores >= NEAR_IMAGES) & (1 - scores <= MAX_RATIO * (1 - references))
    return _best_partners(rows, partners, scores, near & (partners < rows) if earlier else near)


def _thumbnails(images: Images) -> Tensor:
    """Resize images to (N, C, SIDE, SIDE) uint8."""
    return torch.cat([_shrink(images.pixels[row][None], SIDE) for row in images.rows.tolist()])


def _shrink(images: Tensor, side: int) -> Tensor:
    small: Tensor = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return small


def _codes_of_images(thumbs: Tensor) -> Tensor:
    return torch.cat([_edges(_shrink(block.float(), COARSE)) for block in thumbs.split(BLOCK)])


def _edges(cells: Tensor) -> Tensor:
    """Return differences of neighbouring cells (N, C, S, S) as unit vectors (N, D), shorter for nearly blank images."""
    edges = torch.cat([cells.diff(dim=-1).flatten(1), cells.diff(dim=-2).flatten(1)], 1)
    lengths: Tensor = edges.norm(dim=1, keepdim=True)
    return edges / lengths.clamp(min=CONTRAST * edges.shape[1] ** 0.5)


def _similarity(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the largest correlation (P,) of pairs of thumbnails: whole, one of them blurred, or one of them cropped.

    That of crops counts more by NEAR_IMAGES - NEAR_CROPS, as they do not fit exactly.
    """
    whole = _windows((0,), SIDE)
    crops = _windows((0, (SIDE - CROP) // 2, SIDE - CROP), CROP)
    our, their = _window_edges(ours, whole), _window_edges(theirs, whole)  # (P, 1, D) each
    our_soft, their_soft = _window_edges(_soft(ours), whole), _window_edges(_soft(theirs), whole)
    equal = [our * their, our * their_soft, our_soft * their]
    cropped = [our * _window_edges(theirs, crops), _window_edges(ours, crops) * their]
    best, of_crops = (torch.cat([product.sum(2) for product in each], 1).amax(1) for each in (equal, cropped))
    return torch.maximum(best, of_crops + (NEAR_IMAGES - NEAR_CROPS)).clamp(max=1.0)


def _soft(thumbs: Tensor) -> Tensor:
    """Return thumbnails as blurred as those of images of SOFT pixels."""
    small: Tensor = F.interpolate(_shrink(thumbs, SOFT), (SIDE, SIDE), mode="bilinear")
    return small


def _windows(starts: Sequence[int], length: int) -> Tensor:
    """Return interpolation weights (W, FINE, SIDE) that resize `length` cells from each start, as `_shrink` does."""
    weights = F.interpolate(torch.eye(length)[None, None], (FINE, length), mode="bilinear", antialias=True)[0, 0]
    return torch.stack([F.pad(weights, (start, SIDE - length - start)) for start in starts])


def _window_edges(thumbs: Tensor, windows: Tensor) -> Tensor:
    """Return the edge vectors (P, W * W, D) of every window of thumbnails (P, C, SIDE, SIDE)."""
    cells = torch.einsum("yih,pchw,xjw->pyxcij", windows, thumbs, windows)
    edges: Tensor = _edges(cells.flatten(0, 2)).unflatten(0, (len(thumbs), len(windows) ** 2))
    return edges


def _near_texts(train: Texts, valid: Texts, *, earlier: bool = False) -> dict[int, int]:
    """Map the index of each text of `valid` to its near-duplicate in `train`, if it has one and any shingle.

    With `earlier`, both are the same texts, and a partner comes before.
    """
    known = (_codes_of_texts(part) for part in _parts(train))
    rows, partners, _ = _candidates(_codes_of_texts(valid), known, CANDIDATE_TEXTS)
    if earlier:
        rows, partners = rows[before := partners < rows], partners[before]
    pairs = zip(rows.tolist(), partners.tolist(), strict=True)
    overlaps = [_overlap(valid, i, train, j) for i, j in pairs]
    scores = torch.tensor([jaccard for jaccard, _ in overlaps])
    near = torch.tensor([jaccard >= NEAR_TEXTS or contained >= CONTAINED for jaccard, contained in overlaps])
    return _best_partners(rows, partners, scores, near.bool())


def _span(texts: Texts, row: int) -> slice:
    return slice(int(texts.begins[row]), int(texts.begins[row + 1]))


def _overlap(valid: Texts, i: int, train: Texts, j: int) -> tuple[float, float]:
    """Return the Jaccard similarity of the shingle sets of two texts, and the share of the smaller that both have."""
    spans = (texts.ids[_span(texts, int(texts.rows[k]))] for texts, k in ((valid, i), (train, j)))
    ours, theirs = (set(_shingles(ids.long()).tolist()) for ids in spans)
    shared = len(ours & theirs)
    return shared / len(ours | theirs), shared / min(len(ours), len(theirs))


def _shingles(ids: Tensor) -> Tensor:
    """Hash each shingle of tokens (…, T) to 64 bits, (…, T - SHINGLE + 1); (…, 0) for fewer tokens than a shingle."""
    runs = ids.unfold(-1, SHINGLE, 1) if ids.shape[-1] >= SHINGLE else ids.new_zeros(*ids.shape[:-1], 0, SHINGLE)
    hashes = torch.zeros_like(runs[..., 0])
    for token in runs.unbind(-1):
        hashes = _splitmix64(hashes + token + 1)
    return hashes


def _splitmix64(numbers: Tensor) -> Tensor:
    """Hash 64-bit integers by SplitMix64 (a bijection, products modulo 2^64)."""
    numbers = numbers + SPLITMIX[0]
    for shift, factor in ((30, SPLITMIX[1]), (27, SPLITMIX[2]), (31, 1)):
        high = (numbers >> shift) & ((1 << (64 - shift)) - 1)  # logical shift: >> extends the sign
        numbers = (numbers ^ high) * factor
    return numbers


def _blocks(lengths: Tensor) -> Iterator[Tensor]:
    """Yield the indices of texts (N,) of about the same length, at most BLOCK texts and TOKENS tokens with padding."""
    order = lengths.argsort(stable=True)
    start = 0
    while start < len(order):
        longest = int(lengths[order[min(start + BLOCK, len(order)) - 1]])
        stop = start + max(1, min(BLOCK, TOKENS // max(1, longest)))
        yield order[start:stop]
        start = stop


def _codes_of_texts(texts: Texts) -> Tensor:
    """Return +-1 codes (N, BITS) / sqrt(BITS) whose dot products estimate Jaccard similarity; 0 for texts too short.

    Each bit is one bit of a MinHash of the shingles: two texts agree in it with probability J + (1 - J) / 2.
    """
    codes: Tensor = torch.zeros(len(texts), BITS)
    factors = (_splitmix64(torch.arange(BITS)) | 1).int()
    for rows in _blocks(texts.lengths):
        batch = texts.batch(rows)
        shingles = _shingles(batch["input_ids"])
        mask = batch["attention_mask"][:, SHINGLE - 1 :].bool()
        if not mask.shape[1]:
            continue
        # Replacing padding by the first shingle does not change the minimum.
        short = torch.where(mask, shingles, shingles[:, :1]).int()
        least = torch.stack([(short * factor).amin(1) for factor in factors], 1)  # (B, T) -> (B, BITS)
        bits: Tensor = _splitmix64(least.long() + torch.arange(BITS) * SPLITMIX[0]) & 1
        codes[rows] = (2 * bits - 1).float() * mask[:, :1] / BITS**0.5
    return codes
