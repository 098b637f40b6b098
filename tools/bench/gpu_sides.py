"""Sides of tools/bench/gpu.py: training by zoo, on data that are on the device, by timm's loop and by Trainer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from gpu_profile import Profile
from made_up import CLASSES, TOKENS, WORDS, pairs_of_texts

BATCH = 64
"""Examples of a step, of each process."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What is measured: nets by modality, the side of an image, and the number of examples."""

    images: tuple[str, ...]
    texts: Mapping[str, Mapping[str, int]]
    side: int
    examples: int


@dataclass(frozen=True, slots=True)
class Run:
    """Device, scale, steps that are not timed, the folder of images, and whether steps are profiled."""

    device: str
    scale: Scale
    few: int
    images: Path
    profiled: bool = False

    @property
    def many(self) -> int:
        """Steps until the end of the timing."""
        return 5 * self.few


def torch() -> Any:
    import torch

    return torch


def device_name(device: str) -> str:
    return torch().cuda.get_device_name(device) if device.startswith("cuda") else device


def redirected() -> Any:
    import contextlib

    return contextlib.redirect_stdout(sys.stderr)


@dataclass(frozen=True, slots=True)
class Speed:
    """Examples a second, and the peak memory of the device in bytes."""

    rate: float
    memory: float


class Clock:
    """Times the examples that pass through a module between the first and the last of some steps."""

    def __init__(self, run: Run) -> None:
        self.run, self.seen, self.times = run, 0, []
        self.profile = Profile(run.device) if run.profiled else None

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
                if self.profile:
                    self.profile.start() if len(self.times) == 1 else self.profile.stop()
        self.seen += len(inputs)

    def rate(self) -> float:
        """Return the examples/s."""
        return (self.run.many - self.run.few) * BATCH / (self.times[1] - self.times[0])


def rate(run: Run, side: str, train: Callable[[int, Clock], None]) -> Speed:
    """Return the examples/s after the first steps, in which kernels are chosen and batches wait in memory.

    With a profile, which is printed, the rate is that of a slowed run.
    """
    memory = torch().cuda if run.device.startswith("cuda") else None
    if memory:
        memory.reset_peak_memory_stats()
    clock = Clock(run)
    train(run.many + 1, clock)
    if clock.profile:
        print(f"profile of {side}: ", end="")
        print("\n".join(clock.profile.rows(run.many - run.few, clock.times[1] - clock.times[0])), flush=True)
    return Speed(clock.rate(), memory.max_memory_allocated() if memory else 0)


def ours(run: Run, name: str, data: Any, **fields: Any) -> Speed:
    import zoo

    def train(steps: int, clock: Clock) -> None:
        model = zoo.load(name, run.device)
        clock.watch(model.backbone.module)
        with redirected():
            model.finetune(
                data, strategy="full", valid=0, steps=steps, evals=1, batch_size=BATCH * processes(), precision="bf16",
                batchnorm="frozen", mixup="none", dropout=False, lr=1e-4, **fields,
            )  # fmt: skip

    return rate(run, f"{name} by zoo", train)


def processes() -> int:
    """Return how many processes torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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

    return rate(run, f"{name} on the device", train)


def one_batch(backbone: Any, run: Run, device: Any) -> Any:
    t = torch()
    if backbone.tokenizer is None:
        shape = (BATCH, 3, backbone.input.size, backbone.input.size)
        return t.randn(shape, device=device).contiguous(memory_format=t.channels_last)
    ids = t.randint(5, len(WORDS), (BATCH, TOKENS), device=device)
    return {"input_ids": ids, "attention_mask": t.ones_like(ids), "token_type_ids": t.zeros_like(ids)}


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

    return rate(run, f"{name} by timm", train)


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

    return rate(run, f"{name} by Trainer", train)
