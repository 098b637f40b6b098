"""What a run says of itself, one line a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.data.texts import Texts
from zoo.tasks import LANGUAGE

if TYPE_CHECKING:
    from zoo.data.prepare import Split
    from zoo.finetune.recipe import Recipe
    from zoo.plugin import Entry
    from zoo.tasks import Task


def data(split: Split, task: Task) -> str:
    """Say how many examples there are, what they are labelled with, what is held out and what was left out."""
    train = split.train.examples
    held = split.valid.examples if split.valid else None
    count = len(train) + (len(held) if held else 0)
    inputs = split.train.inputs
    things = "texts" if isinstance(inputs, Texts) else "images"
    left_out = f"; {len(split.skipped)} unreadable left out, first {split.skipped[0]}" if split.skipped else ""
    cut = f"; {inputs.cut:,} cut" if isinstance(inputs, Texts) and inputs.cut else ""
    kinds = {"classify": f", {len(task.labels)} classes", "multilabel": f", {len(task.labels)} labels"}
    kinds |= {"tag": f", {len(task.labels)} tags"}
    return f"{train.origin}: {count:,} {things}{kinds.get(task.name, '')} -> {task.name}; {split.said}{cut}{left_out}"


def backbone(entry: Entry, parameters: int, *, tuned: bool) -> str:
    """Say how large a backbone is and where its weights come from."""
    origin = f"pre-trained on {entry.pretrained_on or '?'}, verified" if entry.source else "random weights"
    return f"{entry.name}: {parameters / 1e6:.3g} M parameters, {'fine-tuned before' if tuned else origin}"


def strategy(wanted: Recipe, settled: Recipe, examples: int, warm: bool) -> str:
    """Say what is going to be trained, and why if nobody asked for it."""
    reason = f" (auto: {examples:,} examples)" if wanted.strategy == "auto" else ""
    steps = f"up to {settled.steps} steps"
    norms = "" if settled.max_length else f", BatchNorm statistics {settled.norm}"  # texts have a length, images norms
    plans = {
        "probe": "backbone frozen, a linear head on its features",
        "full": f"{steps} on all layers{norms}",
        "lp-ft": f"a probe, then {steps} on all layers from its head{norms}",
        "lora": f"{steps} on adapters of rank {settled.lora_rank}, merged afterwards",
        "scratch": f"random weights, {steps} on all layers",
    }
    known = "; the head starts from the pretrained one, which knows these labels" if warm else ""
    return f"{settled.strategy}{reason}: {plans[settled.strategy]}{known}"


def result(found: Mapping[str, float], task: Task, labels: Sequence[Any], first: Mapping[str, float]) -> str:
    """Write metrics and what to compare them with: the network as it came if it knew the task, else no learning."""
    before = first.get(f"valid_{task.best}") if first.get("step") == 0 and task.name in LANGUAGE else None
    return f"{metrics(found)}   ({task.baseline(labels) if before is None else f'{task.best} before {before:.3f}'})"


def metrics(found: Mapping[str, float]) -> str:
    """Write metrics as people read them."""
    return ", ".join(f"{name.replace('_f1', '-F1')} {value:.3f}" for name, value in found.items() if name != "loss")
