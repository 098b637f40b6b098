"""Benchmark fine-tuning a text encoder on 400 mails: zoo against transformers' Trainer, each in its own process.

python tools/bench/trainer.py [--seeds 3] [--quick]

Process time includes imports, loading, tokenisation, training and evaluation on 1,000 mails. Examples/s: for Trainer
its own figure for training, for zoo a full call without validation, tokenisation included.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import peer_models
import peers
from peers import Given


def ours(given: Given, strategy: str) -> Mapping[str, float]:
    import zoo

    train, valid = peers.mails(given)
    few = {"steps": 2} if given.quick else {}
    model = zoo.load(peers.MINILM, "cpu").finetune(train, valid=valid, strategy=strategy, seed=given.seed, **few)
    return {"accuracy": model.metrics["accuracy"]}


def our_rate(given: Given) -> Mapping[str, float]:
    """Train three epochs, as Trainer, after a warm-up for imports."""
    import zoo

    train, _ = peers.mails(given)
    zoo.load(peers.MINILM, "cpu").finetune(train, valid=0, strategy="full", steps=2)
    model = zoo.load(peers.MINILM, "cpu")
    start = time.perf_counter()
    model.finetune(train, valid=0, strategy="full", epochs=3, seed=given.seed)
    elapsed = time.perf_counter() - start
    assert model.recipe
    return {"rate": model.history[-1]["step"] * min(model.recipe.batch_size, len(train)) / elapsed}


def trainer(given: Given, frozen: bool = False, **arguments: Any) -> Mapping[str, float]:
    """Fine-tune as in the documentation of transformers, with default TrainingArguments except `arguments`."""
    train, valid = peers.mails(given)
    steps = 2 if given.quick else -1
    start = time.perf_counter()
    run, tokenised = peer_models.trainer(
        train, given.work / "trainer", given.seed, frozen=frozen, max_steps=steps, **arguments
    )
    figures = run.train().metrics
    elapsed = time.perf_counter() - start
    accuracy = run.evaluate(tokenised(valid))["eval_accuracy"]
    return {"accuracy": accuracy, "rate": figures["train_samples_per_second"], "training": elapsed}


SIDES = {
    "zoo full": partial(ours, strategy="full"),
    "Trainer": trainer,
    "zoo auto": partial(ours, strategy="auto"),
    "Trainer, bf16, batches of 32": partial(trainer, bf16=True, per_device_train_batch_size=32),
    "zoo full, rate": our_rate,
}


def report(found: peers.Found) -> None:
    rates = {name: peers.mean(found[name], "rate") for name in SIDES if "rate" in found[name][0].figures}
    rates["zoo full"] = rates.pop("zoo full, rate")
    whole = peers.seconds(found["Trainer"])
    rows = [["mails, mean of the seeds", "accuracy", "process", "x faster", "training", "x Trainer"]]
    for name in list(SIDES)[:-1]:
        took, rate = peers.seconds(found[name]), rates.get(name)
        speed = [f"{rate:.1f} ex/s", f"{rate / rates['Trainer']:.2f}"] if rate else ["", ""]
        accuracy = f"{peers.mean(found[name], 'accuracy'):.4f}"
        rows.append([name, accuracy, f"{took:.1f} s", f"{whole / took:.2f}", *speed])
    peers.table(rows)


if __name__ == "__main__":
    peers.bench(SIDES, report, [peers.MINILM])
