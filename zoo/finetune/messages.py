"""What a run says of itself, one line a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.data.decode_cache import name_of
from zoo.data.texts import Texts
from zoo.tasks import LANGUAGE

if TYPE_CHECKING:
    from zoo.data.duplicates import Duplicates
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


def leak(split: Split, found: Duplicates) -> str:
    """Say how many validation examples have a near-duplicate in training, and show one pair of them."""
    assert split.valid is not None
    pair = (split.valid.examples.inputs[found.valid[0]], split.train.examples.inputs[found.train[0]])
    names = " ~ ".join(_short(item, index) for item, index in zip(pair, (found.valid[0], found.train[0]), strict=True))
    count = f"{len(found.valid):,} of {len(split.valid.examples):,} validation examples"
    same = f", {found.exact:,} of them identical" if found.exact else ""
    return f"{count} have a near-duplicate among the training examples{same}: the score is too good by them. {names}"


def _short(item: Any, index: int) -> str:
    if isinstance(item, str) and " " in item:
        return f"text {index} ({item[:40]!r})"
    return name_of(item, index)


def backbone(entry: Entry, parameters: int, *, tuned: bool) -> str:
    """Say how large a backbone is and where its weights come from."""
    origin = f"pre-trained on {entry.pretrained_on or '?'}, verified" if entry.source else "random weights"
    return f"{entry.name}: {parameters / 1e6:.3g} M parameters, {'fine-tuned before' if tuned else origin}"


def strategy(wanted: Recipe, settled: Recipe, examples: int, warm: bool) -> str:
    """Say what is going to be trained, and why if nobody asked for it."""
    reason = f" (auto: {examples:,} examples)" if wanted.strategy == "auto" else ""
    steps = f"up to {settled.steps} steps"
    norms = "" if settled.max_length else f", BatchNorm statistics {settled.norm}"  # texts have a length, images norms
    held = f", the first {settled.freeze} stages frozen" if settled.freeze else ""
    everything = f"{steps} on all layers{held}{norms}"
    plans = {
        "probe": "backbone frozen, a linear head on its features",
        "full": everything,
        "lp-ft": f"a probe, then {everything} from its head",
        "gradual": f"a probe, then {steps} from its head: the last stages, then more, then all{norms}",
        "lora": f"{steps} on adapters of rank {settled.lora_rank}, merged afterwards",
        "scratch": f"random weights, {steps} on all layers",
    }
    known = "; the head starts from the pretrained one, which knows these labels" if warm else ""
    return f"{settled.strategy}{reason}: {plans[settled.strategy]}{known}"


def result(
    found: Mapping[str, float], task: Task, labels: Sequence[Any], history: Sequence[Mapping[str, float]], chosen: bool
) -> str:
    """Write metrics and what to compare them with: the network as it came if it knew the task, else no learning.

    With `chosen` it is said when the best of several measurements was picked by these very figures.
    """
    first = history[0]
    before = first.get(f"valid_{task.best}") if first.get("step") == 0 and task.name in LANGUAGE else None
    compared = task.baseline(labels) if before is None else f"{task.best} before {before:.3f}"
    honest = "; the best of several by this very data: test=0.2 keeps some apart" if chosen and len(history) > 1 else ""
    return f"{metrics(found)}   ({compared}{honest})"


def tested(found: Mapping[str, float], count: int) -> str:
    """Write the metrics on examples by which nothing was chosen."""
    return f"{metrics(found)}   ({count:,} examples by which nothing was chosen)"


def metrics(found: Mapping[str, float]) -> str:
    """Write metrics as people read them."""
    return ", ".join(f"{name.replace('_f1', '-F1')} {value:.3f}" for name, value in found.items() if name != "loss")
