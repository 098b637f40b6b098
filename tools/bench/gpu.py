"""Benchmark training and features on a GPU: zoo against a loop over data on the device, and against timm and Trainer.

python tools/bench/gpu.py [--device cuda] [--small]

Random weights and made-up data: only speed, memory and agreement with the CPU count. The rate is that of the steps
after the first ones, until the device is done. The "device loop" trains the same module, in the same precision, on one
batch that is already on the device: nothing that reads data can be faster. --small uses tiny nets and few steps, for a
CPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import made_up
from hub import Hub
from made_up import CLASSES, TOKENS, WORDS, pairs_of_texts

BATCH = 64
BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured: nets by modality, the side of an image, and the number of examples."""

    images: tuple[str, ...]
    texts: Mapping[str, Mapping[str, int]]
    side: int
    examples: int


LARGE = Scale(("resnet50.a1_in1k", "vit_base_patch16_224.augreg_in21k"), {"minilm": MINILM, "bert": BERT}, 224, 2048)
SMALL = Scale(("test_resnet.r160_in1k",), {"tiny": TINY}, 160, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny nets, few steps")
    parser.add_argument("--only", nargs="+", help="run only these parts: agree, images, texts, features, peers")
    given = parser.parse_args()
    scale, few = (SMALL, 2) if given.small else (LARGE, 20)
    parts = {"agree": agreement, "images": images, "texts": texts, "features": features, "peers": peers}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        repos = {f"timm/{name}": made_up.vision(name) for name in {*scale.images, *SMALL.images}}
        repos |= {f"tiny/{name}": made_up.language(config, work / name) for name, config in scale.texts.items()}
        with Hub(repos) as hub:
            os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "hf"), "ZOO_HOME": str(work / "store")}
            made = made_up.folder_of_images(work / "images", scale.side, scale.examples)
            print(f"torch {torch().__version__}, {device_name(given.device)}, {os.cpu_count()} processors")
            for name in given.only or parts:
                start = time.perf_counter()
                for row in parts[name](Run(given.device, scale, few, made)):
                    print(f"{name:9} {row}", flush=True)
                print(f"{name:9} took {time.perf_counter() - start:.0f} s", flush=True)


@dataclass(frozen=True, slots=True)
class Run:
    """Device, scale, steps that are not timed, and the folder of images."""

    device: str
    scale: Scale
    few: int
    images: Path

    @property
    def many(self) -> int:
        """Steps until the end of the timing."""
        return 5 * self.few


def torch() -> Any:
    import torch

    return torch


def device_name(device: str) -> str:
    return torch().cuda.get_device_name(device) if device.startswith("cuda") else device


def agreement(run: Run) -> Iterator[str]:
    """Compare the losses of the first steps with those of the CPU, mixed images included."""
    import zoo

    for name, data, fields in (
        (f"timm/{SMALL.images[0]}", pictures(), {"mixup": "both", "augment": "crop-flip"}),
        (f"timm/{SMALL.images[0]}", pictures(), {"mixup": "none", "augment": "randaugment"}),
        (text_name(run), pairs_of_texts(64), {"max_length": 32}),
    ):
        losses = {}
        for device in ("cpu", run.device):
            try:
                model = zoo.load(name, device)
            except zoo.ZooError:
                break
            with redirected():
                model.finetune(
                    data, strategy="full", valid=0, steps=4, evals=4, batch_size=16, precision="fp32", **fields
                )
            losses[device] = [row["loss"] for row in model.history]
        if run.device in losses:
            apart = max(abs(a - b) / abs(a) for a, b in zip(losses["cpu"], losses[run.device], strict=True))
            yield f"{name} {fields}: losses differ by {apart:.1e} at most"


def pictures() -> list[tuple[Any, str]]:
    import numpy as np

    draws = np.random.default_rng(0)
    return [(draws.integers(0, 256, (180, 200, 3), np.uint8), f"class{number % 4}") for number in range(64)]


def text_name(run: Run) -> str:
    return f"hf/tiny/{next(iter(run.scale.texts))}"


def redirected() -> Any:
    import contextlib

    return contextlib.redirect_stdout(sys.stderr)


def images(run: Run) -> Iterator[str]:
    """Compare full fine-tuning of image nets, without and with augmentation, with the device loop."""
    for name in run.scale.images:
        bare = device_loop(run, f"timm/{name}")
        for augment in ("none", "crop-flip", "randaugment"):
            own = ours(run, f"timm/{name}", run.images, augment=augment)
            yield ratio(f"{name}, {augment}", own, bare)


def texts(run: Run) -> Iterator[str]:
    """Compare full fine-tuning of text encoders with the device loop."""
    for name in run.scale.texts:
        bare = device_loop(run, f"hf/tiny/{name}")
        own = ours(run, f"hf/tiny/{name}", pairs_of_texts(run.scale.examples), max_length=TOKENS)
        yield ratio(name, own, bare)


@dataclass(frozen=True, slots=True)
class Speed:
    """Examples a second, and the peak memory of the device in bytes."""

    rate: float
    memory: float


def ratio(name: str, own: Speed, bare: Speed) -> str:
    memory = f", {own.memory / 1e9:.2f} / {bare.memory / 1e9:.2f} GB" if bare.memory else ""
    return f"{name}: {own.rate:,.0f} / {bare.rate:,.0f} ex/s = {own.rate / bare.rate:.3f} of the device loop{memory}"


class Clock:
    """Times the examples that pass through a module between the first and the last of some steps."""

    def __init__(self, run: Run) -> None:
        self.run, self.seen, self.times = run, 0, []

    def watch(self, module: Any) -> None:
        """Count the examples of a module's forward passes."""
        module.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module: Any, args: Any, kwargs: Any) -> None:
        """Note the time of the two passes between which is timed."""
        inputs = args[0] if args else kwargs["input_ids"]
        inputs = inputs["input_ids"] if isinstance(inputs, Mapping) else inputs
        for step in (self.run.few, self.run.many):
            if self.seen < step * BATCH <= self.seen + len(inputs):
                if self.run.device.startswith("cuda"):
                    torch().cuda.synchronize()
                self.times.append(time.perf_counter())
        self.seen += len(inputs)

    def rate(self) -> float:
        """Return the examples/s."""
        return (self.run.many - self.run.few) * BATCH / (self.times[1] - self.times[0])


def rate(run: Run, train: Callable[[int, Clock], None]) -> Speed:
    """Return the examples/s after the first steps, in which kernels are chosen and batches wait in memory."""
    memory = torch().cuda if run.device.startswith("cuda") else None
    if memory:
        memory.reset_peak_memory_stats()
    clock = Clock(run)
    train(run.many + 1, clock)
    return Speed(clock.rate(), memory.max_memory_allocated() if memory else 0)


def ours(run: Run, name: str, data: Any, **fields: Any) -> Speed:
    import zoo

    def train(steps: int, clock: Clock) -> None:
        model = zoo.load(name, run.device)
        clock.watch(model.backbone.module)
        with redirected():
            model.finetune(
                data, strategy="full", valid=0, steps=steps, evals=1, batch_size=BATCH, precision="bf16",
                batchnorm="frozen", mixup="none", dropout=False, lr=1e-4, **fields,
            )  # fmt: skip

    return rate(run, train)


def device_loop(run: Run, name: str) -> Speed:
    """Train on one batch that is on the device."""
    from torch import nn
    from torch.nn.functional import cross_entropy

    import zoo

    t = torch()
    device = t.device(run.device)

    def train(steps: int, clock: Clock) -> None:
        backbone = zoo.load(name, run.device).backbone
        inputs = one_batch(backbone, run, device)
        labels = t.arange(BATCH, device=device) % CLASSES
        body, head = backbone.module.requires_grad_(True), nn.Linear(backbone.dim, CLASSES).to(device)
        clock.watch(body)
        net = nn.ModuleList([body, head]).eval()
        if name.startswith("timm/"):
            net = net.to(memory_format=t.channels_last)
        optimizer = t.optim.AdamW(net.parameters(), lr=1e-5, fused=device.type == "cuda")
        for _ in range(steps):
            with t.autocast(device.type, t.bfloat16):
                loss = cross_entropy(head(body(inputs).pooled), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return rate(run, train)


def one_batch(backbone: Any, run: Run, device: Any) -> Any:
    t = torch()
    if backbone.tokenizer is None:
        shape = (BATCH, 3, backbone.input.size, backbone.input.size)
        return t.randn(shape, device=device).contiguous(memory_format=t.channels_last)
    ids = t.randint(5, len(WORDS), (BATCH, TOKENS), device=device)
    return {"input_ids": ids, "attention_mask": t.ones_like(ids), "token_type_ids": t.zeros_like(ids)}


def features(run: Run) -> Iterator[str]:
    """Compare the features of a probe, decoding excluded, with a bare inference loop over data on the device."""
    import zoo
    from zoo.data.images import pixels
    from zoo.finetune.inference import extract_features

    t = torch()
    for name in run.scale.images:
        model = zoo.load(f"timm/{name}", run.device)
        from zoo.data.datasets import LabelledDataset
        from zoo.data.image_batches import Images

        paths = sorted(run.images.rglob("*.jpg"))
        stacked = t.stack([pixels(path, model.backbone.input, str(path)) for path in paths])
        data = LabelledDataset(Images(stacked, model.backbone.input, t.arange(len(stacked))))
        net = model.backbone.module.to(memory_format=t.channels_last)
        batch = one_batch(model.backbone, run, t.device(run.device))
        for precision in ("fp32", "bf16"):
            extract_features(net, data, reads="pooled", precision=precision)
            start = time.perf_counter()
            extract_features(net, data, reads="pooled", precision=precision)
            own = len(data) / (time.perf_counter() - start)
            bare = inference_rate(run, net, batch, precision)
            yield f"{name} {precision}: {own:,.0f} / {bare:,.0f} images/s = {own / bare:.3f} of a bare loop"


def inference_rate(run: Run, net: Any, batch: Any, precision: str) -> float:
    t = torch()
    steps = run.many

    def loop() -> None:
        with t.inference_mode(), t.autocast(run.device.split(":")[0], t.bfloat16, enabled=precision == "bf16"):
            for _ in range(steps):
                net(batch).pooled.float()
        if run.device.startswith("cuda"):
            t.cuda.synchronize()

    loop()
    start = time.perf_counter()
    loop()
    return steps * BATCH / (time.perf_counter() - start)


def peers(run: Run) -> Iterator[str]:
    """Compare with the loaders and loops of timm and of transformers' Trainer on the same data, each with 8 workers."""
    workers = min(8, os.cpu_count() or 1) if run.device != "cpu" else 0
    for name in run.scale.images:
        own = ours(run, f"timm/{name}", run.images, augment="crop-flip")
        other = timm_loop(run, name, workers)
        yield (
            f"{name}: {own.rate:,.0f} / {other.rate:,.0f} images/s = {own.rate / other.rate:.2f} x timm"
            f", {own.memory / 1e9:.2f} / {other.memory / 1e9:.2f} GB"
        )
    for name in run.scale.texts:
        own = ours(run, f"hf/tiny/{name}", pairs_of_texts(run.scale.examples), max_length=TOKENS)
        other = trainer(run, name, workers)
        yield (
            f"{name}: {own.rate:,.0f} / {other.rate:,.0f} texts/s = {own.rate / other.rate:.2f} x Trainer"
            f", {own.memory / 1e9:.2f} / {other.memory / 1e9:.2f} GB"
        )


def timm_loop(run: Run, name: str, workers: int) -> Speed:
    """Train as timm's training script does: its loader with prefetcher, its optimizer factory, autocast in bf16."""
    import timm
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    t = torch()
    device = t.device(run.device)
    side = run.scale.side

    def train(steps: int, clock: Clock) -> None:
        net = timm.create_model(name, num_classes=CLASSES).to(device, memory_format=t.channels_last).train()
        clock.watch(net)
        optimizer = create_optimizer_v2(net, opt="adamw", lr=1e-4)
        loader = create_loader(
            create_dataset("", run.images), (3, side, side), BATCH, is_training=True, num_workers=workers,
            device=device, use_prefetcher=device.type == "cuda", scale=(0.35, 1.0), hflip=0.5, color_jitter=None,
            persistent_workers=bool(workers), re_prob=0.0,
        )  # fmt: skip
        done = 0
        while done < steps:
            for batch, labels in loader:
                batch = batch.to(device).contiguous(memory_format=t.channels_last)
                with t.autocast(device.type, t.bfloat16):
                    loss = t.nn.functional.cross_entropy(net(batch), labels.to(device))
                loss.backward()
                t.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                done += 1
                if done == steps:
                    break

    return rate(run, train)


def trainer(run: Run, name: str, workers: int) -> Speed:
    """Train with transformers' Trainer in bf16 on tokenised texts."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    folder = run.images.parent / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts, labels = zip(*pairs_of_texts(run.scale.examples), strict=True)
    tokens = tokenizer(list(texts), truncation=True, max_length=TOKENS)
    rows = [
        {**{key: value[i] for key, value in tokens.items()}, "label": int(label[5:])} for i, label in enumerate(labels)
    ]

    def train(steps: int, clock: Clock) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=CLASSES)
        clock.watch(model)
        settings = TrainingArguments(
            output_dir=str(run.images.parent / "trainer"), max_steps=steps, per_device_train_batch_size=BATCH,
            bf16=True, save_strategy="no", report_to=[], logging_steps=10_000, use_cpu=run.device == "cpu",
            dataloader_num_workers=workers, dataloader_persistent_workers=bool(workers), disable_tqdm=True,
        )  # fmt: skip
        with redirected():
            Trainer(model, settings, train_dataset=rows, processing_class=tokenizer).train()

    return rate(run, train)


if __name__ == "__main__":
    main()
