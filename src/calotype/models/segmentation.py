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

    `width` are the channels of the first level; each level has twice as many as the one above it, at half the size.
    Source: O. Ronneberger, P. Fischer, T. Brox, U-Net, arXiv:1505.04597, with batch norm and padding.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width << level for level in range(depth)]
        self.num_classes = num_classes
        self.down = nn.ModuleList(_pair(a, b) for a, b in zip([in_channels, *widths], widths, strict=False))
        above = reversed([*pairwise(widths)])
        self.up = nn.ModuleList(_pair(a + b, a) for a, b in above)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        found, kept = image, list[Tensor]()
        for level, block in enumerate(self.down):
            found = block(F.max_pool2d(found, 2, ceil_mode=True) if level else found)
            kept.append(found)
        kept.pop()
        for block in self.up:
            beside = kept.pop()
            larger = F.interpolate(found, beside.shape[-2:], mode="nearest")
            found = block(torch.cat([larger, beside], 1))
        logits: Tensor = self.head(found)
        return logits


def _pair(into: int, out: int) -> nn.Sequential:
    """Two convolutions of 3x3."""
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
