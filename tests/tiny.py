"""Tiny random models of real architectures, saved as Hub repositories: files by path."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import words

COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
WORDS = COMMON | {
    "vocab_size": 25,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = WORDS | {"num_key_value_heads": 2, "head_dim": 8}
T5 = {
    "vocab_size": 25,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
DEBERTA = WORDS | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 8,
}
BOTH = WORDS | {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
BOTH |= {"d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "decoder_start_token_id": 3}
TEXT: dict[str, dict[str, Any]] = {
    "bert": WORDS,
    "distilbert": WORDS | {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    "roberta": WORDS,
    "xlm-roberta": WORDS,
    "camembert": WORDS,
    "mpnet": WORDS,
    "electra": WORDS | {"embedding_size": 16},
    "albert": WORDS | {"embedding_size": 16},
    "deberta-v2": DEBERTA,
    "modernbert": WORDS | {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2, "sep_token_id": 3},
    "longformer": WORDS | {"attention_window": [4, 4]},
    "squeezebert": WORDS
    | {"embedding_size": 32}
    | dict.fromkeys((f"{part}_groups" for part in ("q", "k", "v", "post_attention", "intermediate", "output")), 1),
    "gpt2": WORDS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 66},
    "opt": WORDS | {"ffn_dim": 40, "word_embed_proj_dim": 32},
    "gpt_neox": WORDS,
    "llama": WORDS | {"num_key_value_heads": 2},
    "mistral": WORDS | {"num_key_value_heads": 2},
    "qwen2": WORDS | {"num_key_value_heads": 2},
    "qwen3": GROUPED,
    "gemma": GROUPED,
    "gemma2": GROUPED,
    "gemma3_text": GROUPED,
    "mixtral": WORDS | {"num_key_value_heads": 2, "num_local_experts": 2},
    "mamba": {"vocab_size": 25, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "xlnet": {"vocab_size": 25, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 40},
    "t5": T5,
    "mt5": T5,
    "bart": BOTH,
}
PATCHES = COMMON | {"image_size": 32, "patch_size": 8}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
PYRAMID = {"image_size": 32, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
HEADS = {"num_attention_heads": [1, 2, 3, 4]}
MASKED = {f"decoder_{name}": size for name, size in COMMON.items()}
VISION: dict[str, dict[str, Any]] = {
    "vit": PATCHES,
    "deit": PATCHES,
    "dinov2": PATCHES | {"image_size": 28, "patch_size": 14},
    "dinov2_with_registers": PATCHES | {"image_size": 28, "patch_size": 14},
    "dinov3_vit": PATCHES,
    "beit": PATCHES,
    "data2vec-vision": PATCHES,
    "ijepa": PATCHES,
    "vit_msn": PATCHES,
    "vit_mae": PATCHES | MASKED,
    "hiera": {
        **{"embed_dim": 16, "image_size": [32, 32], "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1},
        **{"patch_kernel": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "query_stride": [2, 2]},
        "masked_unit_size": [4, 4],
    },
    "focalnet": {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
    "pvt": PYRAMID | HEADS | {"sequence_reduction_ratios": [1, 1, 1, 1]},
    "pvt_v2": PYRAMID | HEADS,
    "segformer": PYRAMID | HEADS,
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "convnext": PYRAMID,
    "convnextv2": PYRAMID,
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4, "image_size": 32},
    "mobilevit": {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
    "mobilevitv2": {"image_size": 64, "width_multiplier": 0.25},
    "efficientnet": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 64},
    "levit": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "siglip_vision_model": PATCHES,
    "clip_vision_model": PATCHES,
}
"""model_type -> configuration values."""
IMAGE = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3}


def config(kind: str, **more: Any) -> Any:
    """Return the configuration of a tiny model."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind](**(TEXT | VISION)[kind] | more)


def model_class(made: Any) -> Any:
    """Return the class that repositories are usually saved with: the pretraining head, or the base model."""
    from transformers.models.auto import modeling_auto as auto

    heads = (
        auto.MODEL_FOR_MASKED_LM_MAPPING,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    )
    found = next((mapping[type(made)] for mapping in heads if type(made) in mapping), auto.MODEL_MAPPING[type(made)])
    return found[0] if isinstance(found, tuple) else found


@cache
def model(kind: str, labels: int = 2) -> Any:
    """Return a tiny model with seeded random weights, in eval mode."""
    torch.manual_seed(0)
    made = config(kind, num_labels=labels)
    return model_class(made)(made).eval()


@cache
def repository(kind: str) -> Mapping[str, bytes]:
    """Return the files of a tiny model's repository."""
    return files(model(kind), text=kind in TEXT)


def files(made: Any, *, text: bool, **options: Any) -> dict[str, bytes]:
    """Save a model as transformers does, with its tokenizer or preprocessor; returns the files by path."""
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder, **options)
        found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    if text:
        found["tokenizer.json"] = words.fast().to_str().encode()
        roles = {"pad_token": "[PAD]", "mask_token": "[MASK]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
        found["tokenizer_config.json"] = json.dumps(roles).encode()
    else:
        found["preprocessor_config.json"] = json.dumps(IMAGE).encode()
    return found


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return three texts of random words, the second padded on the right."""
    ids = torch.randint(5, 25, (3, 10), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
