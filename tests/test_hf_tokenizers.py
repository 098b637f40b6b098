"""zoo_hf tokenizers: token ids equal transformers for every family and every set of tokenizer files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer as Fast
from tokenizers import models, normalizers, pre_tokenizers, trainers
from zoo_hf import inputs

from zoo.errors import PluginError
from zoo.plugin import Tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog", "Hello World! It's fine, isn't it?", "naïve café, 3.14"] * 4
TEXTS = ["the quick fox", "Hello World!", "  two  spaces ", "naïve CAFÉ", "日本 ☃", "", "line\nbreak\tTab"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@cache
def wordpiece() -> dict[str, int]:
    """Return a WordPiece vocabulary."""
    made = Fast(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=BERT))
    return made.get_vocab()


@cache
def pairs(*special: str, spaces: str = "bytes") -> dict[str, Any]:
    """Return vocabulary and merges of a BPE model."""
    made = Fast(models.BPE())
    byte_level = spaces == "bytes"
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet)
    made.train_from_iterator(CORPUS, trainer)
    return {"vocab": made.get_vocab(), "merges": [tuple(pair) for pair in json.loads(made.to_str())["model"]["merges"]]}


@cache
def unigrams(*special: str, unknown: str = "<unk>") -> dict[str, Any]:
    """Return the vocabulary of a unigram model with log-probabilities."""
    made = Fast(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=100, special_tokens=list(special), unk_token=unknown)
    made.train_from_iterator(CORPUS, trainer)
    return {"vocab": [tuple(pair) for pair in json.loads(made.to_str())["model"]["vocab"]]}


GPT = ("<|endoftext|>",)
LLAMA = ("<unk>", "<s>", "</s>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
CASES = {
    "bert": ("BertTokenizer", lambda: {"vocab": wordpiece()}),
    "distilbert": ("DistilBertTokenizer", lambda: {"vocab": wordpiece(), "do_lower_case": False}),
    "electra": ("ElectraTokenizer", lambda: {"vocab": wordpiece()}),
    "roberta": ("RobertaTokenizer", lambda: pairs(*ROBERTA)),
    "longformer": ("RobertaTokenizer", lambda: {**pairs(*ROBERTA), "add_prefix_space": True}),
    "gpt2": ("GPT2Tokenizer", lambda: pairs(*GPT)),
    "qwen2": ("Qwen2Tokenizer", lambda: pairs(*GPT)),
    "llama": ("LlamaTokenizer", lambda: pairs(*LLAMA, spaces="words")),
    "gemma": ("GemmaTokenizer", lambda: pairs(*GEMMA, spaces="words")),
    "xlm-roberta": ("XLMRobertaTokenizer", lambda: unigrams("<s>", "<pad>", "</s>", "<unk>")),
    "albert": ("AlbertTokenizer", lambda: unigrams("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
    "t5": ("T5Tokenizer", lambda: unigrams("<pad>", "</s>", "<unk>")),
    "deberta-v2": (
        "DebertaV2Tokenizer",
        lambda: unigrams("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", unknown="[UNK]"),
    ),
}


def saved(kind: str, folder: Path) -> dict[str, Path]:
    """Save the tokenizer of a family and a configuration; returns the files by name."""
    name, arguments = CASES[kind]
    getattr(transformers, name)(**arguments()).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return {path.name: path for path in folder.iterdir()}


def ours(files: dict[str, Path]) -> Tokenizer:
    return inputs.tokenizer("hf/tiny/net", files, 10_000)


def check_equal(found: Tokenizer, reference: Any) -> None:
    for text in TEXTS:
        assert found.fast.encode(text).ids == reference(text)["input_ids"]
        both, pair = reference(text, "the dog"), found.fast.encode(text, "the dog")
        assert pair.ids == both["input_ids"]
        assert pair.type_ids == both.get("token_type_ids", pair.type_ids)  # not all families have token types
    assert found.mask == reference.mask_token_id
    assert found.end == (reference.sep_token_id if reference.eos_token_id is None else reference.eos_token_id)
    assert found.pad == (found.end if reference.pad_token_id is None else reference.pad_token_id)


@pytest.mark.parametrize("kind", CASES)
def test_token_ids_equal_transformers(kind, tmp_path):
    files = saved(kind, tmp_path)
    check_equal(ours(files), transformers.AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2", "t5", "albert"])
def test_default_special_tokens_are_those_of_the_family(kind, tmp_path):
    """The repositories of BERT, RoBERTa and GPT-2 list no special tokens."""
    files = saved(kind, tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    files["tokenizer_config.json"].write_text('{"model_max_length": 512}')
    found = ours(files)
    assert (found.mask, found.fast.encode("the dog").ids) == (
        reference.mask_token_id,
        reference("the dog")["input_ids"],
    )
    assert found.pad == (reference.eos_token_id if reference.pad_token_id is None else reference.pad_token_id)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_slow_tokenizer_files_are_converted(kind, tmp_path):
    vocabulary = CASES[kind][1]()
    if kind == "bert":
        lines = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
        (tmp_path / "vocab.txt").write_text("\n".join(lines))
    else:
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary["vocab"]))
        merges = "\n".join(" ".join(pair) for pair in vocabulary["merges"])
        (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    files = {path.name: path for path in tmp_path.iterdir()}
    check_equal(ours(files), transformers.AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ({"pad_token": "[PAD]", "eos_token": "[SEP]"}, (0, 3)),
        ({"eos_token": {"content": "[SEP]", "lstrip": False}}, (3, 3)),
        ({"unk_token": "[UNK]"}, (1, None)),
        ({}, (0, None)),
    ],
)
def test_the_padding_token_falls_back_to_eos_unk_and_0(roles, expected, tmp_path):
    files = saved("bert", tmp_path)
    files["config.json"].write_text('{"model_type": "llama"}')
    files["tokenizer_config.json"].write_text(json.dumps({**roles, "tokenizer_class": "PreTrainedTokenizerFast"}))
    found = ours(files)
    assert (found.pad, found.end) == expected


def test_special_tokens_outside_the_model_vocabulary_are_ignored(tmp_path):
    found = inputs.tokenizer("hf/tiny/net", saved("bert", tmp_path), 4)
    assert (found.pad, found.mask, found.end) == (0, None, 3)


def test_an_invalid_tokenizer_raises(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PluginError, match=r"hf/tiny/net has no tokenizer: none of tokenizer\.json, vocab\.txt"):
        ours({path.name: path for path in tmp_path.iterdir()})
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(PluginError, match="hf/tiny/net: the tokenizer has an empty vocabulary"):
        ours({path.name: path for path in tmp_path.iterdir()})
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(PluginError, match="hf/tiny/net: cannot load the tokenizer"):
        ours({path.name: path for path in tmp_path.iterdir()})
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        PluginError, match=r"hf/tiny/net: tokenizer\.json is no tokenizer: .*\nfix: choose a repository"
    ):
        ours({path.name: path for path in tmp_path.iterdir()})


def test_replacements_that_lengthen_texts_excessively_raise(tmp_path):
    made = Fast(models.WordPiece(wordpiece(), unk_token="[UNK]"))
    made.normalizer = normalizers.Sequence([normalizers.Replace("a", "a" * 100)] * 2)
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(PluginError, match=r"tokenizer\.json make a text up to 1e\+04 times as long"):
        ours({"tokenizer.json": tmp_path / "tokenizer.json"})
