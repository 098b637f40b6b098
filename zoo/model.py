"""Model and load: a backbone, the head on top, and the verbs that work on both."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import artefact, card, discovery, registry, statefile, store, tasks, weights
from zoo.console import say
from zoo.data import prepare
from zoo.data.examples import fingerprint, read_one
from zoo.errors import ArtefactError, RecipeError, ZooError
from zoo.finetune import recipe as recipes
from zoo.finetune import run
from zoo.finetune.loop import Labelled, Row, measure
from zoo.finetune.network import Network, features, outputs
from zoo.finetune.recipe import Recipe
from zoo.plugin import Backbone, Entry, ImageInput
from zoo.tasks import Prediction, Task


class Model:
    """A backbone with, once fine-tuned, a head for a task. Made by `zoo.load`.

    entry       the catalogue row of the backbone
    backbone    its module, dim and stages
    head, task  None until `finetune`
    history     one dict per measurement of the last fine-tuning: step, loss, valid_<metric>
    metrics     the metrics on its validation data ({} without any)
    """

    def __init__(self, entry: Entry, backbone: Backbone, files: Mapping[str, Path], provenance: dict[str, Any]) -> None:
        self.entry = entry
        self.backbone = backbone
        self.files = dict(files)
        self.provenance = provenance
        self.pretrained = entry.source is not None
        self.head: nn.Module | None = None
        self.task: Task | None = None
        self.recipe: Recipe | None = None
        self.history: list[Row] = []
        self.metrics: Row = {}
        self.data: dict[str, Any] = {}

    def __repr__(self) -> str:
        task = f", task={self.task.name!r}" if self.task else ""
        return f"Model({self.entry.name!r}, dim={self.backbone.dim}{task})"

    def finetune(
        self,
        data: object,
        *,
        task: str | None = None,
        valid: object = 0.2,
        strategy: str = "auto",
        out: str | os.PathLike[str] | None = None,
        seed: int = 0,
        **fields: Any,
    ) -> Model:
        """Train a new head, and as the strategy says the backbone, on labelled data; returns this model.

        data      a folder per class, or a sized sequence of (input, label)
        valid     share held out class by class (0: none), or validation data of its own
        strategy  auto, scratch, probe or full; see Recipe, whose other fields are keywords too
        out       folder to save the model to; it must not exist or be empty

        Raises DataError, RecipeError or ArtefactError before any training where the input is at fault.
        """
        wanted = recipes.make({"strategy": strategy, "seed": seed, **fields})
        if out is not None:
            artefact.check_free(Path(out))
        tasks.check_name(task)
        start = time.monotonic()
        split = prepare.train_and_valid(data, valid, self.input, seed=seed, skip_bad=wanted.skip_bad)
        train = split.train.examples
        job = tasks.infer(train.labels, task)
        say("data", _data_line(split, job))
        settled = self._settle(wanted, len(train))
        say("backbone", self._describe())
        say("strategy", _strategy_line(wanted, settled, len(train)))
        self._start(settled)
        held = _labelled(split.valid, job) if split.valid else None
        outcome = run.run(self.backbone.module, self.backbone.dim, job, _labelled(split.train, job), held, settled)
        self._keep(outcome, job, settled, _facts(split) | {"seconds": round(time.monotonic() - start, 2)})
        if split.valid:
            say("result", f"{_metrics_line(self.metrics)}   ({job.baseline(split.valid.examples.labels)})")
        if out is not None:
            self.save(out)
        return self

    def evaluate(self, data: object) -> dict[str, float]:
        """Return the task's metrics on labelled data; of a folder with train/ and test/ or valid/, the held-out part.

        Raises DataError for labels that the model does not know.
        """
        network, task = self._tuned()
        examples = read_one(data)
        targets = task.targets(examples.labels)
        prepared = prepare.prepare(examples, self.input)
        return measure(network, task, Labelled(prepared.images, targets), self._precision())

    def predict(self, inputs: object, top: int = 1) -> list[Prediction]:
        """Return one Prediction for each input (one, or a list): its label, probability, and the `top` likeliest."""
        if not isinstance(top, int) or top < 1:
            raise RecipeError(f"top={top!r} is not a whole number above 0", fix="top=1")
        network, task = self._tuned()
        images = prepare.prepare(prepare.inputs_only(inputs), self.input, keep=False).images
        return task.decode(outputs(network, images, precision=self._precision()), top)

    def embed(self, inputs: object) -> Tensor:
        """Return the backbone's pooled features (N, D), float32, on the CPU."""
        images = prepare.prepare(prepare.inputs_only(inputs), self.input, keep=False).images
        return features(self.backbone.module, images, precision="fp32")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save to a new folder, readable later with no network, catalogue or training data; returns the folder."""
        network, task = self._tuned()
        path = Path(folder)
        assert self.recipe is not None
        manifest = {
            "entry": registry.row_from_entry(self.entry),
            "task": task.to_dict(),
            "recipe": recipes.to_dict(self.recipe),
            "metrics": self.metrics,
            "history": self.history,
            "data": self.data,
            "provenance": self.provenance,
        }
        kept = {name: p for name, p in self.files.items() if not name.endswith(".safetensors")}
        artefact.write(path, network.state_dict(), manifest, card.write(manifest, path.name), kept)
        say("saved", f"{path}/   zoo predict {path} INPUT")
        return path

    @property
    def input(self) -> ImageInput:
        """How inputs are prepared."""
        assert isinstance(self.backbone.input, ImageInput)
        return self.backbone.input

    @property
    def device(self) -> torch.device:
        """Where the backbone's parameters are."""
        return next(self.backbone.module.parameters()).device

    def _settle(self, wanted: Recipe, examples: int) -> Recipe:
        return recipes.settle(
            wanted,
            examples=examples,
            image_size=self.input.size,
            pretrained=self.pretrained,
            cuda=self.device.type == "cuda",
        )

    def _keep(self, outcome: run.Outcome, task: Task, recipe: Recipe, data: dict[str, Any]) -> None:
        self.head, self.task, self.recipe, self.data = outcome.head, task, recipe, data
        self.history, self.metrics = list(outcome.history), outcome.metrics
        self.pretrained = True  # what it is fine-tuned from next time

    def _start(self, settled: Recipe) -> None:
        """Give the backbone the state that the strategy starts from."""
        if settled.strategy == "scratch":
            plugin = discovery.load(self.entry.plugin)
            fresh = weights.initialise(plugin, self.entry, self.files, settled.seed)
            fresh.module.to(self.device)
            self.backbone = fresh
        self.backbone.module.requires_grad_(settled.strategy != "probe")

    def _tuned(self) -> tuple[Network, Task]:
        if self.head is None or self.task is None:
            raise RecipeError(
                f"{self.entry.name} has no head yet: it has not been fine-tuned",
                fix=f'zoo.load("{self.entry.name}").finetune(data), or load a saved model: zoo.load("runs/…")',
            )
        return Network(self.backbone.module, self.head), self.task

    def _precision(self) -> str:
        return self.recipe.precision if self.recipe else "fp32"

    def _describe(self) -> str:
        count = sum(p.numel() for p in self.backbone.module.parameters())
        origin = (
            f"pre-trained on {self.entry.pretrained_on or '?'}, verified" if self.entry.source else "random weights"
        )
        if self.head is not None:
            origin = "fine-tuned before"
        return f"{self.entry.name}: {count / 1e6:.3g} M parameters, {origin}"


def load(name: str | os.PathLike[str], device: str = "auto") -> Model:
    """Load a backbone by its catalogue name, or a saved model by its folder.

    device  "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …

    Raises NameNotFound, StoreError, WeightsError, PluginError or ArtefactError.
    """
    place = _device(device)
    folder = _saved_folder(name)
    model = _load_saved(folder) if folder else _load_entry(registry.find(str(name)))
    model.backbone.module.to(place).eval()
    if model.head is not None:
        model.head.to(place).eval()
    return model


def _saved_folder(name: str | os.PathLike[str]) -> Path | None:
    """Tell a path from a name: a Path, what starts like one (./ ../ / ~), or a folder that holds a saved model."""
    path = Path(name).expanduser()
    explicit = not isinstance(name, str) or name.startswith((".", "/", "~"))
    return path if explicit or artefact.is_saved(path) else None


def _load_entry(entry: Entry) -> Model:
    plugin = discovery.load(entry.plugin)
    files = store.pull(entry)
    if entry.source is None:
        return Model(entry, weights.initialise(plugin, entry, files, seed=0), files, {"backbone": entry.name})
    provenance = {"backbone": entry.name, **(store.receipt(entry.name) or {})}
    return Model(entry, weights.load(plugin, entry, files), files, provenance)


def _load_saved(folder: Path) -> Model:
    manifest = artefact.read(folder)
    entry = registry.entry_from_row(manifest["entry"]["name"], manifest["entry"], catalogue=str(folder))
    plugin = discovery.load(entry.plugin)
    path = artefact.weights(folder, manifest)
    files = artefact.files(folder, manifest)
    backbone = weights.load(plugin, entry, files | {artefact.WEIGHTS: path})
    model = Model(entry, backbone, files, manifest.get("provenance", {}))
    model.pretrained = True
    model.task = tasks.from_dict(manifest["task"])
    model.head = _load_head(model.task, backbone.dim, path)
    model.recipe = recipes.make(manifest["recipe"])
    model.metrics, model.data = manifest["metrics"], manifest.get("data", {})
    model.history = manifest.get("history", [])
    return model


def _load_head(task: Task, dim: int, path: Path) -> nn.Module:
    with torch.device("meta"):
        head = task.head(dim)
    state, _ = statefile.read_state(path)
    mine = {name.removeprefix("head."): tensor for name, tensor in state.items() if name.startswith("head.")}
    try:
        head.load_state_dict(mine, strict=True, assign=True)
    except RuntimeError as error:
        raise ArtefactError(
            f"{path}: the head does not fit its {len(task.labels)} labels and {dim} features",
            fix="restore the folder from a copy, or fine-tune again",
        ) from error
    return head


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ZooError(
            f"device={name!r} cannot be used: {str(error).splitlines()[0]}", fix='device="auto", or "cpu"'
        ) from error
    return device


def _labelled(prepared: prepare.Prepared, task: Task) -> Labelled:
    return Labelled(prepared.images, task.targets(prepared.examples.labels))


def _facts(split: prepare.Split) -> dict[str, Any]:
    train = split.train.examples
    return {
        "origin": train.origin,
        "examples": len(train),
        "valid": len(split.valid.examples) if split.valid else 0,
        "skipped": len(split.skipped),
        "fingerprint": fingerprint(train),
    }


def _data_line(split: prepare.Split, task: Task) -> str:
    train = split.train.examples
    count = len(train) + (len(split.valid.examples) if split.valid else 0)
    left_out = f"; {len(split.skipped)} unreadable left out, first {split.skipped[0]}" if split.skipped else ""
    return f"{train.origin}: {count:,} images, {len(set(train.labels))} classes -> {task.name}; {split.said}{left_out}"


def _strategy_line(wanted: Recipe, settled: Recipe, examples: int) -> str:
    reason = f" (auto: {examples:,} examples)" if wanted.strategy == "auto" else ""
    plans = {
        "probe": "backbone frozen, a linear head on its features",
        "full": f"up to {settled.steps} steps on all layers, BatchNorm statistics {settled.norm}",
        "scratch": f"random weights, up to {settled.steps} steps on all layers",
    }
    return f"{settled.strategy}{reason}: {plans[settled.strategy]}"


def _metrics_line(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_f1', '-F1')} {value:.3f}" for name, value in metrics.items() if name != "loss")
