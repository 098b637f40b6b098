"""Image preprocessing and tokenizers from the files of a repository."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import PluginError
from zoo.plugin import ImageInput, Tokenizer
from zoo_hf import configs

VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
"""Vocabulary files, one of which is required."""
TOKENIZER = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""All files used by tokenizers."""
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""PIL resampling filter in preprocessor_config.json -> interpolation."""
CONVNEXT_NO_CROP = 384
"""Size in pixels from which ConvNextImageProcessor resizes without cropping."""


def preprocessor(name: str, config: Any, values: Mapping[str, Any]) -> Any:
    """Return the transformers image processor of a preprocessor_config.json, which adds the defaults of its family."""
    from transformers.models.auto import image_processing_auto as auto

    said = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "")
    said = said.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    kind = auto.get_image_processor_class_from_name(said) if said else None
    if kind is None:
        names = vars(auto)["IMAGE_PROCESSOR_MAPPING_NAMES"]
        family = config.model_type.removesuffix("_vision_model").removesuffix("_with_registers")
        kind = auto.get_image_processor_class_from_name(names.get(family, names["vit"])["torchvision"])
    try:
        return kind.from_dict(dict(values))
    except Exception as error:  # families validate differently
        raise PluginError(f"{name}: preprocessor_config.json is invalid: {error}", fix=configs.ANOTHER) from error


def image_input(name: str, config: Any, values: Mapping[str, Any]) -> ImageInput:
    """Return the image preprocessing: preprocessor_config.json, else family defaults at the image size of the model."""
    native = _side(getattr(config, "image_size", None))
    if native and not values.get("size"):
        values = {"crop_size": native, **values, "size": native}
    image_processor = preprocessor(name, config, values)
    size, crop = _size_and_crop(image_processor)
    mean, std = _scale(image_processor, int(getattr(config, "num_channels", 3) or 3))
    return ImageInput(size, mean, std, RESAMPLE.get(image_processor.resample, "bilinear"), crop)


def is_blue_first(image_processor: Any) -> bool:
    """Return whether an image processor converts RGB to BGR."""
    return (
        bool(getattr(image_processor, "do_flip_channel_order", False))
        or type(image_processor).__name__ == "PPLCNetImageProcessor"
    )


def _size_and_crop(image_processor: Any) -> tuple[int, float]:
    """Return the image size in pixels and the crop ratio: size / resized short side."""
    kind, short = type(image_processor).__name__, _side(image_processor.size) or 224
    size = (_side(image_processor.crop_size) if image_processor.do_center_crop else None) or short
    if kind == "ConvNextImageProcessor":
        return short, 1.0 if short >= CONVNEXT_NO_CROP else float(image_processor.crop_pct)
    if kind == "PoolFormerImageProcessor" and image_processor.crop_pct:
        short = int(short / image_processor.crop_pct)
    elif kind == "LevitImageProcessor":
        short = int(short * 256 / 224)
    elif kind == "PPLCNetImageProcessor":
        short = image_processor.resize_short
    return size, min(1.0, size / short)


def _scale(image_processor: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for x in [0, 1] such that (x - mean) / std equals the output of an image processor."""
    mean = _channels(image_processor.image_mean if image_processor.do_normalize else 0.0, channels)
    std = _channels(image_processor.image_std if image_processor.do_normalize else 1.0, channels)
    factor = 255.0 * (image_processor.rescale_factor if image_processor.do_rescale else 1.0)
    shift = 1.0 if getattr(image_processor, "rescale_offset", False) else 0.0
    again = _channels(
        image_processor.image_std if getattr(image_processor, "include_top", False) else 1.0, channels
    )  # EfficientNet divides by std twice
    # ((x factor - shift) - mean) / std / again
    means = tuple((m + shift) / factor for m in mean)
    return means, tuple(s * t / factor for s, t in zip(std, again, strict=True))


def _side(size: Any) -> int | None:
    """Return one side of a size given as a number, a pair or a SizeDict."""
    if size is not None and not isinstance(size, int | list | tuple):
        size = size.shortest_edge or size.height or size.longest_edge
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
    fast = Fast.from_file(str(files["tokenizer.json"])) if "tokenizer.json" in files else _converted(name, files)
    tokens = _default_tokens(files)
    for path in ("special_tokens_map.json", "tokenizer_config.json"):
        tokens |= _tokens(files.get(path))
    found = {role: fast.token_to_id(token) for role, token in tokens.items()}
    numbers = {role: number for role, number in found.items() if number is not None and number < words}
    end = numbers.get("eos_token", numbers.get("sep_token"))
    candidates = (numbers.get("pad_token"), end, numbers.get("unk_token"), 0)
    pad = next(number for number in candidates if number is not None)  # any id works: padding is masked
    return Tokenizer(fast, pad, numbers.get("mask_token"), end)


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
    image_processor = getattr(auto.tokenizer_class_from_name(name), "__init__", None) if name else None
    signature_parameters = inspect.signature(image_processor).parameters if image_processor else {}
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
    """Convert a slow tokenizer to a fast one by transformers, in a folder with the original file names."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for path in (*TOKENIZER, "config.json"):
            if path in files:
                Path(folder, path).symlink_to(files[path].absolute())
        try:
            image_processor = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, TypeError) as error:
            what = f"{name}: cannot load the tokenizer: {str(error).splitlines()[0] if str(error) else error!r}"
            raise PluginError(what, fix="choose a repository with tokenizer.json") from error
    fast = getattr(image_processor, "backend_tokenizer", None)
    if fast is None or fast.get_vocab_size() <= len(fast.get_added_tokens_decoder()):
        what = f"{name}: the tokenizer {'has no fast version' if fast is None else 'has an empty vocabulary'}"
        raise PluginError(what, fix="choose a repository with tokenizer.json")
    return fast
