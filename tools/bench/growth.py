"""Benchmark growth: CPU time and peak memory at 10,000, 100,000 and 1,000,000 made-up examples, each in a process.

The exponent is the slope of log time over log size between the first size and the last: 1 is linear. Memory is the peak
above that of the imports. Sizes above an item's own limit are left out.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SIDE, CLASSES, BATCH = 16, 10, 256
VOCABULARY = [f"word{number}" for number in range(1_000)]


@functools.cache
def noise() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 80, (64, SIDE, SIDE, 3), np.uint8)


def image(number: int) -> Any:
    """Return a grey image of noise around the brightness of its class."""
    return noise()[number % 64] + noise().dtype.type(16 * (number % CLASSES))


def text(number: int) -> str:
    """Return a text of twelve words, drawn by its number."""
    import random

    draws = random.Random(number)
    return " ".join(draws.choices(VOCABULARY, k=12)) + f" word{number % CLASSES}"


def images(count: int) -> Iterator[tuple[object, int]]:
    return ((image(number), number % CLASSES) for number in range(count))


def texts(count: int) -> Iterator[tuple[str, int]]:
    return ((text(number), number % CLASSES) for number in range(count))


def served(data: object, modality: str) -> None:
    """Scan a stream, hold out validation rows and serve each batch of an epoch, without a network."""
    from zoo.data.examples import Columns
    from zoo.data.prepare import Preprocessing
    from zoo.data.streaming.windows import START
    from zoo.finetune import streamed
    from zoo.finetune.recipe import Recipe
    from zoo.plugin import Entry, ImageInput, TextInput, Tokenizer
    from zoo.tasks import make

    spec = ImageInput(SIDE, (0.5,) * 3, (0.5,) * 3) if modality == "image" else TextInput((), 32)
    entry = Entry("made/up", "made", modality, spec, tasks=("classify",))
    stream, _ = streamed.read(data, Columns(), None, entry)
    stream = streamed.hold_out(streamed.scanned(stream, None, needs_count=True), 0.2, 0)
    how = Preprocessing(spec, lazy=True)
    if modality == "text":
        sys.path.insert(0, str(ROOT / "tests"))
        import words

        how = Preprocessing(spec, Tokenizer(words.fast(tuple(VOCABULARY)), 0), length=32)
    train = stream.dataset(make("classify", stream.task_labels()), how, Recipe(batch_size=BATCH))
    assert stream.examples is not None
    for step, indices, window in train.steps(0, (0, START)):
        window.batch(indices)
        if step + 1 >= stream.examples // BATCH:
            break


def tar_files(count: int) -> None:
    """Serve PNG files in tar shards of 10,000, which were written before."""
    served(os.environ["GROWTH_SHARDS"] + f"/{count}/*.tar", "image")


def write_shards(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for start in range(0, count, 10_000):
        with tarfile.open(folder / f"{start:07}.tar", "w") as archive:
            for number in range(start, min(start + 10_000, count)):
                file = io.BytesIO()
                Image.fromarray(image(number)).save(file, "png")
                for extension, content in (("png", file.getvalue()), ("cls", b"%d" % (number % CLASSES))):
                    info = tarfile.TarInfo(f"{number:07}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def finetuned(count: int) -> None:
    """Train one epoch of a tiny network on a stream of images, through the public function."""
    import zoo

    Path("zoo.toml").write_text(
        f'["tiny/net"]\nplugin = "native"\nmodality = "image"\noptions = {{ arch = "resnet14", width = 4 }}\n'
        f"input = {{ size = {SIDE}, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}\n"
    )
    model = zoo.load("tiny/net", "cpu")
    model.finetune(lambda: images(count), strategy="scratch", epochs=1, batch_size=BATCH, evals=1, quiet=True)


def solved(count: int) -> None:
    """Solve the head of a probe on features (N, 64) that are mapped from the disk."""
    import torch

    from zoo.finetune.features import large_probe, linear_probe
    from zoo.finetune.features.linear_probe import ProbeData
    from zoo.store import cache_file
    from zoo.tasks import Classify

    features = cache_file.scratch("features", count * 64 * 4).view(torch.float32).view(count, 64)
    targets = torch.empty(count, dtype=torch.long)
    weight = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(0))
    for start in range(0, count, 10_000):
        draws = torch.Generator().manual_seed(start)
        part = slice(start, start + 10_000)
        features[part] = torch.randn(len(features[part]), 64, generator=draws)
        noise = torch.randn(len(features[part]), CLASSES, generator=draws)
        targets[part] = (features[part] @ weight + 4 * noise).argmax(1)
    large_probe.fit(Classify(tuple(range(CLASSES))), ProbeData(features, targets), None, 0, linear_probe.fit)


def fingerprinted(count: int) -> None:
    """Return the fingerprint of texts."""
    from zoo.data.examples import Examples
    from zoo.data.fingerprint import fingerprint

    found = list(texts(count))
    fingerprint(Examples([one for one, _ in found], [label for _, label in found], "made up"))


def near_duplicates(count: int) -> None:
    """Search the near-duplicates of a fifth of the texts in the others."""
    import torch

    from zoo.data.duplicates import near
    from zoo.data.texts import Texts

    ids = torch.randint(1_000, (count, 13), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    ids[: count // 100] = ids[-(count // 100) :]
    begins = torch.arange(count + 1) * 13
    zeros = torch.zeros(1, dtype=torch.int32).expand(count * 13)
    whole = Texts(ids.flatten(), zeros, zeros, begins, torch.arange(count), 0)
    held = count // 5
    assert near(whole.at(range(held, count)), whole.at(range(held))).exact == count // 100


ITEMS: dict[str, tuple[Callable[[int], None], int]] = {
    "near-duplicates of texts": (near_duplicates, 1_000_000),
    "fingerprint of texts": (fingerprinted, 1_000_000),
    "stream of arrays, served": (lambda count: served(lambda: images(count), "image"), 1_000_000),
    "stream of texts, served": (lambda count: served(lambda: texts(count), "text"), 1_000_000),
    "probe on mapped features": (solved, 1_000_000),
    "tar shards of PNG, served": (tar_files, 100_000),
    "fine-tuning on a stream": (finetuned, 100_000),
}
"""Name -> what runs, and the largest size."""


def child(name: str, count: int) -> None:
    """Run an item and print its CPU seconds and its peak memory in MB above that of the imports."""
    import torch

    import zoo.finetune.strategies
    import zoo.model.model  # noqa: F401

    torch.set_num_threads(1)
    before, start = _peak(), time.process_time()
    ITEMS[name][0](count)
    print(json.dumps([time.process_time() - start, _peak() - before]))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", default=list(ITEMS), choices=list(ITEMS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], int(given.child[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {"ZOO_HOME": f"{folder}/store", "ZOO_CONFIG_HOME": f"{folder}/config"}
        environ |= {"OMP_NUM_THREADS": "1", "GROWTH_SHARDS": f"{folder}/shards", "PYTHONPATH": str(ROOT)}
        for name in given.only:
            sizes = [size for size in given.sizes if size <= ITEMS[name][1]]
            print(name, flush=True)
            found = []
            for size in sizes:
                if ITEMS[name][0] is tar_files:
                    write_shards(Path(folder, "shards", str(size)), size)
                command = [sys.executable, __file__, "--child", name, str(size)]
                run = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, check=False)
                if run.returncode:
                    sys.exit(f"{name} at {size:,}: {run.stderr[-2000:]}")
                seconds, memory = json.loads(run.stdout.splitlines()[-1])
                found.append(seconds)
                per = f"{1e6 * seconds / size:8.1f} µs each"
                print(f"  {size:>9,}  {seconds:9.1f} CPU s {per}  {memory:7.0f} MB", flush=True)
            if len(found) > 1:
                slope = math.log(found[-1] / found[0]) / math.log(sizes[len(found) - 1] / sizes[0])
                print(f"  exponent {slope:.2f}", flush=True)


if __name__ == "__main__":
    main()
