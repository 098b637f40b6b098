"""Hostile configurations and tokenizers of transformers, in a saved model of an author who signs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import saved_models as saved

from hostile.case import Case
from hostile.models import Change, case, thinned

PRELOAD = ("zoo_hf.nets", "transformers.models.bert.modeling_bert")
KERNEL = "evil/kernel"
IGNORED: dict[str, Any] = {
    "_attn_implementation": KERNEL,
    "attn_implementation": KERNEL,
    "auto_map": {"AutoModel": "x.Y"},
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "_attn_implementation_internal": KERNEL,
    "use_kernels": True,
    "torch_dtype": "load",
    "dtype": "os",
    "experts_implementation": "deepgemm",
    "to_dict": 1,
    "_name_or_path": KERNEL,
    "tokenizer_class": "Evil",
    "architectures": [[]],
    "id2label": {"x": []},
    "num_labels": 10**9,
    "tp_plan": {"x": "y"},
    "backbone": KERNEL,
    "use_timm_backbone": False,
    "_from_auto": True,
    "attn_implementation ": {"": KERNEL},
    "pruned_heads": {"0": [0]},
    "per_layer_config": None,
}
"""Keys that are no hyperparameters: they change nothing."""
SIZES = (
    *("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"),
    *("intermediate_size", "num_attention_heads", "type_vocab_size"),
)
BERT: dict[str, dict[str, Any]] = {
    "a million layers": {"num_hidden_layers": 10**6},
    "9,000 layers": {"num_hidden_layers": 9000},
    "another activation": {"hidden_act": "os.system"},
}
FAMILIES = (
    *("gpt2", "timm_wrapper", "timm_backbone", "detr", "x", None, []),
    *("mamba", "clip", "vit", "encoder-decoder", "rag"),
)
VIT = {"image_size": 10**6, "patch_size": 0, "num_channels": 10**6, "hidden_act": 1}
CONFIGS = (b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"model_type": "bert", "a": 1e400}')


def config(values: dict[str, Any]) -> Change:
    """Return an edit of config.json."""
    return lambda model: saved.merge(model, "config.json", values)


def part(name: str, value: Any) -> Change:
    """Return an edit of tokenizer.json."""
    return lambda model: saved.merge(model, "tokenizer.json", {name: value})


def content(name: str, value: bytes) -> Change:
    """Return an edit that replaces a file."""
    return lambda model: saved.replace(model, name, value)


def configurations() -> Iterator[Case]:
    """Configurations of transformers."""
    for key, value in IGNORED.items():
        heavy = key != "_attn_implementation"
        yield case(f"bert: {key} = {value}", "bert", config({key: value}), code=0, heavy=heavy)
    for key in SIZES:
        for value in (10**9, 10**18, -1, 0, "x", [], True, 10**400):
            heavy = value not in (10**9, -1)
            yield case(f"bert: {key} = {str(value)[:20]}", "bert", config({key: value}), heavy=heavy)
    for name, values in BERT.items():
        yield case(f"bert: {name}", "bert", config(values))
    for family in FAMILIES:
        yield case(f"bert: model_type {family!r}", "bert", config({"model_type": family}), heavy=True)
    for key, value in VIT.items():
        yield case(f"vit: {key} = {value}", "vit", config({key: value}))
    for value in CONFIGS:
        yield case(f"bert: config.json {value[:20]!r}", "bert", content("config.json", value))


WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 20,
}
VOCABULARY = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"))}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
GROW = {"type": "Replace", "pattern": {"String": "l"}, "content": "l" * 1000}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
MANY = {
    "type": "TemplateProcessing",
    "single": [*[{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 100_000, TEXT],
    "pair": [TEXT],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
}
WIDE = MANY | {"single": [{"Sequence": {"id": "A", "type_id": 9}}], "special_tokens": {}}
FAR = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 10**6]}
CHARACTERS = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
PATTERNS = ("(l+)+$", "(l|ll)+y$", "(", "[", "(?<x>l\\g<x>*)y")
TOKENIZERS: dict[str, Change] = {
    **{
        f"id {number}": part("model", WORDPIECE | {"vocab": VOCABULARY | {"lovely": number}})
        for number in (25, 10**6, 2**32 - 1, 2**40, -1)
    },
    "no unknown token": part("model", WORDPIECE | {"unk_token": "x", "vocab": VOCABULARY}),
    **{f"pattern {regex}": part("pre_tokenizer", SPLIT | {"pattern": {"Regex": regex}}) for regex in PATTERNS},
    **{
        f"{times} replacements by 1,000 letters": part(
            "normalizer", {"type": "Sequence", "normalizers": [GROW] * times}
        )
        for times in (2, 4, 8)
    },
    **{
        f"tokenizer.json {value[:20]!r}": content("tokenizer.json", value)
        for value in (b"", b"null", b"{}", b"[" * 100_000, b'{"model": null}', b"\xff" * 100)
    },
    "100,000 special tokens around a text": part("post_processor", MANY),
    "type 9": part("post_processor", WIDE),
    "special id beyond the vocabulary": part("post_processor", FAR),
    "a truncated table of characters": part("normalizer", CHARACTERS),
    "a table of characters beyond its end": part(
        "normalizer", CHARACTERS | {"precompiled_charsmap": "/////////////////////w=="}
    ),
    "unigram without its unknown token": part("model", {"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}),
}
"""Ids that the model lacks, expressions that explode, and contents that make the library panic."""
SURROGATE = "\ud800"
SETTINGS = {
    "model_max_length": (-1, 0, "x", 1e400, [], 10**30),
    "pad_token": (SURROGATE, [], {}, 1, "x" * 10**6, {"content": []}),
}
"""Values of tokenizer_config.json, which change nothing, but for the lone surrogate."""


def tokenizers() -> Iterator[Case]:
    """Tokenizers, and their settings."""
    for name, change in TOKENIZERS.items():
        yield case(f"tokens: {name}", "bert", change)
    for key, values in SETTINGS.items():
        for value in values:
            refused = value == SURROGATE
            yield case(
                f"tokens: {key} {ascii(value)[:30]}",
                "bert",
                lambda model, k=key, v=value: saved.merge(model, "tokenizer_config.json", {k: v}),
                code=int(refused),
                heavy=not refused,
            )


CASES = [*thinned(configurations(), 5), *thinned(tokenizers(), 4)]
