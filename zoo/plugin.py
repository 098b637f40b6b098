"""The plugin API: everything a plugin author imports, besides `zoo.errors`.

A plugin builds an *uninitialised* module from a catalogue row and names its parts. Core does the rest: it downloads
and verifies the files, loads the weights with strict=True, preprocesses the inputs, adds a head and trains.

A distribution registers its plugin as an entry point, and ships its rows as `catalogue.toml` (or `catalogue.json`)
in the same top-level package, where core reads them without importing the plugin:

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
"""Version of the plugin API; a plugin declares the version it was written for as `api`."""
CHANGES: Mapping[int, str] = {}
"""Edits a plugin needs, by the API version that requires them; versions not listed are backward compatible."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a source: its path, and its expected SHA-256 and size (None: unknown before the first pull)."""

    path: str
    sha256: str | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Image preprocessing: resize the short side to size / crop, centre-crop, scale to [0, 1], normalise.

    `size` is in pixels (square), `mean` and `std` are per channel on the [0, 1] scale; their length is the number
    of input channels (1: grey, 3: RGB).
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
    """Text preprocessing: tokenizer files, maximum input length in tokens, and whether text pairs are supported."""

    files: tuple[str, ...]
    max_length: int
    pairs: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One catalogue row: the metadata of a backbone, available without downloading it.

    `dim` is the size of its pooled features, `params` the number of parameters without any head. `source` is where
    the files are (`hf://org/repo@rev`, `https://…`, `file://…`, `package://distribution/path`), None for an
    architecture without pretrained weights. `options` are plugin-specific. `catalogue` is the file that holds the row.
    Core sets `resolved`: the row that `Plugin.resolve` provided, which is kept when the backbone is pulled.
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
    resolved: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


class Features(NamedTuple):
    """Output of a backbone: pooled (N, D), and if the architecture has tokens, tokens (N, T, D) and mask (N, T)."""

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer of the `tokenizers` library and the ids of its special tokens.

    `pad` is the padding token, `mask` the one of masked language modelling, `end` the end-of-text token, `size` the
    number of token ids that the model knows (None: those of `fast`). Core truncates, pads (on the right) and aligns
    words; the truncation and padding settings of `fast` are ignored.
    """

    fast: tokenizers.Tokenizer
    pad: int
    mask: int | None = None
    end: int | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Classifier:
    """The linear classifier of the pretrained model: names of its K classes, weight (K, D) and bias (K,).

    A class may have several names ("tench", "Tinca tinca"). A new head whose labels are among them starts from it.
    """

    labels: tuple[tuple[str, ...], ...]
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Trained:
    """A fine-tuned network, as `Plugin.export` gets it.

    `state` is the state dict of `Backbone.module`, with its pretrained language-modelling head where the task keeps it.
    `labels` name the K outputs of the linear head, weight (K, D) and bias (K,); both are None for language models.
    `max_length` is the number of tokens to which texts are truncated.
    """

    task: str
    labels: tuple[str, ...]
    state: Mapping[str, Tensor]
    weight: Tensor | None = None
    bias: Tensor | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """A network in the format of another library: safetensors files by path, and its other files as texts by path.

    `opens` is the class of the library that opens the folder, such as AutoModelForTokenClassification; `pipeline` the
    task of a transformers pipeline that prepares inputs as zoo does, whose answers are checked too. `inputs` names the
    token tensors that the class takes.
    """

    weights: Mapping[str, Mapping[str, Tensor]]
    files: Mapping[str, str]
    opens: str = ""
    pipeline: str = ""
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backbone:
    """A module that maps preprocessed inputs to Features, and the names of its parts.

    `module` takes images (N, C, H, W) as float32, or a dict of input_ids, attention_mask and token_type_ids, each
    (N, T) int64 and padded on the right; it may ignore some of them. It returns Features. Several threads call it at
    the same time on a CPU, so that forward keeps nothing of a batch in the module.
    `stages` are ordered from input to output; each is a tuple of names of submodules or parameters (dotted, as in
    `named_parameters()`; a name includes everything below it). Together they cover every parameter exactly once:
    freezing, layer-wise learning rates and feature caching work in units of stages.
    `lora_targets` are the names of the linear layers that low-rank adapters are added to.
    Text backbones have a `tokenizer`. With `options["lm_head"]` true, which core sets for the language-modelling
    tasks, `lm_head` is the part of `module` that maps tokens (N, T, D) to logits (N, T, V); forward does not call it.
    `generate` continues prompts: (inputs, max new tokens, temperature) -> token ids (N, T + new), prompts included; it
    may take top_p, top_k and stopped (new ids (N, T) -> which are finished (N,) bool). Core generates what it cannot.
    If a model has two attention implementations, `attention("fused")` and `attention("plain")` switch between them;
    the default is "fused". Core uses the faster one on the current machine.
    """

    module: nn.Module
    dim: int
    input: ImageInput | TextInput
    stages: tuple[tuple[str, ...], ...]
    lora_targets: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None
    lm_head: nn.Module | None = None
    generate: Callable[..., Tensor] | None = None
    attention: Callable[[str], None] | None = None


class Repository(Protocol):
    """File listing of a source, as passed to `resolve`: the files by path; small ones can be fetched and read."""

    @property
    def files(self) -> Mapping[str, File]:
        """All files by path, with sizes, and the hashes of large files, if the source provides them."""
        ...

    def fetch(self, *paths: str) -> dict[str, Path]:
        """Download the given files and return their verified local copies by path."""
        ...


@runtime_checkable
class Plugin(Protocol):
    """Interface of a plugin. Subclass it: only `api` and `build` are required."""

    api: int

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the module of a row without its weights; `files` are its verified local files by path. No network.

        Core calls this inside `torch.device("meta")`, so the module's initialisation costs nothing. For random weights
        (`strategy="scratch"`) core calls it on the CPU, and training starts from the module's own initialisation.
        """
        ...

    def adapt(self, entry: Entry, state: dict[str, Tensor], files: Mapping[str, Path]) -> dict[str, Tensor]:
        """Convert the state dict of a checkpoint: rename keys to the module's, drop unused keys by name.

        The result is loaded with strict=True: a missing or unexpected key is an error, never a warning.
        """
        return state

    def resolve(self, name: str, look: Callable[[str], Repository]) -> Entry | None:
        """Return a row for a name that is not in the catalogue (without the plugin's prefix); None if it is unknown.

        `look("hf://org/repo")` lists a source; nothing else may open a connection. For a name that was pulled, it lists
        the pulled files without a connection, so the row may depend only on files that it lists.
        """
        return None

    def classifier(self, entry: Entry, state: Mapping[str, Tensor], files: Mapping[str, Path]) -> Classifier | None:
        """Return the linear classifier of a checkpoint (keys as in the file), or None if it has none."""
        return None

    def export(self, library: str, entry: Entry, trained: Trained, files: Mapping[str, Path]) -> Exported | None:
        """Return the network as a folder of "timm", "transformers" or "sentence-transformers" opens it.

        None if this plugin does not write that format. Raises ExportError for a network that the library's own classes
        cannot express; core adds tokenizer.json, and compares the answers of the library with those of the network.
        """
        return None
