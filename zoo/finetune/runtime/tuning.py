"""Tuning: calibrate the machine by timing reference networks, for `zoo doctor --tune`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.console import Bar
from zoo.errors import ZooError
from zoo.finetune.network import autocast, set_memory_format
from zoo.finetune.runtime import machine, workers
from zoo.finetune.runtime.machine import Kind, Preferred

ROUNDS = 9
EXAMPLES = 8
"""Examples of a part; there is a part for each thread."""
GAIN = 0.8
"""An option is chosen if its shortest time is at most this share of the simpler one's."""
BUSY = 0.25
"""Processors in use by others from which timings are worth nothing."""
STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Option:
    """A kind of network, and how it runs; `plain` is the attention without a fused kernel."""

    kind: Kind
    precision: str
    plain: bool = False


OPTIONS = (
    *(Option(kind, precision) for kind in ("convolution", "depthwise") for precision in ("fp32", "bf16")),
    *(Option("attention", precision, plain) for precision in ("fp32", "bf16") for plain in (False, True)),
)


def calibrate() -> dict[Kind, Preferred]:
    """Time all options, choose, and store the choice for this machine. Raises ZooError if other processes are busy."""
    before, start = _busy_seconds(), time.monotonic()
    chosen = choose(measure(OPTIONS))
    others = (_busy_seconds() - before) / (time.monotonic() - start)
    if others > BUSY:
        raise ZooError(
            f"other processes use {others:.1f} of {os.cpu_count()} processors: timings would be theirs, none is stored",
            fix="zoo doctor --tune   (when they are done)",
        )
    try:
        machine.write(chosen)
    except OSError as error:
        raise ZooError(f"{machine.path()} cannot be written: {error}", fix="ZOO_HOME=/another/folder") from error
    return chosen


def measure(options: Sequence[Option], rounds: int = ROUNDS) -> dict[Option, float]:
    """Return the shortest of several interleaved times of a forward and backward pass, in seconds."""
    steps = {option: _Step(option) for option in options}
    times: dict[Option, list[float]] = {option: [] for option in options}
    with workers.one_thread_each(), Bar("tune", (rounds + 1) * len(options)) as bar:
        for _ in range(rounds + 1):
            for option, step in steps.items():
                start = time.perf_counter()
                step()
                times[option].append(time.perf_counter() - start)
                bar.advance()
    return {option: min(found[1:]) for option, found in times.items()}


def choose(seconds: Mapping[Option, float]) -> dict[Kind, Preferred]:
    """Return what is faster for each kind of network by more than the noise; ties go to fp32 and fused attention."""
    plain = tuple(
        precision
        for precision in ("fp32", "bf16")
        if seconds[Option("attention", precision, True)] < GAIN * seconds[Option("attention", precision)]
    )
    chosen: dict[Kind, Preferred] = {}
    for kind in machine.KINDS:
        best = {
            precision: min(took for one, took in seconds.items() if (one.kind, one.precision) == (kind, precision))
            for precision in ("fp32", "bf16")
        }
        faster = "bf16" if best["bf16"] < GAIN * best["fp32"] else "fp32"
        chosen[kind] = Preferred(faster, plain if kind == "attention" else ())
    return chosen


class _Step:
    """A training step of a reference network, without an optimizer, in as many parts as there are threads."""

    def __init__(self, option: Option) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.option = option
            self.network = _attention(option.plain) if option.kind == "attention" else _convolutions(option.kind)
            shape = (EXAMPLES, 128, 384) if option.kind == "attention" else (EXAMPLES, 32, 56, 56)
            self.inputs = torch.randn(shape)
        set_memory_format(self.network)
        self.parameters = list(self.network.parameters())

    def __call__(self) -> None:
        list(workers.parallel(self._part, range(workers.threads())))

    def _part(self, number: int) -> None:
        with autocast(torch.device("cpu"), self.option.precision):
            loss = self.network(self.inputs).float().square().mean()
        torch.autograd.grad(loss, self.parameters)


def _convolutions(kind: Kind) -> nn.Module:
    """Return four 3 x 3 convolutions, or the inverted residual blocks of a small EfficientNet (Sandler et al. 2018)."""
    if kind == "convolution":
        return nn.Sequential(*(nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()) for _ in range(4)))
    shapes = ((32, 96, 24, 1), (24, 144, 40, 2), (40, 240, 40, 1), (40, 240, 112, 2), *((112, 672, 112, 1),) * 2)
    return nn.Sequential(*(_inverted_block(*shape) for shape in shapes))


def _inverted_block(channels: int, inner: int, outer: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, inner, 1),
        nn.ReLU6(),
        nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner),
        nn.ReLU6(),
        nn.Conv2d(inner, outer, 1),
    )


def _attention(plain: bool) -> nn.Module:
    return nn.Sequential(*(_Layer(384, 12, plain) for _ in range(2)))


class _Layer(nn.Module):
    """A transformer layer (N, T, D) -> (N, T, D)."""

    def __init__(self, width: int, heads: int, plain: bool) -> None:
        super().__init__()
        self.heads, self.plain = heads, plain
        self.projections, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.projections(tokens).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (N, H, T, D/H)
        if self.plain:
            weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
            mixed = weights.to(value.dtype) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.joined(mixed.transpose(1, 2).flatten(2))
        result: Tensor = tokens + self.mlp(tokens)
        return result


def _busy_seconds() -> float:
    """Return the processor seconds that other processes have used since the machine started; 0 where unknown."""
    try:
        fields = STAT.read_text(encoding="utf-8").split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    ticks = os.sysconf("SC_CLK_TCK")
    own = sum(os.times()[:4])
    return (user + nice + system + irq + softirq + steal) / ticks - own
