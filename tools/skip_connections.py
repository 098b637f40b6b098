"""Plot the effect of skip connections on Fashion-MNIST: gradient norms by depth, and training curves.

    python tools/skip_connections.py [--steps 300] [--seed 0] [--out docs/images/skip-connections.png]

Prints both as Markdown tables and plots them side by side. Takes seconds without training (--steps 0), else minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import real_data
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo_native.resnet import ARCHITECTURES, Architecture, ResNet

import zoo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUT = Path(__file__).parents[1] / "docs/images/skip-connections.png"
BATCH = 128
"""Batch size for the gradient norms."""
TRAINED = ("plain56", "resnet56")
TEST = 2_000
STYLE = {
    "plain20": ("tab:orange", "--"),
    "plain56": ("tab:red", "-"),
    "resnet20": ("tab:cyan", "--"),
    "resnet56": ("tab:blue", "-"),
    "resnet56, zero-init": ("tab:gray", ":"),
}

Curve = list[tuple[int, float]]


def gradients(arch: Architecture, images: Tensor, labels: Tensor, seed: int) -> Curve:
    """Return (layer, gradient norm of the loss) at the output of each block of an untrained net.

    images (N, 1, H, W) in [-1, 1], labels (N,); the norm is over the whole batch.
    """
    torch.manual_seed(seed)
    net = ResNet(arch, channels=1)
    head = nn.Linear(net.dim, 10)
    outputs: list[Tensor] = []
    for name in net.layers:
        for block in getattr(net, name):
            block.register_forward_hook(lambda block, inputs, output: outputs.append(output))
    loss = F.cross_entropy(head(net(images).pooled), labels)
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(loss, outputs)]
    return [(2 * block + 3, norm) for block, norm in enumerate(norms)]  # the stem is layer 1, a block has two


def all_gradients(seed: int) -> dict[str, Curve]:
    """Return the gradient norms of every net in the figure on the same batch."""
    pixels, classes, *_ = real_data.fashion_mnist()
    images = torch.from_numpy(pixels[:BATCH]).float().unsqueeze(1) / 127.5 - 1  # (N, 28, 28) -> (N, 1, 28, 28)
    labels = torch.from_numpy(classes[:BATCH]).long()
    nets = {name: ARCHITECTURES[name] for name in ("plain20", "plain56", "resnet20", "resnet56")}
    nets["resnet56, zero-init"] = replace(nets["resnet56"], zero_init=True)
    return {name: gradients(arch, images, labels, seed) for name, arch in nets.items()}


def train(name: str, steps: int, batch_size: int, seed: int) -> tuple[Curve, float]:
    """Train a net from scratch; return (step, mean training loss since the previous step) and the test accuracy."""
    images, labels, test_images, test_labels = real_data.fashion_mnist()
    model = zoo.load(f"native/{name}").finetune(
        list(zip(images, labels.tolist(), strict=True)),
        valid=0,
        strategy="scratch",
        steps=steps,
        batch_size=batch_size,
        evals=min(steps, 30),
        seed=seed,
    )
    test = list(zip(test_images[:TEST], test_labels[:TEST].tolist(), strict=True))
    curve = [(int(row["step"]), row["loss"]) for row in model.history]
    return curve, model.evaluate(test)["accuracy"]


def draw(norms: Mapping[str, Curve], losses: Mapping[str, Curve], out: Path) -> None:
    """Save the figure: gradient norms and, if given, training losses."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = 2 if losses else 1
    figure, grid = pyplot.subplots(1, panels, figsize=(5.5 * panels, 4), squeeze=False, layout="constrained")
    _plot(grid[0, 0], norms, "Before training: gradient at each block's output", "layer, from input to output")
    grid[0, 0].set(yscale="log", ylabel="gradient norm")
    if losses:
        _plot(grid[0, 1], losses, "Training on Fashion-MNIST", "step")
        grid[0, 1].set(ylim=(0, None), ylabel="training loss")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    pyplot.close(figure)


def _plot(axes: Axes, curves: Mapping[str, Curve], title: str, xlabel: str) -> None:
    for name, curve in curves.items():
        color, line = STYLE[name]
        axes.plot(*zip(*curve, strict=True), color=color, linestyle=line, label=name)
    axes.set(title=title, xlabel=xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def main() -> None:
    """Measure, print the tables and save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="training steps per net; 0: no training")
    parser.add_argument("--batch-size", type=int, default=32, help="batch size of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="PNG file")
    given = parser.parse_args()
    norms = all_gradients(given.seed)
    rows = [(name, f"{c[0][1]:.3g}", f"{c[-1][1]:.3g}", f"{c[0][1] / c[-1][1]:,.3g}") for name, c in norms.items()]
    print(table(("gradient norm", "first block", "last block", "ratio"), rows), flush=True)
    trained = {name: train(name, given.steps, given.batch_size, given.seed) for name in TRAINED if given.steps}
    if trained:
        rows = [(name, f"{c[0][1]:.3f}", f"{c[-1][1]:.3f}", f"{score:.3f}") for name, (c, score) in trained.items()]
        print(table(("trained", "first loss", "last loss", f"accuracy on {TEST:,} test images"), rows))
    draw(norms, {name: curve for name, (curve, _) in trained.items()}, given.out)
    print(f"\n{given.out}")


if __name__ == "__main__":
    main()
