"""Texts of the ranking benchmark: six backbones of one tokenizer, four tasks of 84 to 156 texts (64 tokens each)."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS / "bench")]

CUT = {"bench/minilm-6": 6, "bench/minilm-3": 3, "bench/minilm-1": 1}
"""The first layers of MiniLM, which has six."""
MADE = {"bench/random-3": (3, 384), "bench/random-2": (2, 128)}
"""Random weights: layers and width."""
RANDOM = tuple(MADE)
TRAINED, STEPS = "bench/glosses-2", 400
"""The smaller of the random ones, pre-trained here on glosses of WordNet, by optimizer steps."""
TASKS = {"films": 50, "topics": 12, "languages": 12, "mails": 50}
"""Examples of a class."""
TOKENS = 64
Pairs = list[tuple[str, str]]


def examples(task: str) -> tuple[Pairs, Pairs]:
    """Return training and test examples of a task."""
    import small_sets

    split = small_sets.split(task)
    test = random.Random(task).sample(list(split.test), len(split.test))
    return split.draw(TASKS[task], seed=0), test


def prepare(folder: Path) -> tuple[list[str], str]:
    """Cut, make and pre-train the backbones; returns their names, and their rows in TOML."""
    rows = [_row(name, _cut(folder, name, layers)) for name, layers in CUT.items()]
    rows += [_row(name, _random(folder, name, *shape)) for name, shape in MADE.items()]
    saved = folder / "saved" / TRAINED.partition("/")[2]
    if not saved.exists():
        _pretrain(folder, rows[-1], saved)
    rows.append(f'["{TRAINED}"]\nsaved = "{saved}"\n')
    return [*CUT, TRAINED, *MADE], "\n".join(rows)


def _row(name: str, weights: Path) -> str:
    config = json.loads((weights / "config.json").read_text())
    return (
        f'["{name}"]\nplugin = "hf"\nmodality = "text"\nsource = "{weights.as_uri()}"\n'
        'files = [{ path = "config.json" }, { path = "model.safetensors" }, { path = "tokenizer.json" }]\n'
        f'dim = {config["hidden_size"]}\ninput = {{ files = ["tokenizer.json"], max_length = {TOKENS} }}\n'
    )


def _place(folder: Path, name: str, config: dict[str, Any]) -> Path:
    """Return a new folder with the tokenizer of MiniLM and a configuration."""
    import real_data

    place = folder / "texts" / name.partition("/")[2]
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(real_data.minilm() / "tokenizer.json", place / "tokenizer.json")
    (place / "config.json").write_text(json.dumps(config))
    return place


def _config(**changed: Any) -> dict[str, Any]:
    import real_data

    found: dict[str, Any] = json.loads((real_data.minilm() / "config.json").read_text())
    return found | changed


def _cut(folder: Path, name: str, layers: int) -> Path:
    """Write the first layers of MiniLM."""
    import real_data
    from safetensors.torch import load_file, save_file

    place = _place(folder, name, _config(num_hidden_layers=layers))
    weights = load_file(real_data.minilm() / "model.safetensors")
    left_out = tuple(f"encoder.layer.{number}." for number in range(layers, 6))
    save_file(
        {key: value for key, value in weights.items() if not key.startswith(left_out)}, place / "model.safetensors"
    )
    return place


def _random(folder: Path, name: str, layers: int, width: int) -> Path:
    """Write random weights of MiniLM's architecture, with other sizes."""
    import torch
    from transformers import AutoModel, BertConfig

    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 32}
    config = _config(num_hidden_layers=layers, **sizes)
    place = _place(folder, name, config)
    torch.manual_seed(0)
    AutoModel.from_config(BertConfig(**config)).save_pretrained(place)
    return place


def _pretrain(folder: Path, row: str, out: Path) -> None:
    """Train the random weights of a row from scratch on glosses that are in no task."""
    import small_sets

    import zoo

    (folder / "zoo.toml").write_text(row)
    split = small_sets.split("glosses")
    pairs = [*split.draw(None, seed=0), *split.test]
    zoo.load(RANDOM[-1], "cpu").finetune(pairs, valid=0, strategy="scratch", steps=STEPS, out=out)
