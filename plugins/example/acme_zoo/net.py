"""ConvMixer (Trockman and Kolter 2022, arXiv 2201.09792): depthwise and pointwise convolutions on patches."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.plugin import Features


class Block(nn.Module):
    """Depthwise convolution with a skip connection, then a pointwise one: (N, C, H, W) -> the same."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, width, kernel, padding="same", groups=width)
        self.space_norm = nn.BatchNorm2d(width)
        self.channels = nn.Conv2d(width, width, 1)
        self.channels_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return feature maps of the same shape."""
        x = x + self.space_norm(F.gelu(self.space(x)))
        mixed: Tensor = self.channels_norm(F.gelu(self.channels(x)))
        return mixed


class ConvMixer(nn.Module):
    """Images (N, channels, H, W) with H and W multiples of `patch` -> Features of `width`, one token per patch."""

    def __init__(self, channels: int, width: int, depth: int, patch: int, kernel: int) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(nn.Conv2d(channels, width, patch, stride=patch), nn.GELU(), nn.BatchNorm2d(width))
        self.blocks = nn.Sequential(*(Block(width, kernel) for _ in range(depth)))

    def forward(self, images: Tensor) -> Features:
        """Return one feature vector per image and one token per patch."""
        x = self.blocks(self.stem(images))  # (N, channels, H, W) -> (N, D, H / patch, W / patch)
        tokens = x.flatten(2).transpose(1, 2)  # -> (N, T, D)
        return Features(pooled=tokens.mean(1), tokens=tokens)
