"""How images and texts are prepared, by the files of a repository."""

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
"""Files of which a tokenizer needs one."""
TOKENIZER = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files a tokenizer may be made of."""
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers for interpolation, as preprocessor_config.json writes them."""
UNCROPPED = 384
"""Pixels from which on a preprocessor of ConvNeXt resizes to the whole picture instead of cropping it."""


def preprocessor(name: str, config: Any, values: Mapping[str, Any]) -> Any:
    """Return transformers' preprocessor that preprocessor_config.json means: it knows what the file does not say."""
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
    except Exception as error:  # each family checks in its own way
        raise PluginError(f"{name}: its preprocessor_config.json: {error}", fix=configs.ANOTHER) from error


def image_input(name: str, config: Any, values: Mapping[str, Any]) -> ImageInput:
    """Return how core prepares an image: by preprocessor_config.json, else as its family does at the net's size."""
    native = _side(getattr(config, "image_size", None))
    if native and not values.get("size"):
        values = {"crop_size": native, **values, "size": native}
    made = preprocessor(name, config, values)
    size, crop = _size_and_crop(made)
    mean, std = _scale(made, int(getattr(config, "num_channels", 3) or 3))
    return ImageInput(size, mean, std, RESAMPLE.get(made.resample, "bilinear"), crop)


def is_blue_first(made: Any) -> bool:
    """Tell whether a preprocessor puts the channels of an image in the order blue, green, red."""
    return bool(getattr(made, "do_flip_channel_order", False)) or type(made).__name__ == "PPLCNetImageProcessor"


def _size_and_crop(made: Any) -> tuple[int, float]:
    """Return the side of an image in pixels, and its part of the short side of what it is cut out of."""
    kind, short = type(made).__name__, _side(made.size) or 224
    size = (_side(made.crop_size) if made.do_center_crop else None) or short
    if kind == "ConvNextImageProcessor":
        return short, 1.0 if short >= UNCROPPED else float(made.crop_pct)
    if kind == "PoolFormerImageProcessor" and made.crop_pct:
        short = int(short / made.crop_pct)
    elif kind == "LevitImageProcessor":
        short = int(short * 256 / 224)
    elif kind == "PPLCNetImageProcessor":
        short = made.resize_short
    return size, min(1.0, size / short)


def _scale(made: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std so that (x - mean) / std of x in [0, 1] is what a preprocessor makes of a pixel."""
    mean = _channels(made.image_mean if made.do_normalize else 0.0, channels)
    std = _channels(made.image_std if made.do_normalize else 1.0, channels)
    factor = 255.0 * (made.rescale_factor if made.do_rescale else 1.0)
    shift = 1.0 if getattr(made, "rescale_offset", False) else 0.0
    again = _channels(made.image_std if getattr(made, "include_top", False) else 1.0, channels)  # EfficientNet's
    # ((x factor - shift) - mean) / std / again
    means = tuple((m + shift) / factor for m in mean)
    return means, tuple(s * t / factor for s, t in zip(std, again, strict=True))


def _side(size: Any) -> int | None:
    """Return one side of what may be a number, a pair, or an object of sides."""
    if size is not None and not isinstance(size, int | list | tuple):
        size = size.shortest_edge or size.height or size.longest_edge
    if isinstance(size, list | tuple):
        size = size[0] if size else None
    return int(size) if size else None


def _channels(values: Any, channels: int) -> tuple[float, ...]:
    given = (float(values),) if isinstance(values, int | float) else tuple(map(float, values))
    return given if len(given) == channels else given[:1] * channels


def tokenizer(name: str, files: Mapping[str, Path], words: int) -> Tokenizer:
    """Return the tokenizer of a repository and the numbers of its special tokens, of those a net of `words` knows.

    Raises PluginError if its files make none.
    """
    from tokenizers import Tokenizer as Fast

    check_vocabulary(name, files)
    fast = Fast.from_file(str(files["tokenizer.json"])) if "tokenizer.json" in files else _converted(name, files)
    tokens = _usual_tokens(files)
    for path in ("special_tokens_map.json", "tokenizer_config.json"):
        tokens |= _tokens(files.get(path))
    found = {role: fast.token_to_id(token) for role, token in tokens.items()}
    numbers = {role: number for role, number in found.items() if number is not None and number < words}
    end = numbers.get("eos_token", numbers.get("sep_token"))
    candidates = (numbers.get("pad_token"), end, numbers.get("unk_token"), 0)
    pad = next(number for number in candidates if number is not None)  # what is masked away may be any token
    return Tokenizer(fast, pad, numbers.get("mask_token"), end)


def check_vocabulary(name: str, files: Collection[str]) -> None:
    """Raise PluginError if no vocabulary is among the paths: transformers would make do with an empty one."""
    if not any(path in files for path in VOCABULARIES):
        what = f"{name}: it has no tokenizer: none of {', '.join(VOCABULARIES)}"
        raise PluginError(what, fix="choose a repository that holds tokenizer.json")


def _usual_tokens(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the special tokens of a family's own tokenizer, by role: the files of BERT and GPT-2 name none."""
    from transformers.models.auto import tokenization_auto as auto

    family = configs.read(files.get("config.json")).get("model_type")
    said = configs.read(files.get("tokenizer_config.json")).get("tokenizer_class")
    name = str(said or auto.TOKENIZER_MAPPING_NAMES.get(str(family)) or "").removesuffix("Fast")
    made = getattr(auto.tokenizer_class_from_name(name), "__init__", None) if name else None
    usual = inspect.signature(made).parameters if made else {}
    return _named({role: parameter.default for role, parameter in usual.items()})


def _tokens(path: Path | None) -> dict[str, str]:
    """Return the special tokens that a file names, by role: a text, or an object with the text as content."""
    found = configs.read(path)
    return _named({role: token.get("content") if isinstance(token, dict) else token for role, token in found.items()})


def _named(roles: Mapping[str, Any]) -> dict[str, str]:
    return {role: token for role, token in roles.items() if role.endswith("_token") and isinstance(token, str)}


def _converted(name: str, files: Mapping[str, Path]) -> Any:
    """Have transformers make a fast tokenizer of a slow one's files, which it wants under their own names."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for path in (*TOKENIZER, "config.json"):
            if path in files:
                Path(folder, path).symlink_to(files[path].absolute())
        try:
            made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, TypeError) as error:
            what = f"{name}: its tokenizer cannot be made: {str(error).splitlines()[0] if str(error) else error!r}"
            raise PluginError(what, fix="choose a repository that holds tokenizer.json") from error
    fast = getattr(made, "backend_tokenizer", None)
    if fast is None or fast.get_vocab_size() <= len(fast.get_added_tokens_decoder()):
        what = f"{name}: its tokenizer has {'no fast form' if fast is None else 'no words'}"
        raise PluginError(what, fix="choose a repository that holds tokenizer.json")
    return fast
