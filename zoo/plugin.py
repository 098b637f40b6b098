"""The contract: all that the author of a plugin imports (with `zoo.errors`).

A plugin turns a catalogue row into an *empty* module and says how its parts are called. Core does the rest: it
downloads and verifies the files, loads the weights strictly, prepares the inputs, puts a head on top and trains.

A distribution announces its plugin by an entry point, and ships its rows as `catalogue.toml` (or `catalogue.json`)
in the same top-level package, where core reads them without importing anything:

    [project.entry-points."zoo.plugins"]
    acme = "acme_zoo:plugin"          # rows are named acme/…
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import tokenizers
    from torch import Tensor, nn

API = 1
"""The version of this contract; a plugin carries the one it was written for as `api`."""
CHANGES: Mapping[int, str] = {}
"""By version, what a plugin written for an earlier one has to change; a version that is not here takes it as it is."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a source: its path there, and what it must be (None: not known before the first pull)."""

    path: str
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ImageInput:
    """How core prepares an image: resize the short side to size / crop, cut the centre, scale to [0, 1], normalise.

    `size` is in pixels (square), `mean` and `std` are per channel on the [0, 1] scale; their length is the number
    of channels the net takes (1: grey, 3: RGB).
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop: float = 1.0

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)


@dataclass(frozen=True, slots=True)
class TextInput:
    """How core prepares a text: the tokenizer's files, the longest input in tokens, and whether pairs are known."""

    files: tuple[str, ...]
    max_length: int
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One catalogue row: everything known about a backbone before a byte of it is fetched.

    `dim` is the length of its pooled features, `params` the number of parameters without any head. `source` is
    where the files are (`hf://org/repo@rev`, `https://…`, `file://…`, `package://distribution/path`), None for an
    architecture without pretrained weights. `options` are the plugin's own. `catalogue` is the file of the row.
    """

    name: str
    plugin: str
    modality: str
    input: ImageInput | TextInput
    dim: int | None = None
    params: int | None = None
    source: str | None = None
    files: tuple[File, ...] = ()
    license: str | None = None
    pretrained_on: str | None = None
    tasks: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    catalogue: str = field(default="", compare=False)


class Features(NamedTuple):
    """What a backbone returns: pooled (N, D), and where the family has them tokens (N, T, D) with mask (N, T)."""

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How a text becomes numbers: a tokenizer of the `tokenizers` library, and the ids of special tokens.

    `pad` fills a batch up, `mask` hides a token from a masked language model, `end` closes a document. Core truncates,
    pads (on the right) and aligns words; what `fast` is set to do about that is ignored.
    """

    fast: tokenizers.Tokenizer
    pad: int
    mask: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Classifier:
    """The linear classifier a backbone was pretrained with: names of its K classes, weight (K, D) and bias (K,).

    A class may go by several names ("tench", "Tinca tinca"). It starts the head of users whose labels are among them.
    """

    labels: tuple[tuple[str, ...], ...]
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Backbone:
    """A module that maps prepared inputs to Features, and the names of its parts.

    `module` takes images (N, C, H, W) as float32, or a dict of input_ids, attention_mask and token_type_ids, each
    (N, T) int64 and padded on the right, of which it uses what it needs; it returns Features.
    `stages` go from input to output; each is a tuple of names of submodules or parameters (dotted, as in
    `named_parameters()`; a name stands for everything below it). Together they cover every parameter exactly once:
    freezing, layer-wise learning rates and caching are all told in stages.
    `lora_targets` are the names of the linear layers that low-rank adapters go on.
    Text has a `tokenizer`. With `options["lm_head"]` true, which core sets for the language-modelling tasks, `lm_head`
    is the part of `module` that maps tokens (N, T, D) to logits (N, T, V); forward does not call it. `generate` goes
    on with prompts: (inputs, most new tokens, temperature) -> token ids (N, T + new), prompts included.
    Where a net has two ways to compute attention, `attention("fused")` and `attention("plain")` switch between them;
    it comes as "fused". Core uses what is faster on the machine at hand.
    """

    module: nn.Module
    dim: int
    input: ImageInput | TextInput
    stages: tuple[tuple[str, ...], ...]
    lora_targets: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    lm_head: nn.Module | None = None
    generate: Callable[[Mapping[str, Tensor], int, float], Tensor] | None = None
    attention: Callable[[str], None] | None = None


class Repository(Protocol):
    """What a source holds, as `resolve` sees it: the files by path, of which small ones can be fetched and read."""

    @property
    def files(self) -> Mapping[str, File]:
        """What there is, by path; sizes, and hashes of large files, where the source tells."""
        ...

    def fetch(self, *paths: str) -> dict[str, Path]:
        """Return verified local copies of some of the files, by path."""
        ...


@runtime_checkable
class Plugin(Protocol):
    """What a plugin provides. Inherit from it: only `api` and `build` have to be written."""

    api: int

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the empty net of a row; `files` are its verified local files by path. No network, no weights.

        Core calls this inside `torch.device("meta")`, so a module's own initialisation costs nothing; for random
        weights (`strategy="scratch"`) core calls it without, and the module's own initialisation is what trains.
        """
        ...

    def adapt(self, entry: Entry, state: dict[str, Tensor], files: Mapping[str, Path]) -> dict[str, Tensor]:
        """Rename the keys of a weight file to the module's, and drop by name what the module does not have.

        The result is loaded strictly: a missing or an extra key is an error, never a warning.
        """
        return state

    def resolve(self, name: str, look: Callable[[str], Repository]) -> Entry | None:
        """Return a row for a name outside the catalogue (without the plugin's prefix), or None if it is unknown.

        `look("hf://org/repo")` shows what a source holds; nothing else may open a connection. A name that was pulled
        is looked at without one, so the row may depend on no files but those it lists.
        """
        return None

    def classifier(self, entry: Entry, state: Mapping[str, Tensor], files: Mapping[str, Path]) -> Classifier | None:
        """Return the linear classifier in a weight file (its keys as in the file), or None if there is none."""
        return None
