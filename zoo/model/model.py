"""Model and load: a backbone, the head on top, and the verbs that work on both."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import tasks
from zoo.catalogue import plugins, rows
from zoo.console import say
from zoo.data import reading as reader
from zoo.data import prepare
from zoo.data.datasets import Labelled, Set
from zoo.data.examples import Columns, Examples
from zoo.data.prepare import How
from zoo.errors import DataError, PluginError, RecipeError
from zoo.finetune import distributed, messages, strategies
from zoo.finetune import job as jobs
from zoo.finetune import recipe as recipes
from zoo.finetune import setup as plans
from zoo.finetune.network import Network, Rows, features, lay_out, measured_rows, outputs
from zoo.finetune.recipe import Recipe
from zoo.finetune.setup import Plan
from zoo.finetune.training import checkpoint
from zoo.finetune.training.checkpoint import Keeper
from zoo.finetune.training.lr_finder import Rates
from zoo.model import artefact, generation, model_card
from zoo.model.restore import Restored, restore
from zoo.plugin import Backbone, Classifier, Entry, ImageInput, TextInput
from zoo.tasks import LANGUAGE, Prediction, Task
from zoo.weights import loader

Row = dict[str, float]
WORDS = re.compile(r"\w+|[^\w\s]")
"""How a text is taken apart for a tagger when it is not given as words: letters and digits, and each other sign."""


class Model:
    """A backbone with, once fine-tuned, a head for a task. Made by `zoo.load`.

    entry       the catalogue row of the backbone
    backbone    its module, dim and stages
    head, task  None until `finetune`
    history     one dict per measurement of the last fine-tuning: step, loss, valid_<metric>
    metrics     the metrics on its validation data ({} without any)
    tested      the metrics on data that was kept apart ({} without any)
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
        self.tested: Row = {}
        self.data: dict[str, Any] = {}

    @classmethod
    def restored(cls, saved: Restored) -> Model:
        """Return the model that a saved folder holds."""
        model = cls(saved.entry, saved.backbone, saved.files, saved.manifest["provenance"])
        model.pretrained = True
        model.head, model.task, model.recipe = saved.head, saved.task, saved.recipe
        model.metrics, model.tested = saved.manifest["metrics"], saved.manifest["tested"]
        model.data, model.history = saved.manifest["data"], saved.manifest["history"]
        return model

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
        resume: bool = False,
        test: object = None,
        input: str | Sequence[str] | None = None,
        label: str | None = None,
        seed: int = 0,
        **fields: Any,
    ) -> Model:
        """Train a new head, and as the strategy says the backbone, on labelled data; returns this model.

        data      a folder per class, a table (CSV, TSV, JSONL, Parquet), "hf:user/dataset", a DataFrame, a Dataset, or
                  a sized sequence of (input, label); texts without labels for a language model
        task      classify, multilabel, regress, tag, causal-lm or masked-lm; None: as the labels call for
        valid     share held out (of each class; 0: none), or validation data of its own
        strategy  auto, scratch, probe, full, lp-ft, gradual or lora; see Recipe, whose other fields are keywords too
        out       folder to save the model to; it must not exist or be empty
        resume    go on with the run to `out` that was stopped or killed, if there is one; it ends with the same bits
        test      share kept apart, or data of its own, by which nothing is chosen: measured at the end, as `tested`
        input     column of a table that holds the input (two: pairs of texts); label the one that holds the labels

        Raises DataError, RecipeError or ArtefactError before any training where the input is at fault.
        """
        wanted = recipes.make({"strategy": strategy, "seed": seed, **fields})
        place = out if out is None else Path(out)
        if place is not None and resume and artefact.is_saved(place):
            return self._finished(place)
        if place is not None:
            artefact.check_free(place)
        keeper = checkpoint.keeper(place, wanted.save_every, resume=resume)
        with distributed.together():
            start = time.monotonic()
            plan = self._planned(data, wanted, task, valid, test, Columns.of(input, label))
            self._run(plan, wanted, keeper)
            self.data["seconds"] = round(time.monotonic() - start, 2)
            if place is not None and distributed.rank() == 0:
                self.save(place)
            keeper.done()
            distributed.wait()
        return self

    def find_lr(
        self,
        data: object,
        *,
        task: str | None = None,
        strategy: str = "full",
        input: str | Sequence[str] | None = None,
        label: str | None = None,
        **fields: Any,
    ) -> Rates:
        """Return a suggestion for `lr`, and the loss at every rate tried; the model is as before afterwards.

        Takes the data and the recipe's fields as `finetune` does. Raises DataError and RecipeError.
        """
        wanted = recipes.make({"strategy": strategy, **fields})
        if wanted.strategy not in ("full", "scratch"):
            raise RecipeError(
                f'strategy="{strategy}" has no rate to be found: a probe is solved', fix='strategy="full"'
            )
        columns = Columns.of(input, label)
        before = self.entry, self.backbone
        try:
            job = self._planned(data, wanted, task, 0, None, columns).job
            if wanted.strategy == "scratch":
                self._start(job.recipe)
            found = strategies.find_lr(self.backbone, jobs.balanced(job))
        finally:
            self.entry, self.backbone = before
        say("find lr", f"lr={found.lr:g}   (the loss falls fastest there)")
        return found

    def evaluate(
        self, data: object, *, input: str | Sequence[str] | None = None, label: str | None = None
    ) -> dict[str, float]:
        """Return the task's metrics on labelled data; of a folder with train/ and test/ or valid/, the held-out part.

        Raises DataError for labels that the model does not know.
        """
        return self.measured(data, input=input, label=label)[0]

    def measured(
        self, data: object, *, input: str | Sequence[str] | None = None, label: str | None = None
    ) -> tuple[dict[str, float], dict[Any, dict[str, float]]]:
        """Return the metrics, and precision, recall, F1 and support of each class ({} for tasks without any)."""
        known = self.data.get("columns", {})
        columns = Columns.of(input or known.get("input"), label or known.get("label"))
        return self._measured(reader.read_one(data, modality=self.entry.modality, columns=columns))

    def _measured(self, examples: Examples) -> tuple[dict[str, float], dict[Any, dict[str, float]]]:
        network, task = self._tuned()
        rows = measured_rows(network, task, self._labelled(examples), self._precision())
        classes = task.per_class(rows.values, rows.targets) if isinstance(task, tasks.Classify) else {}
        return task.measure(rows.values, rows.targets), classes

    def predict(self, inputs: object, top: int = 1) -> list[Prediction]:
        """Return one Prediction for each input (one, or a list): its label, probability, and the `top` likeliest.

        A pair of texts is a tuple; a tagger takes lists of words, or texts that it splits. A causal language model
        goes on with each text, a masked one fills the mask token in it.
        """
        if not isinstance(top, int) or top < 1:
            raise RecipeError(f"top={top!r} is not a whole number above 0", fix="top=1")
        network, task = self._tuned()
        examples = prepare.inputs_only(inputs)
        if task.name == "causal-lm":
            return [Prediction(text) for text in self.generate(examples.inputs)]
        if task.name == "masked-lm":
            return generation.fill(network, self.backbone, examples, self._how(keep=False), top)
        if task.name == "tag":
            words = [WORDS.findall(item) if isinstance(item, str) else item for item in examples.inputs]
            examples = replace(examples, inputs=words)
        data = jobs.labelled(task, prepare.prepare(examples, self._how(keep=False)).inputs, None, None)
        found = outputs(network, data, precision=self._precision()).values
        if task.name == "tag":
            _check_all_read(examples, found)
        return task.decode(found, top)

    def embed(self, inputs: object) -> Tensor:
        """Return the backbone's pooled features (N, D), float32, on the CPU."""
        prepared = prepare.prepare(prepare.inputs_only(inputs), self._how(keep=False))
        found: Tensor = self._features(Labelled(prepared.inputs)).values
        return found

    def generate(self, prompts: str | Sequence[str], tokens: int = 50, temperature: float = 0.0) -> list[str]:
        """Return what a causal language model goes on with after each prompt, at most `tokens` tokens.

        At temperature 0 the likeliest token is taken each time; above, one is drawn, from torch's global generator.
        Raises RecipeError if the backbone is no causal language model.
        """
        if "causal-lm" not in self.entry.tasks or not isinstance(self.backbone.input, TextInput):
            raise RecipeError(
                f"{self.entry.name} is no causal language model",
                fix="zoo list --task causal-lm   (shows those that are)",
            )
        self._with_lm_head("causal-lm")
        many = [prompts] if isinstance(prompts, str) else list(prompts)
        return generation.go_on(self.backbone, many, self._how(keep=False), tokens, temperature)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save to a new folder, readable later with no network, catalogue or training data; returns the folder."""
        network, task = self._tuned()
        path = Path(folder)
        assert self.recipe is not None
        manifest = {
            "entry": rows.row_from_entry(self.entry),
            "task": task.to_dict(),
            "recipe": recipes.to_dict(self.recipe),
            "metrics": self.metrics,
            "tested": self.tested,
            "history": self.history,
            "data": self.data,
            "provenance": self.provenance,
        }
        kept = {name: p for name, p in self.files.items() if not name.endswith(".safetensors")}
        artefact.write(path, network.tensors(), manifest, model_card.write(manifest, path.name), kept)
        say("saved", f"{path}/   zoo predict {path} INPUT")
        return path

    @property
    def input(self) -> ImageInput | TextInput:
        """How inputs are prepared."""
        return self.backbone.input

    @property
    def device(self) -> torch.device:
        """Where the backbone's parameters are."""
        return next(self.backbone.module.parameters()).device

    def _planned(
        self, data: object, wanted: Recipe, task: str | None, valid: object, test: object, columns: Columns
    ) -> Plan:
        """Read the data and make a job of it; for a language-modelling task the backbone gets its head."""
        asked = plans.read(data, task, valid, test, columns, self.entry, wanted.seed)
        self._with_lm_head(asked.task)
        return plans.make(asked, wanted, self.backbone, self._classifier, pretrained=self.pretrained)

    def _labelled(self, examples: Examples) -> Set:
        """Prepare data to measure on."""
        assert self.task is not None
        blocks = self.task.name in LANGUAGE
        if not blocks:
            tasks.check(self.task.name, examples.inputs, examples.labels)
            self.task.targets(examples.labels)  # a label it does not know is told before the work of decoding
        prepared = prepare.prepare_all(examples, self._how(blocks=blocks))
        return jobs.labelled(self.task, prepared.inputs, prepared.examples.labels, self.backbone.tokenizer)

    def _how(self, *, keep: bool = True, blocks: bool = False) -> How:
        """Return how inputs are prepared under the recipe of the last fine-tuning."""
        return plans.how(self.backbone, self.recipe or Recipe(), keep=keep, blocks=blocks)

    def _features(self, data: Set) -> Rows:
        lay_out(self.backbone.module)
        return features(self.backbone.module, data, reads="pooled", precision="fp32")

    def _with_lm_head(self, task: str) -> None:
        """Load the backbone again with its language-modelling head where the task needs one and it has none yet."""
        if task not in LANGUAGE or self.backbone.lm_head is not None:
            return
        if self.head is not None:
            raise RecipeError(
                f"this model was fine-tuned to {self.task and self.task.name}: its language-modelling head is gone",
                fix=f'zoo.load("{self.entry.name}").finetune(data, task="{task}")',
            )
        entry = replace(self.entry, options={**self.entry.options, "lm_head": True}, dim=self.backbone.dim, params=None)
        plugin, device = plugins.load(entry.plugin), self.device
        fill = loader.load if self.pretrained else _random
        self.entry, self.backbone = entry, fill(plugin, entry, self.files)
        if self.backbone.lm_head is None:
            what = f"plugin '{entry.plugin}': {entry.name} lists {task} and builds no lm_head"
            raise PluginError(what, fix="report it to the plugin's author; other tasks are not affected")
        self.backbone.module.to(device).eval()

    def _classifier(self) -> Classifier | None:
        """Return the classifier that this model has: its own head, else the one the backbone was pretrained with."""
        if isinstance(self.head, nn.Linear) and self.task is not None and self.task.name == "classify":
            names = tuple((str(label),) for label in self.task.labels)
            return Classifier(names, self.head.weight.detach(), self.head.bias.detach())
        return loader.classifier(plugins.load(self.entry.plugin), self.entry, self.files, self.backbone.dim)

    def _run(self, plan: Plan, wanted: Recipe, keeper: Keeper) -> None:
        """Carry out a plan, and say what comes of it."""
        job, held = plan.job, plan.split.valid
        say("backbone", messages.backbone(self.entry, _count(self.backbone.module), tuned=self.head is not None))
        say("strategy", messages.strategy(wanted, job.recipe, len(job.train), job.warm is not None))
        self._start(job.recipe)
        asked = {"backbone": self.entry.name, "task": job.task.name, "data": plan.facts["fingerprint"]}
        keeper.begin(_asked(wanted) | asked)
        outcome = strategies.run(self.backbone, jobs.balanced(job), keeper)
        sure = {} if outcome.calibration is None else {"calibration": asdict(outcome.calibration)}
        self._keep(outcome, job.task, plan.facts | sure)
        if held:
            labels = held.examples.labels
            say("result", messages.result(self.metrics, job.task, labels, self.history, plan.apart is None))
        if plan.apart is not None:
            self.tested = self._measured(plan.apart)[0]
            say("test", messages.tested(self.tested, len(plan.apart)))

    def _keep(self, outcome: strategies.Outcome, task: Task, data: dict[str, Any]) -> None:
        self.head, self.task, self.recipe, self.data = outcome.head, task, outcome.recipe, data
        self.history, self.metrics = list(outcome.history), outcome.metrics
        self.pretrained = True  # what it is fine-tuned from next time

    def _finished(self, folder: Path) -> Model:
        """Become the model that an earlier run has saved already."""
        checkpoint.Keeper(checkpoint.unfinished(folder)).done()  # it was killed after saving, and before this
        say("resume", f"{folder} is finished")
        device = self.device
        self.__dict__.update(vars(Model.restored(restore(folder))))
        self.backbone.module.to(device).eval()
        assert self.head is not None
        self.head.to(device).eval()
        return self

    def _start(self, settled: Recipe) -> None:
        """Give the backbone the state that the strategy starts from."""
        if settled.strategy == "scratch":
            plugin = plugins.load(self.entry.plugin)
            fresh = loader.initialise(plugin, self.entry, self.files, settled.seed)
            fresh.module.to(self.device)
            self.backbone = fresh
        self.backbone.module.requires_grad_(settled.strategy != "probe")

    def _tuned(self) -> tuple[Network, Task]:
        if self.head is None or self.task is None:
            raise RecipeError(
                f"{self.entry.name} has no head yet: it has not been fine-tuned",
                fix=f'zoo.load("{self.entry.name}").finetune(data), or load a saved model: zoo.load("runs/…")',
            )
        return Network(self.backbone.module, self.head, self.task.reads), self.task

    def _precision(self) -> str:
        """Return the precision of the last fine-tuning; weights are laid out as is usually fastest."""
        lay_out(self.backbone.module)
        return self.recipe.precision if self.recipe else "fp32"


def _asked(wanted: Recipe) -> dict[str, Any]:
    """Return the settings that a run has to be gone on with; how often it is saved is not one."""
    return {name: value for name, value in recipes.to_dict(wanted).items() if name != "save_every"}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _random(plugin: Any, entry: Entry, files: Mapping[str, Path]) -> Backbone:
    return loader.initialise(plugin, entry, files, seed=0)


def _check_all_read(examples: Examples, found: list[Tensor]) -> None:
    """Raise DataError if a text has more words than were read: an answer for some of them would be misread."""
    for words, tags in zip(examples.inputs, found, strict=True):
        if len(words) != len(tags):
            what = f"a text of {len(words)} words is too long for this model, which read {len(tags)}"
            raise DataError(what, fix="split it into sentences")
