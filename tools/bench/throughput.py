"""Benchmark full fine-tuning in examples/s: zoo's training loop against a plain PyTorch loop over tensors.

python tools/bench/throughput.py [--seeds 3] [--quick]

Both train the same module in the same precision and memory format, with batch size 32, AdamW, gradient clipping,
frozen BatchNorm statistics and the model's dropout. The rate is that of the additional steps of a long run over a short
one, so that setup time cancels. The first run of a process is a warm-up.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import peers
from peers import Given

BATCH = 32
COUNT = 2 * BATCH
CLASSES = 8
SIZE, TOKENS = 224, 128
CASES = {
    "Lite0, fp32": (peers.LITE0, "fp32"),
    "Lite0, bf16": (peers.LITE0, "bf16"),
    "resnet18, bf16": (peers.RESNET18, "bf16"),
    "MiniLM, bf16": (peers.MINILM, "bf16"),
}


def ours(given: Given, name: str, precision: str) -> Mapping[str, float]:
    import zoo

    inputs = texts() if name == peers.MINILM else images()
    pairs = [(item, f"class {i % CLASSES}") for i, item in enumerate(inputs)]
    fields: dict[str, Any] = {"precision": precision, "batchnorm": "frozen", "dropout": True}
    fields |= {"max_length": TOKENS, "truncation": "head"} if name == peers.MINILM else {"augment": "none"}

    def train(steps: int) -> float:
        model = zoo.load(name, "cpu")
        start = time.perf_counter()
        model.finetune(pairs, strategy="full", valid=0, steps=steps, batch_size=BATCH, lr=1e-4, **fields)
        return time.perf_counter() - start

    return {"rate": rate(given, train)}


def bare(given: Given, name: str, precision: str) -> Mapping[str, float]:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    import zoo

    inputs = token_tensors() if name == peers.MINILM else {"images": image_tensor()}
    labels = torch.arange(COUNT) % CLASSES

    def train(steps: int) -> float:
        backbone = zoo.load(name, "cpu").backbone
        body, head = backbone.module.requires_grad_(True), nn.Linear(backbone.dim, CLASSES)
        net = nn.ModuleList([body, head]).to(memory_format=torch.channels_last).train()
        for part in body.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5)
        start = time.perf_counter()
        for _ in range(steps):
            index = torch.randperm(COUNT)[:BATCH]
            batch = {key: tensor[index] for key, tensor in inputs.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                features = body(batch.get("images", batch)).pooled
            loss = cross_entropy(head(features.float()), labels[index])
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    return {"rate": rate(given, train)}


def rate(given: Given, train: Callable[[int], float]) -> float:
    """Return the examples/s of the additional steps of a long run over a short one."""
    few, many = (1, 3) if given.quick else (5, 25)
    train(few)
    return (many - few) * BATCH / (train(many) - train(few))


def images() -> list[Any]:
    import numpy as np

    return list(np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8))


def image_tensor() -> Any:
    """Return the images normalised to [-1, 1], float32."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.stack(images())).permute(0, 3, 1, 2)  # (N, H, W, C) -> (N, C, H, W)
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def texts() -> list[str]:
    chance = random.Random(0)
    return [" ".join(chance.choices(("one", "two", "three", "four", "five"), k=TOKENS)) for _ in range(COUNT)]


def token_tensors() -> dict[str, Any]:
    """Return the tokenised texts for MiniLM, all of one length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(peers.real_data.minilm())
    return dict(tokenizer(texts(), truncation=True, max_length=TOKENS, return_tensors="pt"))


SIDES = {
    f"{side}: {case}": partial(loop, name=name, precision=precision)
    for case, (name, precision) in CASES.items()
    for side, loop in (("zoo", ours), ("bare", bare))
}


def report(found: peers.Found) -> None:
    rows = [["training, median of the seeds", "zoo", "bare loop", "zoo / bare"]]
    for case in CASES:
        own, other = ([run.figures["rate"] for run in found[f"{side}: {case}"]] for side in ("zoo", "bare"))
        ratio = statistics.median(mine / theirs for mine, theirs in zip(own, other, strict=True))
        speeds = (f"{statistics.median(rates):.1f} ex/s" for rates in (own, other))
        rows.append([case, *speeds, f"{ratio:.3f}"])
    peers.table(rows)


if __name__ == "__main__":
    peers.bench(SIDES, report, [peers.LITE0, peers.RESNET18, peers.MINILM])
