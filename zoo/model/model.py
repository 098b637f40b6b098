"""Model: a backbone with a head, and everything a user does with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, nn

from zoo import console
from zoo.catalogue import rows
from zoo.console import say
from zoo.data import prepare
from zoo.data.datasets import LabelledDataset, Prepared
from zoo.data.examples import Columns
from zoo.data.summary import DataSummary
from zoo.errors import RecipeError
from zoo.finetune import recipe as recipes
from zoo.finetune import setup
from zoo.finetune.callbacks import Callback
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.heads import stages_of
from zoo.finetune.inference import BATCH_SIZE
from zoo.finetune.network import Network
from zoo.finetune.recipe import Recipe, RecipeFields
from zoo.finetune.setup import Request, RequestOptions
from zoo.finetune.training.dry_run import Plan
from zoo.finetune.training.lr_finder import LearningRates
from zoo.model import answers, artefact, finetuning, generation, measurement, model_card
from zoo.model.device import resolve_device
from zoo.model.inputs import as_batch, batches
from zoo.model.measurement import Measurement, MeasureOptions
from zoo.model.restore import Restored
from zoo.plugin import Backbone, Entry, ImageInput, TextInput
from zoo.store import out_folder
from zoo.tasks import Mistake, Task

if TYPE_CHECKING:
    from zoo.evidence.report.report import Written
    from zoo.export.verify import Verified

Metrics = dict[str, float]


class Model:
    """A backbone with, once fine-tuned, a head for a task. Created by `zoo.load`.

    entry       catalogue row of the backbone
    backbone    its module, dim and stages
    head, task  None before `finetune`
    recipe      hyperparameters of the last fine-tuning, all resolved
    history     one dict per evaluation of the last fine-tuning: step, loss, valid_<metric>
    metrics     on the validation data; tested: on the test data; {} without any
    summary     what is known about the data it was fine-tuned on
    folder      where it is saved, None before `save`
    """

    def __init__(self, entry: Entry, backbone: Backbone, files: Mapping[str, Path], provenance: dict[str, Any]) -> None:
        self.entry = entry
        self.backbone = backbone
        self.files = dict(files)
        self.provenance = provenance
        self.pretrained = entry.source is not None
        self.weights_id = finetuning.digest({key: value for key, value in provenance.items() if key != "when"})
        self.head: nn.Module | None = None
        self.task: Task | None = None
        self.recipe: Hyperparameters | None = None
        self.history: list[Metrics] = []
        self.metrics: Metrics = {}
        self.tested: Metrics = {}
        self.summary: DataSummary | None = None
        self.training: dict[str, Any] = {}
        self.folder: Path | None = None

    @classmethod
    def restored(cls, saved: Restored) -> Model:
        """Return the model of a saved folder."""
        manifest = saved.manifest
        model = cls(saved.entry, saved.backbone, saved.files, manifest["provenance"])
        model.pretrained = True
        model.weights_id = finetuning.digest({"files": manifest["files"], "task": manifest["task"]})
        model.head, model.task, model.recipe, model.summary = saved.head, saved.task, saved.recipe, saved.summary
        model.metrics, model.tested, model.history = manifest["metrics"], manifest["tested"], manifest["history"]
        model.training, model.folder = manifest["training"], saved.folder
        return model

    def _become(self, saved: Restored) -> Model:
        """Become the model of a saved folder, on the present device."""
        device = self.device
        self.__dict__.update(vars(Model.restored(saved)))
        self.module.eval()
        return self.to(device)

    def __repr__(self) -> str:
        task = f", task={self.task.name!r}" if self.task else ""
        return f"Model({self.entry.name!r}, dim={self.backbone.dim}{task})"

    def finetune(
        self,
        data: object,
        labels: object = None,
        recipe: Recipe | None = None,
        *,
        task: str | None = None,
        valid: object = 0.2,
        test: object = None,
        input: str | Sequence[str] | None = None,
        label: str | Sequence[str] | None = None,
        groups: str | None = None,
        out: str | os.PathLike[str] | None = None,
        resume: bool = False,
        folds: int = 0,
        fixes: object = None,
        stream: bool = False,
        classes: str | Sequence[Any] | None = None,
        callbacks: Sequence[Callback] = (),
        track: str | Sequence[str] = (),
        report: bool | None = False,
        quiet: bool = False,
        **fields: Unpack[RecipeFields],
    ) -> Model:
        """Train a new head, and depending on the strategy the backbone, on labelled data; returns this model.

        data      a folder per class, a table (CSV, TSV, JSONL, Parquet, CoNLL), "hf:user/dataset", a DataFrame, a
                  Dataset, a DataLoader, or a sequence or iterator of (input, label); texts without labels for a
                  language model; with `labels`, as in finetune(X, y), a sequence, array or Series of inputs
        recipe    hyperparameters; `fields` (strategy="full", lr=1e-3, …: see Recipe) override its own
        task      classify, multilabel, regress, tag, causal-lm or masked-lm; None: inferred from the labels
        valid     share held out for validation (stratified by class; 0: none), or validation data
        test      share kept apart, or test data, on which nothing is selected: measured at the end, as `tested`
        input     column of a table that holds the inputs (two: pairs of texts); label: the column of the labels, or
                  several, multi-hot or a number each
        groups    column of what must not be divided by a split (a patient), or "@file-name", "@camera" or "@thread"
        fixes     table of labels to change and examples to drop, as zoo.report(model, fixes="fixes.csv") writes it
        out       folder to save the model to; it must not exist or be empty
        resume    continue the run to `out` that was stopped or killed, if there is one; it ends with the same bits
        folds     measure by cross-validation over so many folds as well (training["folds"]); trains on everything
        stream    read the data in windows, and keep nothing on disk (docs/scale.md); classes: its classes, if known
        callbacks objects with on_step, on_evaluation or on_end (zoo.Callback); quiet: print nothing
        track     "tensorboard", "wandb", "mlflow" or "trackio", or several: log losses, scores and recipe there
        report    write out/report.html as well; None: if that costs less than a tenth of the run

        Raises DataError, RecipeError or ArtefactError before any training where an argument is at fault.
        """
        options = {"task": task, "valid": valid, "test": test, "input": input, "label": label, "groups": groups}
        options |= {"folds": folds, "track": track, "fixes": fixes, "stream": stream, "classes": classes}
        with console.quiet() if quiet else nullcontext():
            request = setup.request(data, labels, recipe, {**fields, **options}, callbacks)
            folder = out if out is None else Path(out)
            if report:
                finetuning.check_report(request, folder)
            resume = resume or (folder is not None and out_folder.is_restarted())
            if folder is not None and resume and artefact.is_saved(folder):
                self._become(finetuning.finished(self, request, folder))
            else:
                finetuning.finetune(self, request, folder, resume=resume)
            if folder is not None and report is not False and not request.is_stream:
                from zoo.evidence.report.report import after_run

                after_run(self, request.data, folder, wanted=report)
        return self

    def plan(
        self,
        data: object,
        labels: object = None,
        recipe: Recipe | None = None,
        **options: Unpack[RequestOptions],
    ) -> Plan:
        """Print and return what `finetune` with these arguments would do, its time and memory, by timing one batch.

        Nothing is trained, and the model is unchanged. Raises DataError and RecipeError as `finetune` does.
        """
        return finetuning.plan(self, setup.request(data, labels, recipe, options))

    def find_lr(
        self,
        data: object,
        recipe: Recipe | None = None,
        *,
        task: str | None = None,
        input: str | Sequence[str] | None = None,
        label: str | None = None,
        **fields: Unpack[RecipeFields],
    ) -> LearningRates:
        """Suggest a value for `lr` by a range test, with the loss at every rate; the model is unchanged afterwards.

        Arguments as in `finetune`; strategy "auto" means "full" here, as a probe has no learning rate. Raises
        DataError and RecipeError.
        """
        request = Request(data, recipes.make(fields, recipe), task, 0, None, Columns.of(input, label))
        return finetuning.find_lr(self, request)

    def evaluate(self, data: object, *, per_class: bool = False, **options: Unpack[MeasureOptions]) -> dict[str, Any]:
        """Return the task's metrics on labelled data; of a folder with test/ or valid/ beside train/, of that part.

        With `per_class` the key "per_class" holds precision, recall, F1 and support of each class (label, kind of
        entity), or the errors of each of several numbers. Raises DataError for labels that the model does not know.
        """
        found = self.measure(data, **options)
        return {**found.metrics, **({"per_class": found.per_class} if per_class else {})}

    def errors(self, data: object, **options: Unpack[MeasureOptions]) -> list[Mistake]:
        """Return the examples of labelled data that the model gets wrong, highest loss first; arguments of `evaluate`.

        Of numbers (regress) all examples, largest absolute error first. Raises RecipeError for language models.
        """
        return self.measure(data, **options).errors

    def measure(self, data: object, **options: Unpack[MeasureOptions]) -> Measurement:
        """Measure on labelled data as `evaluate` does; returns metrics, intervals, per_class, confusion and errors."""
        _check_count("batch_size", options.get("batch_size", BATCH_SIZE), BATCH_SIZE)
        return measurement.measure(self, data, options)

    def report(
        self,
        out: str | os.PathLike[str] = "report.html",
        data: object = None,
        *,
        fixes: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Written:
        """Write the evidence report as one HTML file; returns its path and findings. Options as of `zoo.report`."""
        from zoo.evidence.report.report import report

        return report(self, data, out, fixes, **options)

    def predict(self, inputs: object, top: int = 1, *, batch_size: int = BATCH_SIZE) -> Any:
        """Return a Prediction for one input, a list of them for many.

        Many are whatever `finetune` takes, labels ignored: a folder, a table, "hf:user/dataset", a DataFrame, a
        Dataset, a list or generator; and a Series, or an array or tensor (N, H, W, C) or (N, C, H, W). The str that a
        text model takes is a text, unless it is the name of a folder or file. `top` is the number of likeliest labels
        in Prediction.top. A tagger takes lists of words, or texts to be split into words; a model of text pairs takes
        tuples of two. A causal language model continues each text, a masked one fills the mask token in it. Raises
        DataError for an input that cannot be read.
        """
        _check_count("top", top, 1)
        many, single = self._as_batch(inputs, batch_size)
        found = answers.predictions(self, many, top, batch_size)
        return found[0] if single else found

    def predict_proba(self, inputs: object, *, batch_size: int = BATCH_SIZE) -> Any:
        """Return the probabilities of all labels, (N, K) in the order of task.labels; of a tagger a list of (words, K).

        Inputs as in `predict`. Raises RecipeError for tasks without probabilities: regression and language models.
        """
        found = self._outputs(inputs, "predict_proba", batch_size)
        return self._network()[1].probabilities(found)

    def logits(self, inputs: object, *, batch_size: int = BATCH_SIZE) -> Any:
        """Return the raw outputs of the head, (N, K); a list of (words, K) for a tagger. Inputs as in `predict`."""
        return self._outputs(inputs, "logits", batch_size)

    def embed(
        self, inputs: object, *, normalize: bool = False, stages: bool = False, batch_size: int = BATCH_SIZE
    ) -> Tensor:
        """Return the backbone's pooled features (N, D), float32, on the CPU; with `normalize` each of length 1.

        With `stages` the pooled outputs of its last stages are behind them in each row: those that the head reads, or
        without such a head the last five; RecipeError where there are none. Inputs as in `predict`; two texts for one
        embedding are the columns of a table, or ((text, text), None).
        """
        read = answers.stages(self) if stages else ()
        many, _ = self._as_batch(inputs, batch_size)
        return answers.embeddings(self, many, batch_size, normalize=normalize, stages=read)

    def generate(
        self,
        prompts: Any,
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        *,
        top_p: float = 1.0,
        top_k: int = 0,
        stop: str | Sequence[str] = (),
        batch_size: int = BATCH_SIZE,
    ) -> Any:
        """Return the continuation of a prompt, or a list of those of several, by a causal language model.

        Temperature 0 takes the likeliest token each time; above it one is drawn with torch's global generator, with
        `top_k` from the k likeliest ones (0: all), with `top_p` from the likeliest ones that together have this
        probability. A text ends before the first of `stop`. Raises RecipeError if the backbone is not a causal language
        model, or for an invalid setting.
        """
        _check_count("batch_size", batch_size, BATCH_SIZE)
        sampling = generation.Sampling.of(max_new_tokens, temperature, top_p, top_k, stop)
        if "causal-lm" not in self.entry.tasks or not isinstance(self.backbone.input, TextInput):
            raise RecipeError(
                f"{self.entry.name} is not a causal language model",
                fix="zoo list --task causal-lm   (lists those that are)",
            )
        finetuning.load_lm_head(self, "causal-lm")
        many, single = ([prompts], True) if isinstance(prompts, str) else self._as_batch(prompts, batch_size)
        how, parts = answers.preprocessing(self), batches(list(many), batch_size)
        found = [text for part in parts for text in generation.generate(self.backbone, part, how, sampling)]
        return found[0] if single else found

    @property
    def module(self) -> nn.Module:
        """The network as an nn.Module from prepared inputs (`preprocess`) to logits, for use in any training loop.

        It maps images (N, C, S, S), or a dict of token tensors (N, T), to logits (N, K), of tokens (N, T, K). Without a
        head it is the backbone, and returns zoo.plugin.Features.
        """
        return self.backbone.module if self.head is None else self._network()[0]

    def preprocess(self, inputs: object) -> Prepared:
        """Return inputs as the module takes them, on its device: images (N, C, S, S), or token tensors (N, T)."""
        examples = prepare.unlabelled(list(self._as_batch(inputs)[0]))
        prepared = prepare.prepare(examples, answers.preprocessing(self)).inputs
        batch = LabelledDataset(prepared).batch(torch.arange(len(prepared)))
        return batch.to(self.device).inputs

    def to(self, device: str | torch.device) -> Model:
        """Move backbone and head to a device ("auto", "cpu", "cuda", "mps", …); returns this model."""
        target = resolve_device(device)
        self.backbone.module.to(target)
        if self.head is not None:
            self.head.to(target)
        return self

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Save to a new folder, which loads without network, catalogue or training data; returns the folder."""
        (network, task), path = self._network(), Path(folder)
        assert self.recipe is not None
        assert self.summary is not None
        manifest = {
            "entry": rows.row_from_entry(self.entry),
            "task": task.to_dict(),
            "stages": [asdict(stage) for stage in stages_of(self.head)],
            "recipe": recipes.to_dict(self.recipe),
            "metrics": self.metrics,
            "tested": self.tested,
            "history": self.history,
            "data": self.summary.to_dict(),
            "training": self.training,
            "provenance": self.provenance,
        }
        card = model_card.write(manifest, path.name)
        self.folder = artefact.write(path, network.tensors(), manifest, card, self.files)
        say("saved", f"{path}/   zoo predict {path} INPUT")
        return path

    def export(
        self,
        format: str,
        path: str | os.PathLike[str],
        data: object = None,
        *,
        quantize: str | None = None,
        max_loss: float | None = None,
    ) -> Verified:
        """Write the model to a new folder that opens without zoo; returns the result of its verification.

        format    timm, transformers, sentence-transformers, onnx, torch-export, gradio, litserve or safetensors
        data      inputs to check the answers on, in any form of `finetune`; None: seeded random images or texts
        quantize  "int8", of onnx: measured against the float export on `data`, which has labels (or what of it the
                  fine-tuning held out); refused if its score falls by more than `max_loss` (None: 0.02)

        Raises ExportError, and leaves nothing behind, where the format cannot express the model or answers differently.
        """
        from zoo.model import exporting

        return exporting.export(self, format, Path(path), data, quantize, max_loss)

    @property
    def input(self) -> ImageInput | TextInput:
        """How inputs are prepared."""
        return self.backbone.input

    @property
    def device(self) -> torch.device:
        """Device of the backbone's parameters."""
        return next(self.backbone.module.parameters()).device

    def _as_batch(self, inputs: object, batch_size: int = BATCH_SIZE) -> tuple[Iterable[Any], bool]:
        _check_count("batch_size", batch_size, BATCH_SIZE)
        return as_batch(inputs, answers.reading(self))

    def _outputs(self, inputs: object, method: str, batch_size: int) -> Any:
        """Return the outputs of a task with a head."""
        _, task = self._network()
        if not task.labelled:
            fix = "model.predict(texts), or model.module(model.preprocess(texts)) for the logits of every token"
            raise RecipeError(f"{method} is for tasks with labels, and this is a {task.name} model", fix=fix)
        return answers.outputs(self, self._as_batch(inputs, batch_size)[0], batch_size)

    def _network(self) -> tuple[Network, Task]:
        return answers.network(self)


def _check_count(name: str, value: object, usual: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise RecipeError(f"{name}={value!r} is not a whole number above 0", fix=f"{name}={usual}")
