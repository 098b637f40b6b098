"""ResNet, ResNeXt and Wide ResNet, CIFAR ResNets for small images, and plain variants without skip connections.

A block learns the residual F(x) of its output y = x + F(x) (He et al. 2015, arXiv 1512.03385): the identity is F = 0,
and the gradient dy/dx = 1 + F'(x) does not vanish with depth; see docs/skip-connections.md. Parameter names are those
of torchvision, so its weights can be loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.plugin import Features


@dataclass(frozen=True, slots=True)
class Architecture:
    """Hyperparameters of a ResNet.

    blocks       residual blocks per stage; every stage after the first halves the resolution and doubles the width
    bottleneck   blocks of 1x1, 3x3 and 1x1 convolutions with 4-fold expansion, instead of two 3x3
    width        channels of the stem and of the first stage
    groups       groups of the 3x3 convolution of a bottleneck (ResNeXt, arXiv 1611.05431)
    group_width  channels per group at width 64 (ResNeXt; Wide ResNet has 128, arXiv 1605.07146)
    small        CIFAR variant for images of about 32 pixels: 3x3 stem, parameter-free shortcuts (section 4.2)
    skip         False: plain net, the same convolutions without shortcuts
    dilation     per stage after the first: dilate its convolutions instead of halving the resolution
    zero_init    zero-initialise the last BatchNorm of every block (arXiv 1706.02677, section 5.1)
    """

    blocks: tuple[int, ...]
    bottleneck: bool = False
    width: int = 64
    groups: int = 1
    group_width: int = 64
    small: bool = False
    skip: bool = True
    dilation: tuple[bool, ...] = ()
    zero_init: bool = False


_SKIP = {
    "resnet18": Architecture((2, 2, 2, 2)),
    "resnet34": Architecture((3, 4, 6, 3)),
    "resnet50": Architecture((3, 4, 6, 3), bottleneck=True),
    "resnet101": Architecture((3, 4, 23, 3), bottleneck=True),
    "resnet152": Architecture((3, 8, 36, 3), bottleneck=True),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), bottleneck=True, groups=32, group_width=4),
    "resnext101_32x8d": Architecture((3, 4, 23, 3), bottleneck=True, groups=32, group_width=8),
    "resnext101_64x4d": Architecture((3, 4, 23, 3), bottleneck=True, groups=64, group_width=4),
    "wide_resnet50_2": Architecture((3, 4, 6, 3), bottleneck=True, group_width=128),
    "wide_resnet101_2": Architecture((3, 4, 23, 3), bottleneck=True, group_width=128),
    # depth = 6n + 2: the stem, three stages of n blocks of two convolutions, the head
    **{f"resnet{6 * n + 2}": Architecture((n, n, n), small=True, width=16) for n in (2, 3, 5, 7, 9)},
}


def plain_name(name: str) -> str:
    """Return the name of the plain variant: plain50 for resnet50, plainnext50_32x4d for resnext50_32x4d."""
    return name.replace("resnet", "plain").replace("resnext", "plainnext")


ARCHITECTURES = _SKIP | {plain_name(name): replace(arch, skip=False) for name, arch in _SKIP.items()}
"""Architecture by name: all residual nets, then their plain variants."""


def conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution with same padding (up to the stride), without bias because BatchNorm follows."""
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, groups, bias=False)


class PadShortcut(nn.Module):
    """Parameter-free shortcut (option A): subsample by the stride and pad channels with zeros."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + extra, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def shortcut(arch: Architecture, inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """Return the shortcut of a block: the identity if shapes agree, None in a plain net."""
    if not arch.skip:
        return None
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if arch.small:
        return PadShortcut(outputs - inputs, stride)
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))  # option B, a projection


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection."""

    expansion = 1

    def __init__(self, arch: Architecture, inputs: int, width: int, stride: int, dilation: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = conv(inputs, width, 3, stride, dilation[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, 1, dilation[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(arch, inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y if self.downsample is None else self.downsample(x) + y)


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution and 1x1 expansion with a skip connection.

    The stride is in the 3x3 ("v1.5", as in torchvision): in the first 1x1 it would discard 3 of 4 pixels.
    """

    expansion = 4

    def __init__(self, arch: Architecture, inputs: int, width: int, stride: int, dilation: tuple[int, int]) -> None:
        super().__init__()
        inner, outputs = width * arch.group_width // 64 * arch.groups, width * self.expansion
        self.conv1 = conv(inputs, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride, dilation[0], arch.groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(arch, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, 4 * width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y if self.downsample is None else self.downsample(x) + y)


class ResNet(nn.Module):
    """Images (N, channels, H, W) -> Features with pooled (N, dim): stem, stages of blocks, global average pooling.

    The submodules are conv1 and bn1 (the stem), then layer1, layer2, … (the stages, named in `layers`).
    """

    def __init__(self, arch: Architecture, channels: int = 3) -> None:
        super().__init__()
        self.small, self.dim = arch.small, arch.width
        self.conv1 = conv(channels, arch.width, 3) if arch.small else conv(channels, arch.width, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(arch.width)
        self.layers = [f"layer{number}" for number in range(1, len(arch.blocks) + 1)]
        block, dilation = Bottleneck if arch.bottleneck else BasicBlock, 1
        for stage, (name, count) in enumerate(zip(self.layers, arch.blocks, strict=True)):
            width, before = arch.width * 2**stage, dilation
            dilate = stage > 0 and bool(arch.dilation) and arch.dilation[stage - 1]
            dilation *= 2 if dilate else 1
            stride = 1 if stage == 0 or dilate else 2
            first = block(arch, self.dim, width, stride, (before, dilation))
            self.dim = width * block.expansion
            rest = (block(arch, self.dim, width, 1, (dilation, dilation)) for _ in range(count - 1))
            self.add_module(name, nn.Sequential(first, *rest))
        self._initialise(arch.zero_init)

    def forward(self, images: Tensor) -> Features:
        """Return the global average of the last feature map."""
        x = F.relu(self.bn1(self.conv1(images)))  # (N, channels, H, W) -> (N, width, H, W), H / 2 for large images
        if not self.small:
            x = F.max_pool2d(x, 3, stride=2, padding=1)  # -> (N, width, H / 4, W / 4)
        for name in self.layers:
            x = getattr(self, name)(x)  # each but the first: H / 2, W / 2, twice the width
        return Features(pooled=x.mean((2, 3)))  # (N, dim, h, w) -> (N, dim)

    def _initialise(self, zero_init: bool) -> None:
        """Initialise convolutions by Kaiming normal, fan-out mode (arXiv 1502.01852).

        BatchNorm keeps the default of torch: weight 1, bias 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)
