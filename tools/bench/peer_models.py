"""Models of other libraries, as their documentation shows them: fastai's learner and transformers' Trainer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peers

Labelled = Sequence[tuple[Any, str]]
"""Inputs with their labels."""
LENGTH = 256
"""Maximum length in tokens: the default of zoo."""


def fastai_learner(train: Labelled, valid: Labelled, weights: Path, seed: int, **loading: Any) -> tuple[Any, float]:
    """Return fastai's vision_learner with pretrained weights, named as their file, and the seconds to create its data.

    `loading` are arguments of the data loaders.
    """
    sys.path.append(str(peers.fastai()))
    from fastai.vision import all as fast

    fast.set_seed(seed)
    start = time.perf_counter()
    block = fast.DataBlock(
        blocks=(fast.ImageBlock, fast.CategoryBlock),
        get_x=fast.ItemGetter(0),
        get_y=fast.ItemGetter(1),
        splitter=fast.IndexSplitter(range(len(train), len(train) + len(valid))),
        item_tfms=fast.Resize(224),
        batch_tfms=fast.aug_transforms(),
    )
    loaders = block.dataloaders([*train, *valid], bs=min(64, len(train)), **loading)  # 64: default of fastai
    seconds = time.perf_counter() - start
    pretrained = {"file": str(weights)}
    learn = fast.vision_learner(loaders, weights.stem, metrics=fast.accuracy, pretrained_cfg_overlay=pretrained)
    return learn, seconds


def trainer(
    train: Labelled, out: Path, seed: int, *, frozen: bool = False, **arguments: Any
) -> tuple[Any, Callable[[Labelled], Any]]:
    """Return transformers' Trainer for MiniLM, and the function that tokenises data for it.

    TrainingArguments are the defaults but for `arguments`, and without checkpoints and pinned memory.
    """
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(seed)
    folder, labels = peers.real_data.minilm(), sorted({label for _, label in train})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    model.base_model.requires_grad_(not frozen)

    def tokenised(pairs: Labelled) -> Dataset:
        columns = {"text": [text for text, _ in pairs], "label": [labels.index(label) for _, label in pairs]}
        return Dataset.from_dict(columns).map(
            lambda rows: tokenizer(rows["text"], truncation=True, max_length=LENGTH), batched=True
        )

    fixed = {"output_dir": out, "save_strategy": "no", "dataloader_pin_memory": False, "use_cpu": True}
    run = Trainer(
        model,
        TrainingArguments(**fixed, seed=seed, **arguments),
        train_dataset=tokenised(train),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(1) == found.label_ids).mean()},
    )
    return run, tokenised
