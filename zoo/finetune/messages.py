"""The lines a run prints: data, backbone, strategy, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.data import split as splitting
from zoo.data.decode_cache import name_of
from zoo.data.duplicates import Duplicates
from zoo.data.prepare import Prepared, Split
from zoo.data.texts import Texts
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.job import Job
from zoo.finetune.recipe import augment_name
from zoo.finetune.streamed import Stream
from zoo.plugin import Entry
from zoo.tasks import Task
from zoo.tasks.intervals import Interval

MANY = 20
"""Distinct whole numbers from which labels may be quantities."""
SHOWN = 5
EXCERPT = 40
"""Characters of a text that are shown."""


def data(split: Split, task: Task) -> str:
    """Describe the data: number of examples and labels, task, validation split, truncated and skipped inputs."""
    train = split.train.examples
    count = len(train) + (len(split.valid.examples) if split.valid and split.held_out else 0)
    inputs = split.train.inputs
    things = "texts" if isinstance(inputs, Texts) else "images"
    skipped = f"; {len(split.skipped)} unreadable skipped, first {split.skipped[0]}" if split.skipped else ""
    truncated = f"; {inputs.truncated:,} truncated" if isinstance(inputs, Texts) and inputs.truncated else ""
    units = {"classify": "classes", "multilabel": "labels", "tag": "tags"}
    labels = f", {len(task.labels)} {units[task.name]}" if task.name in units else ""
    if task.name == "regress" and len(task.labels) > 1:
        labels = f", {len(task.labels)} numbers each"
    return f"{train.origin}: {count:,} {things}{labels} -> {task.name}; {split.description}{truncated}{skipped}"


def stream(stream: Stream, task: Task, held: int) -> str:
    """Describe a stream: number of examples and shards, task, validation data."""
    count = "examples" if stream.examples is None else f"{stream.examples:,} examples"
    shards = len(stream.source.shards)
    units = {"classify": "classes", "multilabel": "labels", "tag": "tags"}
    labels = f", {len(task.labels):,} {units[task.name]}" if task.name in units else ""
    from_stream = bool(stream.held and stream.held.rows)
    valid = (
        f"{held:,} {'rows of it held out' if from_stream else 'examples'} for validation" if held else "no validation"
    )
    parts = f" in {shards:,} shards" if shards > 1 else ""
    return f"{stream.source.origin}: {count}{parts}{labels} -> {task.name}; a stream, nothing kept on disk; {valid}"


def leak(held: Prepared, known: Prepared, found: Duplicates, names: tuple[str, str]) -> str:
    """Report the number of held-out examples with a near-duplicate in known data, with one pair of them.

    `names` are those of the two parts, such as ("validation", "training").
    """
    places = (found.held[0], found.train[0])
    pair = zip((held.examples.inputs[places[0]], known.examples.inputs[places[1]]), places, strict=True)
    some = found.searched + found.exact < len(held.examples)
    searched = f" ({found.searched:,} were searched for more than copies)" if some else ""
    count = f"{len(found.held):,} of {len(held.examples):,} {names[0]} examples{searched}"
    same = f", {found.exact:,} of them identical" if found.exact else ""
    shown = " ~ ".join(_excerpt(item, index) for item, index in pair)
    return f"{count} have a near-duplicate in the {names[1]} data{same}: the score is optimistic. {shown}"


def _excerpt(item: Any, index: int) -> str:
    if isinstance(item, list | tuple):  # words, or a pair of texts
        item = " ".join(item)
    if isinstance(item, str) and " " in item:
        return f"text {index} ({item[:EXCERPT]!r})"
    return name_of(item, index)


def many_numbers(labels: Sequence[Any], task: str) -> str:
    """Ask whether many whole numbers are quantities rather than classes; "" for other labels."""
    numbers = {label for label in labels if isinstance(label, int)} if task == "classify" else set()
    if len(numbers) < MANY or any(not isinstance(label, int) for label in labels):
        return ""
    return (
        f"{len(numbers)} whole-number classes, from {min(numbers)} to {max(numbers)}; "
        'if they are quantities: --task regress (task="regress")'
    )


def single_examples(split: Split) -> str:
    """Name the classes with one example, which was not held out; "" if there are none."""
    measured = set(map(str, split.valid.examples.labels)) if split.valid else set()
    found = [name for name in splitting.single_examples(split.train.examples) if name not in measured]
    if not found or not split.held_out:
        return ""
    names = ", ".join(map(repr, found[:SHOWN])) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    which = "class has one example, which stays" if len(found) == 1 else "classes have one example each, which stay"
    return f"{len(found)} {which} in training and cannot be measured: {names}"


def recipe(hp: Hyperparameters, examples: int) -> list[str]:
    """Return the resolved recipe in one or two lines: learning rates, batch, steps; augmentation, evaluations, seed."""
    images = hp.max_length is None
    views = ", 1 or 2 views" if hp.views is None else f", {hp.views} views" if hp.views > 1 else ""
    augment = f"augment {augment_name(hp.augment)}{views}, mixup {hp.mixup}" if images else ""
    texts = "" if images else f"up to {hp.max_length} tokens ({hp.truncation})"
    balance = "" if hp.class_balance == "none" else f"class balance {hp.class_balance}"
    if hp.strategy == "probe":
        penalty = "l2 by cross-validation" if hp.l2 is None else f"l2 {hp.l2:g}"
        augment = f"augment {augment_name(hp.augment)}{views}" if views else ""
        return [", ".join(filter(None, (penalty, augment, texts, balance, f"seed {hp.seed}")))]
    decay = f" (x {hp.layer_decay:g} a stage)" if hp.layer_decay != 1 else ""
    rates = f"lr {hp.lr:g} head, {hp.backbone_lr:g} backbone{decay}"
    epochs = hp.steps / -(-max(1, examples) // hp.batch_size)
    steps = f"batch {hp.batch_size}, {hp.steps} steps" + (f" = {epochs:.3g} epochs" if examples else "")
    schedule = f"{hp.schedule} after {hp.warmup_ratio:.0%} warm-up"
    first = ", ".join((rates, hp.optimizer, f"weight decay {hp.weight_decay:g}", schedule, steps))
    stopping = f"{min(hp.evals, hp.steps)} evaluations" + (f", patience {hp.patience}" if hp.patience else "")
    return [first, ", ".join(filter(None, (augment, texts, balance, stopping, f"seed {hp.seed}")))]


def backbone(entry: Entry, parameters: int, *, tuned: bool) -> str:
    """Describe a backbone: size and origin of the weights."""
    origin = f"pre-trained on {entry.pretrained_on or '?'}, verified" if entry.source else "random weights"
    return f"{entry.name}: {parameters / 1e6:.3g} M parameters, {'fine-tuned before' if tuned else origin}"


def strategy(job: Job, *, pretrained_head: bool) -> str:
    """Describe what is trained, and why if the strategy was chosen automatically."""
    hp = job.hp
    count = f"{job.examples:,} examples" if job.examples else "a stream"
    reason = f" (auto: {count})" if job.recipe.strategy == "auto" else ""
    steps = f"up to {hp.steps} steps"
    norms = "" if hp.max_length else f", BatchNorm statistics {'updated' if hp.batchnorm == 'train' else 'frozen'}"
    held = f", the first {hp.freeze_stages} stages frozen" if hp.freeze_stages else ""
    adapted = f"{steps} on adapters of rank {hp.lora_rank}"
    if job.has_probe:
        adapted = f"a probe, then {adapted} from its head"
    descriptions = {
        "probe": "backbone frozen, a linear head on its features",
        "full": f"{steps} on all layers{held}{norms}",
        "lp-ft": f"a probe, then {steps} on all layers from its head{held}{norms}",
        "gradual": f"a probe, then {steps} from its head: the last stages, then more, then all{norms}",
        "lora": f"{adapted}, merged at the end",
        "scratch": f"random weights, {steps} on all layers",
    }
    known = "; the head starts from the pretrained one, which knows these labels" if pretrained_head else ""
    return f"{hp.strategy}{reason}: {descriptions[hp.strategy]}{known}"


def reference(
    found: Mapping[str, float],
    task: Task,
    labels: Sequence[Any],
    history: Sequence[Mapping[str, float]],
    *,
    tested: bool,
) -> str:
    """Return what to compare metrics to: a language model before training, else a model that ignores its inputs.

    Without test data, say that the best of several evaluations was selected by these very figures.
    """
    first = history[0]
    before = first.get(f"valid_{task.main_metric}") if first.get("step") == 0 and not task.labelled else None
    other = task.baseline(labels) if before is None else f"{task.main_metric} before {before:.3f}"
    optimistic = (
        "" if tested or len(history) == 1 else "; the best of several by this very data: test=0.2 keeps some apart"
    )
    return f"   ({other}{optimistic})"


def no_better_than_baseline(task: Task, labels: Sequence[Any], strategy: str) -> str:
    """Say that a model is no better than one that ignores its inputs, and what to try."""
    other = 'strategy="full"' if strategy == "probe" else 'strategy="probe"'
    return (
        f"no better than ignoring the inputs ({task.baseline(labels)}): check the labels, "
        f"then try more examples, {other}, or another backbone (zoo list)"
    )


def tested(count: int, duplicates: int) -> str:
    """Describe the test data, of which a number are duplicates of training or validation data."""
    seen = f"{duplicates:,} of them near-duplicates of training or validation data" if duplicates else ""
    return f"   ({count:,} test examples, {seen or 'not used for any choice'})"


def of_each_number(found: Mapping[Any, Mapping[str, float]]) -> str:
    """Return R² and the mean absolute error of each of several numbers."""
    shown = [f"{name}: r2 {row['r2']:.3f}, mae {row['mae']:.4g}" for name, row in found.items()]
    return "; ".join(shown[:SHOWN]) + (f"; and {len(shown) - SHOWN} more (zoo evaluate)" if len(shown) > SHOWN else "")


def metrics(found: Mapping[str, float], intervals: Mapping[str, Interval]) -> str:
    """Return metrics as text, without the loss, each with its 95 % confidence interval where it has one."""
    return ", ".join(
        f"{name.replace('_f1', '-F1')} {value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if (low, high) != (0, 0) else "")
        for name, value in found.items()
        if name != "loss"
        for low, high in [intervals.get(name, (0, 0))]
    )
