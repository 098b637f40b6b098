"""Compare every native net with torchvision's on the same random weights: the largest difference of a feature.

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
"""Every residual net that torchvision has."""
DILATIONS = ((False, False, True), (False, True, True))
RGB = ImageInput(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


def largest_error(name: str, *, dilation: tuple[bool, ...] = (False,) * 3, train: bool = False) -> float:
    """Return the largest absolute difference of pooled features, for 2 random images of 64 pixels.

    Weights and BatchNorm statistics are random, and go through the plugin's `adapt` and a strict load.
    """
    entry = Entry(f"native/{name}", "native", "image", RGB, options={"arch": name, "dilation": list(dilation)})
    with torch.device("meta"):
        ours = plugin.build(entry, {}).module
        theirs = getattr(torchvision.models, name)(replace_stride_with_dilation=dilation)
    state = random_state(theirs)
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(
        copy.deepcopy(plugin.adapt(entry, state)) if train else plugin.adapt(entry, state), assign=True
    )
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        return float((ours.train(train)(images).pooled - theirs.train(train)(images)).abs().max())


def random_state(net: nn.Module) -> dict[str, Tensor]:
    """Return random tensors for a state dict, of a scale that leaves the features of the deepest net around 1."""
    return {key: _random(key, tensor) for key, tensor in net.state_dict().items()}


def _random(key: str, like: Tensor) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if like.ndim > 1:  # a convolution or the head: var 2 / fan-in, as ReLU halves it
        return torch.randn(like.shape) * (2 / like[0].numel()) ** 0.5
    if key.endswith(("running_var", "weight")):
        return torch.rand(like.shape) * 0.4 + (0.8 if key.endswith("running_var") else 0.2)
    return torch.randn(like.shape) * 0.1


def main() -> None:
    """Print a table: a line for each net, one for each dilation of the bottleneck nets, one in training mode."""
    torch.manual_seed(0)
    print(f"{'variant':<36} largest error")
    for name in NAMES:
        print(f"{name:<36} {largest_error(name):.1e}")
    for dilation in DILATIONS:
        label = "resnet50, dilation " + " ".join(str(flag).lower() for flag in dilation)
        print(f"{label:<36} {largest_error('resnet50', dilation=dilation):.1e}")
    print(f"{'resnet18, training mode':<36} {largest_error('resnet18', train=True):.1e}")


if __name__ == "__main__":
    main()
