"""Learning curves: the same draws of training examples for all models, and a job for each point, draw and model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from zoo import tasks
from zoo.console import counted
from zoo.data import in_memory
from zoo.data.examples import Columns, Examples
from zoo.data.fingerprint import fingerprint
from zoo.data.reading import ANY_COLUMNS, read, read_one
from zoo.data.seeding import derive_seed
from zoo.data.split import check_classes, held_out
from zoo.errors import DataError, RecipeError
from zoo.finetune.setup import AS_ONE, DEFAULT_SHARE, check_task
from zoo.jobs.job import Job
from zoo.model.load import load
from zoo.model.measurement import Measurement
from zoo.plugin import Entry

TEST_SHARE, MAX_TEST = 0.5, 1_000
"""Share that is kept apart as test items, and their number from which more would change little (3 points at most)."""
STRATEGIES = ("scratch", "probe", "auto")
SIZES = (1 / 8, 1 / 4, 1 / 2, 1)
DRAWS = 5
SEVERAL_LABELS = ("multilabel", "tag")
"""Tasks whose examples have several labels each."""
BYTES_A_PARAMETER = 20
"""Memory of training, as a rule of thumb: weights, gradients, two moments and a copy of the best weights in fp32."""
ACTIVATIONS = 1_500_000_000
"""Bytes that a batch of 32 takes beside that, as a rule of thumb."""
FEWEST = 2
"""Training examples."""
Size = float | int


@dataclass(frozen=True, slots=True)
class Design:
    """What is compared on which data: a pool of training examples to draw from, and the test items.

    sizes  numbers of training examples, smallest first
    """

    task: str
    pool: Examples
    test: Examples
    sizes: tuple[int, ...]
    draws: int
    seed: int

    @property
    def data(self) -> dict[str, str]:
        """Fingerprints of the pool and the test items."""
        return {"pool": fingerprint(self.pool), "test": fingerprint(self.test)}


@dataclass(frozen=True, slots=True)
class Data:
    """Where the examples come from, as given: the data, test data or the share kept apart, columns with the task."""

    source: object
    test: object = None
    columns: Columns = ANY_COLUMNS


def design(data: Data, entry: Entry, sizes: Sequence[Size], draws: int, seed: int) -> Design:
    """Read the data, keep test items apart and resolve the sizes. Raises DataError and RecipeError."""
    if type(draws) is not int or draws < 1:
        raise RecipeError(f"draws={draws!r} is not a whole number above 0", fix=f"draws={DRAWS} (--draws {DRAWS})")
    tasks.check_name(data.columns.task)
    source = in_memory.sequence(data.source, task=data.columns.task)  # an iterator is read once only
    pool, _ = read(source, modality=entry.modality, columns=data.columns)
    name = data.columns.task or tasks.infer(pool.inputs, pool.labels, entry.tasks)
    if not tasks.KINDS[name].labelled:
        what = f"{pool.origin} has no labels ({name}), and models are compared by how well they predict labels"
        raise RecipeError(what, fix="name the column of the labels: label=COLUMN (--label COLUMN)")
    check_task(name, entry, pool)
    pool, test = _apart(
        one_label_each(pool, name), Data(source, data.test, replace(data.columns, task=name)), entry, seed
    )
    check_task(name, entry, test)
    if tasks.KINDS[name].single_label:
        check_classes(pool, test)
    return Design(name, pool, test, _sizes(sizes, pool, name), draws, seed)


def one_label_each(examples: Examples, task: str) -> Examples:
    """Return examples whose several labels or numbers are one value each, as `finetune` splits them."""
    return replace(examples, labels=AS_ONE[task](examples.labels)) if task in AS_ONE else examples


def _apart(pool: Examples, data: Data, entry: Entry, seed: int) -> tuple[Examples, Examples]:
    """Return the pool and the test items: those given, a part of the data's own, or a share of the pool."""
    is_share = data.test is None or (isinstance(data.test, int | float) and not isinstance(data.test, bool))
    source = data.source if is_share else data.test
    own = one_label_each(read_one(source, modality=entry.modality, columns=data.columns), str(data.columns.task))
    if not is_share or (data.test is None and fingerprint(own) != fingerprint(pool)):
        return pool, own
    share = min(TEST_SHARE, MAX_TEST / len(pool)) if data.test is None else float(str(data.test))
    stratify = tasks.KINDS[str(data.columns.task)].single_label
    kept, held = held_out(pool, share, stratify=stratify, seed=derive_seed(seed, "test items"), name="test")
    return pool.at(kept), pool.at(held)


def _sizes(given: Sequence[Size], pool: Examples, task: str) -> tuple[int, ...]:
    """Return numbers of training examples: a share up to 1 of the pool, or a number above 1."""
    found, fewest = set(), max(FEWEST, _needed(pool, task))
    for size in given:
        count = round(size * len(pool)) if 0 < size <= 1 else int(size)
        if isinstance(size, bool) or size <= 0 or count != (round(size * len(pool)) if size <= 1 else size):
            raise RecipeError(
                f"size {size!r} is neither a share up to 1 nor a number of examples", fix="sizes=[0.5, 1]"
            )
        if not fewest <= count <= len(pool):
            what = f"size {size:g} is {counted(count, 'example')}: fewer than needed to have each label, {fewest}"
            if count > len(pool):
                what = f"size {size:g} is more than the {len(pool):,} examples that there are beside the test items"
            raise DataError(what, fix=f"sizes from {fewest} to {len(pool)}: sizes=[0.5, 1] (--sizes 1/2,1)")
        found.add(count)
    if not found:
        raise RecipeError("there are no sizes to compare at", fix="sizes=[1] (--sizes 1)")
    return tuple(sorted(found))


def _needed(pool: Examples, task: str) -> int:
    """Return how many examples the smallest draw with every label has at most."""
    if task in SEVERAL_LABELS:
        return len(set().union(*pool.labels))
    return len(set(pool.labels)) if tasks.KINDS[task].single_label else 0


def draw(pool: Examples, size: int, seed: int, task: str) -> list[int]:
    """Return the indices of `size` random examples; a larger draw of the same seed holds the smaller ones.

    Of classes, in their proportions, with two examples of each first, so that one can be held out for validation. Of
    several labels or tags, first examples that together have all of them.
    """
    order = random.Random(seed).sample(range(len(pool)), len(pool))
    if task in SEVERAL_LABELS:
        first = dict.fromkeys(_covering(pool, order))
        return list(first | dict.fromkeys(order))[:size]
    if not tasks.KINDS[task].single_label:
        return order[:size]
    ranks: Counter[Any] = Counter()
    counts = Counter(pool.labels)
    ranked = []
    for place, index in enumerate(order):
        label = pool.labels[index]
        rank = ranks[label]
        ranked.append((max(0, rank - 1) / counts[label], rank, place, index))
        ranks[label] += 1
    return [index for *_, index in sorted(ranked)[:size]]


def _covering(pool: Examples, order: Sequence[int]) -> list[int]:
    """Return the first examples of an order, as few as together have all labels, greedily."""
    seen: set[Any] = set()
    first = []
    for index in order:
        if not seen.issuperset(pool.labels[index]):
            seen.update(pool.labels[index])
            first.append(index)
    return first


def training_memory(params: int) -> int:
    """Return about how many bytes the training of so many parameters takes."""
    return params * BYTES_A_PARAMETER + ACTIVATIONS


@dataclass(frozen=True, slots=True)
class Settings:
    """What all runs of a backbone share: the identity of its weights, the device, and the fields of the recipe."""

    weights: str
    device: str
    fields: Mapping[str, Any]


def job(design: Design, model: tuple[str, str], place: tuple[int, int], settings: Settings, memory: int) -> Job:
    """Return the job of a model (backbone, strategy) at a place of the curve (size, number of the draw)."""
    run = {"task": design.task, "seed": design.seed, "data": design.data, **asdict(settings)}
    return Job(f"{__name__}:measure", {"model": list(model), "place": list(place), "run": run}, memory=memory)


def measure(
    pool: Examples, test: Examples, *, model: Sequence[str], place: Sequence[int], run: Mapping[str, Any]
) -> dict[str, Any]:
    """Fine-tune on one draw and measure on the test items and on the training examples.

    A fifth of the draw is held out for validation, as by `finetune`, if some class has two examples. Returns "scores"
    of the test items, the mean scores on the "train" and "valid" parts (None without the latter), and the resolved
    "strategy".
    """
    (backbone, strategy), (size, number), task = model, place, run["task"]
    kind = tasks.KINDS[task]
    of_draw = derive_seed(run["seed"], "draw", number) % 2**31
    drawn = pool.at(draw(pool, size, of_draw, task))
    try:
        kept, held = held_out(drawn, DEFAULT_SHARE, stratify=kind.single_label, seed=of_draw)
    except DataError:  # one example of each class
        kept, held = list(range(len(drawn))), []
    train, valid = drawn.at(kept), drawn.at(held)
    trained = load(backbone, run["device"])
    recipe = {**run["fields"], "strategy": strategy, "seed": of_draw}
    trained.finetune(train, task=task, valid=valid if held else 0, **recipe)
    assert trained.recipe is not None
    parts = {"test": test, "train": train} | ({"valid": valid} if held else {})
    scores = {name: _item_scores(trained.measure(part)) for name, part in parts.items()}
    return {
        "scores": [round(value, 6) for value in scores["test"].tolist()],
        "train": float(scores["train"].mean()),
        "valid": float(scores["valid"].mean()) if held else None,
        "strategy": trained.recipe.strategy,
    }


def _item_scores(found: Measurement) -> Tensor:
    return found.task.item_scores(found.outputs.values, found.outputs.targets)
