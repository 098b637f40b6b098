"""How images and texts are prepared, by the files of a repository."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import PluginError
from zoo.plugin import ImageInput, Tokenizer
from zoo_hf import configs

TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
"""Files a tokenizer may be made of."""
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers for interpolation, as preprocessor_config.json writes them."""
HALF = (0.5, 0.5, 0.5)


def image_input(config: Any, values: Mapping[str, Any]) -> ImageInput:
    """Return how core prepares an image, by preprocessor_config.json, and by the configuration where that is silent."""
    target = values.get("crop_size") if values.get("do_center_crop", "crop_size" in values) else None
    native = getattr(config, "image_size", None) or 224
    size = _side(target) or _side(values.get("size")) or _side(native) or 224
    resized = _side(values.get("size")) or size
    crop = values.get("crop_pct") or (size / resized if resized >= size else 1.0)
    channels = int(getattr(config, "num_channels", 3) or 3)
    mean, std = _channels(values.get("image_mean"), channels), _channels(values.get("image_std"), channels)
    if values.get("do_normalize") is False or values.get("image_mean") is None:
        mean, std = ((0.0,) * channels, (1.0,) * channels) if values.get("do_normalize") is False else (mean, std)
    factor = float(values.get("rescale_factor", 1 / 255)) * 255  # other than 1: pixels are not scaled to [0, 1]
    shift = 1.0 if values.get("rescale_offset") else 0.0
    # (x * factor - shift - mean) / std, as (x - mean') / std'
    mean, std = tuple((m + shift) / factor for m in mean), tuple(s / factor for s in std)
    return ImageInput(size, mean, std, RESAMPLE.get(values.get("resample", 2), "bilinear"), min(1.0, float(crop)))


def _side(size: Any) -> int | None:
    """Return one side of what may be a number, a pair, or an object of sides."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    if isinstance(size, list | tuple):
        size = size[0] if size else None
    return int(size) if size else None


def _channels(values: Any, channels: int) -> tuple[float, ...]:
    given = tuple(map(float, values)) if isinstance(values, list | tuple) and values else HALF
    return given if len(given) == channels else given[:1] * channels


def tokenizer(name: str, files: Mapping[str, Path]) -> Tokenizer:
    """Return the tokenizer of a repository and the numbers of its special tokens."""
    from tokenizers import Tokenizer as Fast

    fast = Fast.from_file(str(files["tokenizer.json"])) if "tokenizer.json" in files else _converted(name, files)
    tokens = {**_tokens(files.get("special_tokens_map.json")), **_tokens(files.get("tokenizer_config.json"))}
    numbers = {role: fast.token_to_id(token) for role, token in tokens.items()}
    end = numbers.get("eos_token")
    if end is None:
        end = numbers.get("sep_token")
    candidates = (numbers.get("pad_token"), (fast.padding or {}).get("pad_id"), end, numbers.get("unk_token"), 0)
    pad = next(number for number in candidates if number is not None)  # what is masked away may be any token
    return Tokenizer(fast, pad, numbers.get("mask_token"), end)


def _tokens(path: Path | None) -> dict[str, str]:
    """Return the special tokens that a file names, by role: a text, or an object with the text as content."""
    found = {}
    for role, token in configs.read(path).items():
        content = token.get("content") if isinstance(token, dict) else token
        if role.endswith("_token") and isinstance(content, str):
            found[role] = content
    return found


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
    if fast is None:
        raise PluginError(f"{name}: its tokenizer has no fast form", fix="choose a repository with tokenizer.json")
    return fast
