"""Benchmark training and features on a GPU: zoo against a loop over data on the device, and against timm and Trainer.

python tools/bench/gpu.py [--device cuda] [--small] [--only PART …] [--profile]

Random weights and made-up data: only speed, memory and agreement with the CPU count. The rate is that of the steps
after the first ones, until the device is done. The "device loop" trains the same module, in the same precision, on one
batch that is already on the device: nothing that reads data can be faster. --small uses tiny nets and few steps, for a
CPU. --profile prints what a step asks of the host and of the device, on both sides; its rates are
those of a slowed run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_sides import (
    Run,
    Scale,
    Speed,
    device_loop,
    device_name,
    inference_rate,
    one_batch,
    ours,
    processes,
    redirected,
    timm_loop,
    torch,
    trainer,
)

sys.path.append(str(Path(__file__).parents[2] / "tests"))
import made_up
from hub import Hub
from made_up import TOKENS, pairs_of_texts

BERT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


LARGE = Scale(("resnet50.a1_in1k", "vit_base_patch16_224.augreg_in21k"), {"minilm": MINILM, "bert": BERT}, 224, 2048)
SMALL = Scale(("test_resnet.r160_in1k",), {"tiny": TINY}, 160, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny nets, few steps")
    parser.add_argument("--only", nargs="+", help="run only these parts: agree, images, texts, features, peers, gpus")
    parser.add_argument("--profile", action="store_true", help="profile the steps of images and texts")
    given = parser.parse_args()
    scale, few = (SMALL, 2) if given.small else (LARGE, 20)
    parts = {"agree": agreement, "images": images, "texts": texts, "features": features, "peers": peers, "gpus": gpus}
    parts |= {"share": share}  # one process of "gpus"
    usual = ["images", "texts"] if given.profile else ["agree", "images", "texts", "features", "peers", "gpus"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        repos = {f"timm/{name}": made_up.vision(name) for name in {*scale.images, *SMALL.images}}
        repos |= {f"tiny/{name}": made_up.language(config, work / name) for name, config in scale.texts.items()}
        with Hub(repos) as hub:
            os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "hf"), "ZOO_HOME": str(work / "store")}
            made = made_up.folder_of_images(work / "images", scale.side, scale.examples)
            print(f"torch {torch().__version__}, {device_name(given.device)}, {os.cpu_count()} processors")
            for name in given.only or usual:
                start = time.perf_counter()
                for row in parts[name](Run(given.device, scale, few, made, given.profile)):
                    print(f"{name:9} {row}", flush=True)
                print(f"{name:9} took {time.perf_counter() - start:.0f} s", flush=True)


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


def ratio(name: str, own: Speed, bare: Speed) -> str:
    memory = f", {own.memory / 1e9:.2f} / {bare.memory / 1e9:.2f} GB" if bare.memory else ""
    return f"{name}: {own.rate:,.0f} / {bare.rate:,.0f} ex/s = {own.rate / bare.rate:.3f} of the device loop{memory}"


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


def gpus(run: Run) -> Iterator[str]:
    """Compare training in one process for each GPU with training in one; a CPU has two processes."""
    count = torch().cuda.device_count() if run.device.startswith("cuda") else 2
    if count < 2:
        yield "one GPU: nothing to compare"
        return
    command = [sys.executable, __file__, "--device", run.device.split(":")[0], "--only", "share"]
    command += ["--small"] if run.scale is SMALL else []
    for start in (
        command,
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *command[1:]],
    ):
        done = subprocess.run(start, capture_output=True, text=True)
        found = [line.removeprefix("share").strip() for line in done.stdout.splitlines() if "images/s" in line]
        yield from found or [f"failed: {done.stderr[-2000:]}"]


def share(run: Run) -> Iterator[str]:
    """Train as one of the processes of `gpus`, each on batches of BATCH images."""
    for name in run.scale.images:
        found = ours(run, f"timm/{name}", run.images, augment="crop-flip")
        if os.environ.get("RANK", "0") == "0":
            yield f"{name}, processes: {processes()}: {found.rate * processes():,.0f} images/s"


if __name__ == "__main__":
    main()
