"""A segmentation network of our own, small enough for a CPU. Others are timm's, torchvision's and
segmentation-models-pytorch's, by their `_target_`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallUNet(nn.Module):
    """U-Net of `depth` levels: images (n, c, H, W) of any size to logits (n, num_classes, H, W).

    `width` are the channels of the first level; each level has twice as many as the one above it, at half the size. The
    first level is at the image's size divided by `stride`, and the logits are resized from there, bilinearly.
    Source: O. Ronneberger, P. Fischer, T. Brox, U-Net, arXiv:1505.04597, with batch norm and padding.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width: int = 24, depth: int = 4, stride: int = 2
    ) -> None:
        super().__init__()
        widths = [width << level for level in range(depth)]
        self.num_classes = num_classes
        self.stem = _layer(in_channels, width, stride)
        self.down = nn.ModuleList(_pair(a, b) for a, b in zip([width, *widths], widths, strict=False))
        above = reversed([*pairwise(widths)])
        self.up = nn.ModuleList(_pair(a + b, a) for a, b in above)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        found, kept = self.stem(image), list[Tensor]()
        for level, block in enumerate(self.down):
            found = block(F.max_pool2d(found, 2, ceil_mode=True) if level else found)
            kept.append(found)
        kept.pop()
        for block in self.up:
            beside = kept.pop()
            larger = F.interpolate(found, beside.shape[-2:], mode="nearest")
            found = block(torch.cat([larger, beside], 1))
        logits: Tensor = self.head(found)
        size = image.shape[-2:]
        return logits if logits.shape[-2:] == size else F.interpolate(logits, size, mode="bilinear")


def _layer(into: int, out: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 3x3 with batch norm."""
    convolution = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _pair(into: int, out: int) -> nn.Sequential:
    """Two such."""
    return nn.Sequential(*_layer(into, out), *_layer(out, out))
