"""Shared code of the benchmarks against other libraries: data, weights, subprocesses and result tables."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2] / "tests"))
import real_data

LITE0 = "timm/tf_efficientnet_lite0.in1k"
LITE1, LITE2 = "timm/tf_efficientnet_lite1.in1k", "timm/tf_efficientnet_lite2.in1k"
MINILM = "hf/sentence-transformers/all-MiniLM-L6-v2"
RESNET18 = "native/resnet18.tv_in1k"
VIT = "timm/test_vit.r160_in1k"
FASTAI = "fastai<3 fastcore fasttransform fastdownload plum-dispatch<2.10 beartype cloudpickle requests urllib3 certifi"
"""fastai and its import requirements beyond those of zoo; without spacy, which only its text module needs."""
NO_WEB = "fastprogress<1.1"  # later versions import a web framework
ACCURACY = re.compile(r"accuracy (\d\.\d+)")
Pairs = list[tuple[Path, str]]


@dataclass(frozen=True, slots=True)
class Given:
    """Arguments of a side: the seed, whether to run only a few steps, and the folder of prepared data."""

    seed: int
    quick: bool
    work: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a process: total seconds, figures, and output lines with their times in seconds."""

    seconds: float
    figures: Mapping[str, float]
    lines: Sequence[tuple[float, str]]

    def reached(self, accuracy: float) -> float:
        """Return the seconds until a line reports this accuracy to three digits; infinite if none does."""
        summary = ((at, float(found[1])) for at, line in self.lines if (found := ACCURACY.search(line)))
        return next((at for at, value in summary if value >= round(accuracy, 3)), float("inf"))


Side = Callable[[Given], Mapping[str, float]]
Found = Mapping[str, Sequence[Outcome]]


def bench(
    sides: Mapping[str, Side],
    report: Callable[[Found], None],
    names: Sequence[str],
    make: Sequence[Callable[[Path], object]] = (),
) -> None:
    """Run every side in its own process, alternating, for each seed, and report; entry point of these processes too.

    names  backbones to put into the store      make  further preparation, not timed
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds; each side runs once per seed")
    parser.add_argument("--quick", action="store_true", help="run a few steps only, as a smoke test")
    parser.add_argument(
        "--only", nargs="+", choices=sides, metavar="SIDE", help="run only these sides, without a table"
    )
    for internal in ("--side", "--seed", "--work"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        figures = sides[given.side](Given(int(given.seed), given.quick, Path(given.work)))
        print(json.dumps({**figures, "threads": sys.modules["torch"].get_num_threads()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pull(names, work)
        for prepare in make:
            prepare(work)
        found: dict[str, list[Outcome]] = {name: [] for name in given.only or sides}
        for seed in range(given.seeds):
            for name in found:
                found[name].append(run(name, seed, work, given.quick))
    if not given.only:
        print()
        report(found)


def run(name: str, seed: int, work: Path, quick: bool) -> Outcome:
    """Run one side of the calling script, with a store that contains only the weights, and without a Hub."""
    command = [sys.executable, "-u", sys.argv[0], "--side", name, "--seed", str(seed), "--work", str(work)]
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as errors:
        shutil.copytree(work / "store", home, dirs_exist_ok=True)
        start = time.perf_counter()
        lines = []
        with subprocess.Popen(
            command + ["--quick"] * quick, env=_environment(home), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            lines = [(time.perf_counter() - start, line.rstrip()) for line in process.stdout or ()]
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{name} exited {process.returncode}:\n{errors.read()[-3000:]}")
    outcome = Outcome(seconds, json.loads(lines[-1][1]), lines[:-1])
    summary = ", ".join(f"{key} {value:.4g}" for key, value in outcome.figures.items())
    print(f"{name}, seed {seed}: {seconds:.1f} s, {summary}", flush=True)
    return outcome


def _environment(home: str) -> dict[str, str]:
    """Return an environment with the store in `home`, without other caches and GPUs."""
    isolated = {"HF_HOME": f"{home}/hf", "FASTAI_HOME": f"{home}/fastai", "HF_ENDPOINT": "http://127.0.0.1:9"}
    return os.environ | isolated | {"ZOO_HOME": home, "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "true"}


def pull(names: Sequence[str], work: Path) -> None:
    """Pull weights into a store in `work` from a loopback Hub with their real repository names."""
    from hub import Hub

    with Hub(dict(_repository(name, work) for name in names)) as hub:
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(work / "hf"), "ZOO_HOME": str(work / "store")}
        import zoo

        for name in names:
            zoo.pull(name)


def _repository(name: str, work: Path) -> tuple[str, dict[str, bytes]]:
    """Return the repository name and files of a backbone; only the weights of EfficientNet-Lite and MiniLM are real."""
    plugin, _, repo = name.partition("/")
    if plugin == "hf":
        folder = real_data.minilm()
        return repo, {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    import timm
    import torch
    from safetensors.torch import save

    net = timm.create_model(repo)
    if name in (LITE0, LITE1, LITE2):
        number = (LITE0, LITE1, LITE2).index(name)
        published = torch.load(real_data.lite(number), weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), published.values(), strict=True)), strict=True)
    weights = save(net.state_dict())
    (work / f"{repo}.safetensors").write_bytes(weights)
    return f"timm/{repo}", {"model.safetensors": weights}


def photos(work: Path) -> None:
    """Composite the transparent photos on white: libraries differ in their background colour."""
    from PIL import Image

    for path in real_data.photos().rglob("*.png"):
        place = work / "photos" / path.relative_to(real_data.photos())
        place.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        Image.alpha_composite(white, image).convert("RGB").save(place)


def halves(given: Given) -> tuple[Pairs, Pairs]:
    """Return the photos, half of each class for training and half for validation."""
    train, valid = [], []
    for folder in sorted((given.work / "photos").iterdir()):
        paths = random.Random(given.seed).sample(sorted(folder.iterdir()), len(list(folder.iterdir())))
        half, limit = len(paths) // 2, 2 if given.quick else None
        train += [(path, folder.name) for path in paths[:half][:limit]]
        valid += [(path, folder.name) for path in paths[half:][:limit]]
    return train, valid


def mails(given: Given) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return 400 training and 1,000 validation mails."""
    train, valid = real_data.mail_split(given.seed)
    return (train[:32], valid[:32]) if given.quick else (train, valid)


def fastai(work: Path | None = None) -> Path:
    """Install fastai into a cached folder, outside of the environment, and return it."""

    def fill(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *FASTAI.split(), NO_WEB, "charset-normalizer"], check=True)

    return real_data.once("fastai", fill)


def mean(outcomes: Sequence[Outcome], figure: str) -> float:
    """Return the mean of a figure over the seeds."""
    return statistics.fmean(outcome.figures[figure] for outcome in outcomes)


def seconds(outcomes: Sequence[Outcome]) -> float:
    """Return the mean process time in seconds."""
    return statistics.fmean(outcome.seconds for outcome in outcomes)


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns, the first left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        print(first.ljust(widths[0]), *cells, sep="  ")
