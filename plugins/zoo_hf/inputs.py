"""Image preprocessing and tokenizers from the files of a repository."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from zoo.errors import PluginError
from zoo.plugin import ImageInput, Tokenizer
from zoo_hf import allowed, configs

VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
"""Vocabulary files, one of which is required."""
TOKENIZER = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""All files used by tokenizers."""
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL resampling filter in preprocessor_config.json -> interpolation."""
FIELDS = (
    *("size", "crop_size", "do_center_crop", "crop_pct", "resize_short", "resample", "do_rescale", "rescale_factor"),
    *("rescale_offset", "do_normalize", "image_mean", "image_std", "include_top"),
)
"""Fields of an image processor that an ImageInput depends on."""
MAX_GROWTH = 1_000.0
"""Maximum factor by which the replacements in tokenizer.json may lengthen a text."""
CONVNEXT_NO_CROP = 384
"""Size in pixels from which ConvNextImageProcessor resizes without cropping."""


def preprocessor(name: str, config: Any, values: Mapping[str, Any]) -> Any:
    """Return the transformers image processor of a preprocessor_config.json, which adds the defaults of its family."""
    from transformers.models.auto import image_processing_auto as auto

    said = processor_name(values)
    kind = auto.get_image_processor_class_from_name(said) if said else None
    if kind is None:
        names = vars(auto)["IMAGE_PROCESSOR_MAPPING_NAMES"]
        family = config.model_type.removesuffix("_vision_model").removesuffix("_with_registers")
        kind = auto.get_image_processor_class_from_name(names.get(family, names["vit"])["torchvision"])
    try:
        return kind.from_dict(dict(values))
    except Exception as error:  # families validate differently
        raise PluginError(f"{name}: preprocessor_config.json is invalid: {error}", fix=configs.ANOTHER) from error


@dataclass(frozen=True, slots=True)
class Processor:
    """Class name and FIELDS of an image processor."""

    kind: str
    fields: Mapping[str, Any]


def processor_name(values: Mapping[str, Any]) -> str:
    """Return the class name of the image processor in a preprocessor_config.json, "" if it has none."""
    said = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    return said.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")


def processor(name: str, config: Any, values: Mapping[str, Any]) -> Processor:
    """Return class name and fields of an image processor according to transformers."""
    made = preprocessor(name, config, values)
    return Processor(type(made).__name__, {field: getattr(made, field, None) for field in FIELDS})


def with_size(image_size: int | None, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a preprocessor_config.json with the image size of the model unless it has a size."""
    if not image_size or values.get("size"):
        return values
    return {"crop_size": image_size, **values, "size": image_size}


def image_input(processor: Processor, channels: int) -> ImageInput:
    """Return the image preprocessing of an image processor."""
    size, crop = _size_and_crop(processor.kind, processor.fields)
    mean, std = _scale(processor.fields, channels)
    return ImageInput(size, mean, std, RESAMPLE.get(processor.fields["resample"], "bilinear"), crop)


def is_blue_first(image_processor: Any) -> bool:
    """Return whether an image processor converts RGB to BGR."""
    return (
        bool(getattr(image_processor, "do_flip_channel_order", False))
        or type(image_processor).__name__ == "PPLCNetImageProcessor"
    )


def _size_and_crop(kind: str, fields: Mapping[str, Any]) -> tuple[int, float]:
    """Return the image size in pixels and the crop ratio: size / resized short side."""
    short = side(fields["size"]) or 224
    size = (side(fields["crop_size"]) if fields["do_center_crop"] else None) or short
    if kind == "ConvNextImageProcessor":
        return short, 1.0 if short >= CONVNEXT_NO_CROP else float(fields["crop_pct"])
    if kind == "PoolFormerImageProcessor" and fields["crop_pct"]:
        short = int(short / fields["crop_pct"])
    elif kind == "LevitImageProcessor":
        short = int(short * 256 / 224)
    elif kind == "PPLCNetImageProcessor":
        short = fields["resize_short"]
    return size, min(1.0, size / short)


def _scale(fields: Mapping[str, Any], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for x in [0, 1] such that (x - mean) / std equals the output of an image processor."""
    mean = _channels(fields["image_mean"] if fields["do_normalize"] else 0.0, channels)
    std = _channels(fields["image_std"] if fields["do_normalize"] else 1.0, channels)
    factor = 255.0 * (fields["rescale_factor"] if fields["do_rescale"] else 1.0)
    shift = 1.0 if fields["rescale_offset"] else 0.0
    again = _channels(fields["image_std"] if fields["include_top"] else 1.0, channels)  # EfficientNet: std twice
    # ((x factor - shift) - mean) / std / again
    means = tuple((m + shift) / factor for m in mean)
    return means, tuple(s * t / factor for s, t in zip(std, again, strict=True))


def side(size: Any) -> int | None:
    """Return one side of a size given as a number, a pair, a dict or a SizeDict."""
    if size is not None and not isinstance(size, int | list | tuple):
        size = size.get("shortest_edge") or size.get("height") or size.get("longest_edge")
    if isinstance(size, list | tuple):
        size = size[0] if size else None
    return int(size) if size else None


def _channels(values: Any, channels: int) -> tuple[float, ...]:
    given = (float(values),) if isinstance(values, int | float) else tuple(map(float, values))
    return given if len(given) == channels else given[:1] * channels


def tokenizer(name: str, files: Mapping[str, Path], words: int) -> Tokenizer:
    """Return the tokenizer of a repository and its special token ids below `words`, the vocabulary size of the model.

    Raises PluginError if its files are not a tokenizer.
    """
    from tokenizers import Tokenizer as Fast

    check_vocabulary(name, files)
    if "tokenizer.json" in files:
        with _library_errors(f"{name}: tokenizer.json is no tokenizer", "another tokenizer.json"):
            fast = Fast.from_file(str(files["tokenizer.json"]))
    else:
        fast = _converted(name, files)
    _check_growth(name, fast)
    tokens = special_tokens(files)
    found = {role: fast.token_to_id(token) for role, token in tokens.items()}
    numbers = {role: number for role, number in found.items() if number is not None and number < words}
    end = numbers.get("eos_token", numbers.get("sep_token"))
    candidates = (numbers.get("pad_token"), end, numbers.get("unk_token"), 0)
    pad = next(number for number in candidates if number is not None)  # any id works: padding is masked
    return Tokenizer(fast, pad, numbers.get("mask_token"), end, words)


def special_tokens(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the special tokens of a repository by role, such as pad_token."""
    tokens = _default_tokens(files)
    for path in ("special_tokens_map.json", "tokenizer_config.json"):
        tokens |= _tokens(files.get(path))
    return tokens


@contextmanager
def _library_errors(what: str, wanted: str) -> Iterator[None]:
    """Raise PluginError for an error of a library in the block, or for a panic of Rust, which is no Exception."""
    try:
        yield
    except PluginError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = str(error).partition("\n")[0] or repr(error)
        raise PluginError(f"{what}: {said}", fix=f"choose a repository with {wanted}") from error


def _is_setting(key: str, value: Any) -> bool:
    """Return whether a value of tokenizer_config.json is about tokens: their texts, numbers, switches or words."""
    if key == "init_inputs" or key.endswith("_file"):
        return False
    return allowed.is_plain(value) or ("token" in key and not key.endswith("_config"))


def _check_growth(name: str, fast: Any) -> None:
    """Raise PluginError for a normalizer that makes a text more than MAX_GROWTH times as long."""
    state = json.loads(fast.normalizer.__getstate__()) if fast.normalizer is not None else {}
    growth = prod(_lengths(state))
    if growth > MAX_GROWTH:
        what = f"{name}: the replacements in tokenizer.json make a text up to {growth:.0e} times as long"
        raise PluginError(what, fix="choose a repository with another tokenizer.json")


def _lengths(state: Any) -> Iterator[float]:
    """Yield how many times as long each replacement of a normalizer makes a text."""
    if isinstance(state, list):
        for item in state:
            yield from _lengths(item)
    elif isinstance(state, dict):
        yield float(max(1, *(len(state.get(key) or "") + (key == "prepend") for key in ("content", "prepend"))))
        yield from _lengths(state.get("normalizers"))


def check_vocabulary(name: str, files: Collection[str]) -> None:
    """Raise PluginError if no vocabulary is among the paths: transformers would create an empty tokenizer."""
    if not any(path in files for path in VOCABULARIES):
        what = f"{name} has no tokenizer: none of {', '.join(VOCABULARIES)}"
        raise PluginError(what, fix="choose a repository with tokenizer.json")


def _default_tokens(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the default special tokens of a tokenizer class, by role, for files that list none (BERT, GPT-2)."""
    from transformers.models.auto import tokenization_auto as auto

    family = configs.read(files.get("config.json")).get("model_type")
    said = configs.read(files.get("tokenizer_config.json")).get("tokenizer_class")
    name = str(said or auto.TOKENIZER_MAPPING_NAMES.get(str(family)) or "").removesuffix("Fast")
    init = getattr(auto.tokenizer_class_from_name(name), "__init__", None) if name else None
    signature_parameters = inspect.signature(init).parameters if init else {}
    return _special_tokens({role: parameter.default for role, parameter in signature_parameters.items()})


def _tokens(path: Path | None) -> dict[str, str]:
    """Return the special tokens in a file, by role; a token is a string or an object with "content"."""
    found = configs.read(path)
    return _special_tokens(
        {role: token.get("content") if isinstance(token, dict) else token for role, token in found.items()}
    )


def _special_tokens(roles: Mapping[str, Any]) -> dict[str, str]:
    return {role: token for role, token in roles.items() if role.endswith("_token") and isinstance(token, str)}


def _converted(name: str, files: Mapping[str, Path]) -> Any:
    """Convert a slow tokenizer to a fast one by transformers, in a folder with the original file names.

    Of the JSON files it gets what tokenizers depend on: no paths, no code and no hyperparameters of the network.
    """
    from transformers import AutoTokenizer

    settings = configs.read(files.get("tokenizer_config.json"))
    known = {
        "tokenizer_config.json": {key: value for key, value in settings.items() if _is_setting(key, value)},
        "config.json": {"model_type": configs.read(files.get("config.json")).get("model_type")},
    }
    with tempfile.TemporaryDirectory() as folder:
        for path in (*TOKENIZER, "config.json"):
            if path in known and path in files:
                Path(folder, path).write_text(json.dumps(known[path]), encoding="utf-8")
            elif path in files:
                Path(folder, path).symlink_to(files[path].absolute())
        with _library_errors(f"{name}: cannot load the tokenizer", "tokenizer.json"):
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    fast = getattr(found, "backend_tokenizer", None)
    if fast is None or fast.get_vocab_size() <= len(fast.get_added_tokens_decoder()):
        what = f"{name}: the tokenizer {'has no fast version' if fast is None else 'has an empty vocabulary'}"
        raise PluginError(what, fix="choose a repository with tokenizer.json")
    return fast
