"""Compare native ResNets with torchvision on the same random weights: maximum difference of features.

python tools/bench/parity.py
"""

from __future__ import annotations

import copy

import torch
import torchvision
from torch import Tensor, nn
from zoo_native import plugin

from zoo.plugin import Entry, ImageInput

NAMES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""All ResNets of torchvision."""
DILATIONS = ((False, False, True), (False, True, True))
RGB = ImageInput(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


def compare(name: str, *, dilation: tuple[bool, ...] = (False,) * 3, train: bool = False) -> tuple[float, float]:
    """Return the maximum difference of pooled features between zoo and torchvision, and between two images.

    Weights and BatchNorm statistics are random, and loaded strictly by the `adapt` of the plugin.
    """
    entry = Entry(f"native/{name}", "native", "image", RGB, options={"arch": name, "dilation": list(dilation)})
    with torch.device("meta"):
        ours = plugin.build(entry, {}).module
        theirs = getattr(torchvision.models, name)(replace_stride_with_dilation=dilation)
    state = random_state(theirs)
    theirs.load_state_dict(state, assign=True)
    # Both may share tensors, unless training mode updates BatchNorm statistics.
    ours.load_state_dict(plugin.adapt(entry, copy.deepcopy(state) if train else state, {}), assign=True)
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        mine, wanted = ours.train(train)(images).pooled, theirs.train(train)(images)
    return float((mine - wanted).abs().max()), float((wanted[0] - wanted[1]).abs().max())


def random_state(net: nn.Module) -> dict[str, Tensor]:
    """Return a random state dict, scaled so that features of the deepest net are about 1."""
    return {key: _random(key, tensor) for key, tensor in net.state_dict().items()}


def _random(key: str, like: Tensor) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if like.ndim > 1:  # a convolution or the head: variance 2 / fan-in, as ReLU halves it
        return torch.randn(like.shape) * (2 / like[0].numel()) ** 0.5
    if key.endswith("running_var"):
        return torch.rand(like.shape) * 0.4 + 0.8
    if key.endswith("weight"):  # of a BatchNorm; below 1, because residual branches add up
        return torch.rand(like.shape) * 0.4 + 0.4
    return torch.randn(like.shape) * 0.02


def main() -> None:
    """Print a table with a line per model, per dilation of resnet50 and for training mode."""
    torch.manual_seed(0)
    print(f"{'variant':<36} {'max difference':>14} {'between images':>14}")
    for name in NAMES:
        _print(name, *compare(name))
    for dilation in DILATIONS:
        flags = " ".join(str(flag).lower() for flag in dilation)
        _print(f"resnet50, dilation {flags}", *compare("resnet50", dilation=dilation))
    _print("resnet18, training mode", *compare("resnet18", train=True))


def _print(variant: str, error: float, spread: float) -> None:
    print(f"{variant:<36} {error:>14.1e} {spread:>14.3f}")


if __name__ == "__main__":
    main()
