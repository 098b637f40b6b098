"""Peers of the small-data benchmark, each run in its own process: fastai, transformers' Trainer, SetFit, and zoo."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peer_models
import peers
import small_sets
from small_sets import Example
from small_sides import Cell, Side

SETFIT = "setfit sentence-transformers evaluate requests urllib3 certifi charset-normalizer"
FEW = 2
"""Most classes for SetFit: its pairs grow with the square of the examples."""
PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""


def zoo(cell: Cell) -> Mapping[str, Any]:
    """Fine-tune with the defaults of zoo, all examples for training."""
    import zoo

    model = zoo.load(cell.weights, "cpu").finetune(cell.train, valid=0, seed=cell.draw, quiet=True)
    return {"accuracy": model.evaluate(list(cell.test))["accuracy"]}


def fastai(cell: Cell) -> Mapping[str, Any]:
    """Call fine_tune(5) with the defaults of fastai's vision_learner and aug_transforms."""
    weights = Path(os.environ["ZOO_HOME"]).parent / f"{cell.weights.rpartition('/')[2]}.safetensors"
    learn, _ = peer_models.fastai_learner(cell.train, cell.test, weights, cell.draw, num_workers=0)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(5)
    return {"accuracy": float(learn.validate()[1])}


def trainer(cell: Cell) -> Mapping[str, Any]:
    """Fine-tune with transformers' Trainer, default TrainingArguments but for checkpoints."""
    with tempfile.TemporaryDirectory() as out:
        run, tokenised = peer_models.trainer(cell.train, Path(out), cell.draw, disable_tqdm=True)
        run.train()
        return {"accuracy": float(run.evaluate(tokenised(cell.test))["eval_accuracy"])}


def setfit(cell: Cell) -> Mapping[str, Any]:
    """Train with SetFit's default TrainingArguments: one epoch of pairs, then a logistic regression."""
    sys.path.append(str(_setfit()))
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    def table(pairs: Sequence[Example]) -> Dataset:
        return Dataset.from_dict({"text": [text for text, _ in pairs], "label": [label for _, label in pairs]})

    model = SetFitModel.from_pretrained(str(peers.real_data.minilm()), device="cpu")
    with tempfile.TemporaryDirectory() as out:
        settings = TrainingArguments(output_dir=out, seed=cell.draw, save_strategy="no", report_to="none")
        run = Trainer(model=model, args=settings, train_dataset=table(cell.train))
        run.train()
    found = model.predict([text for text, _ in cell.test])
    return {"accuracy": sum(str(a) == b for a, (_, b) in zip(found, cell.test, strict=True)) / len(cell.test)}


SIDES: dict[str, Side] = {"zoo process": zoo, "fastai": fastai, "Trainer": trainer, "SetFit": setfit}


def suits(cell: Cell) -> bool:
    """Return whether a side can run on a data set and its weights."""
    if cell.side == "fastai":
        return cell.weights.startswith("timm/")
    if cell.side == "SetFit":
        return cell.is_text and len(small_sets.split(cell.set).pool) <= FEW
    return cell.is_text or cell.side != "Trainer"


def process(cell: Cell) -> Mapping[str, Any]:
    """Run a side in a process of its own; returns its figures with seconds of imports, training and evaluation."""
    command = [sys.executable, sys.argv[0], "--cell", json.dumps(vars_of(cell))]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as home:  # no cache of an earlier run
        environment = os.environ | {"XDG_CACHE_HOME": home, "FASTAI_HOME": home, "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"TOKENIZERS_PARALLELISM": "true", "HF_DATASETS_CACHE": home, "ZOO_CACHE_GB": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{cell} exited {done.returncode}:\n{done.stderr[-3000:]}")
    after, found = resource.getrusage(resource.RUSAGE_CHILDREN), json.loads(done.stdout.splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**found, "cpu": round(cpu, 1), "wall": round(time.perf_counter() - start, 1)}


def vars_of(cell: Cell) -> dict[str, Any]:
    """Return the fields of a cell."""
    import dataclasses

    return dataclasses.asdict(cell)


def answer(cell: Cell) -> None:
    """Run a side in this process, and print its figures; entry point of the processes, which end with their parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    print(json.dumps(dict(SIDES[cell.side](cell))))


def _setfit() -> Path:
    """Install SetFit into a cached folder, outside of the environment, and return it."""

    def fill(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *SETFIT.split()], check=True)

    return peers.real_data.once("setfit", fill)
