"""Random weights and made-up data for the GPU benchmark: vision nets, text encoders, JPEG files, texts."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

CLASSES, TOKENS = 10, 128
WORDS = tuple(f"word{number}" for number in range(1000))


def vision(name: str) -> dict[str, bytes]:
    """Return the repository of a model of timm with random weights."""
    import timm
    import torch
    from safetensors.torch import save

    torch.manual_seed(0)
    return {"model.safetensors": save(timm.create_model(name).state_dict())}


def language(config: Mapping[str, int], folder: Path) -> dict[str, bytes]:
    """Return the repository of a BERT with random weights and a tokenizer of words; written to a folder, too."""
    import torch
    import words
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    fast = words.fast(WORDS)
    BertForMaskedLM(BertConfig(vocab_size=fast.get_vocab_size(), **config)).save_pretrained(folder)
    names = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {f"{key}_token": token for key, token in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=512, **special).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folder_of_images(folder: Path, side: int, count: int) -> Path:
    """Write JPEG files of blurred noise, with a side half as long again as the input, one folder a class."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    side = side * 3 // 2
    for number in range(count):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(place / f"{number:05}.jpg", quality=90)
    return folder


def pairs_of_texts(count: int) -> list[tuple[str, str]]:
    draws = random.Random(0)
    return [(" ".join(draws.choices(WORDS, k=TOKENS - 2)), f"class{number % CLASSES}") for number in range(count)]
