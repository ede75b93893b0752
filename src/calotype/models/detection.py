"""Detectors of the SSD kind: convolutions over several maps of an image say of default boxes what is in them and how it
lies. SSD300 on a ResNet is the published one; `SSD` puts any features and default boxes together.

A network has `default_boxes` (A, 4), centre x, y, width, height in parts of the image, in the order of its outputs:
by map, kind of box, row, column.
Source: W. Liu et al., SSD: Single Shot MultiBox Detector, arXiv:1512.02325.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from calotype.errors import ConfigError

Size = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class DefaultBoxes:
    """The boxes that a detector starts from: on map k, one cell every `steps`[k] pixels, a square of side `scales`[k],
    one of the geometric mean of that and the next scale, and for each of `ratios`[k] two of the first one's area.

    `size` is the image's, (height, width) or the side of a square, in pixels as scales and steps. With `clip` centres
    and sizes end at the image's. Raises ConfigError.
    """

    size: Size
    steps: Sequence[int]
    scales: Sequence[float]
    ratios: Sequence[Sequence[float]]
    clip: bool = True

    def __post_init__(self) -> None:
        if not len(self.steps) == len(self.ratios) == len(self.scales) - 1:
            raise ConfigError(
                f"{len(self.steps)} steps need as many lists of ratios and one scale more; there are "
                f"{len(self.ratios)} and {len(self.scales)}",
                key="module.network.boxes",
            )
        sides = [self.size] if isinstance(self.size, int) else [*self.size]
        values = {"size": sides, "steps": self.steps, "scales": self.scales, "ratios": [*chain(*self.ratios)]}
        for name, given in values.items():
            if wrong := [value for value in given if not value > 0]:
                raise ConfigError(f"{wrong[0]} is not allowed; allowed: above 0", key=f"module.network.boxes.{name}")
        if not isinstance(self.size, int) and len(sides) != 2:
            raise ConfigError(f"{sides} is neither a side nor height and width", key="module.network.boxes.size")

    @property
    def image(self) -> tuple[int, int]:
        """Height and width."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return height, width

    @property
    def maps(self) -> list[tuple[int, int]]:
        """Height and width of each map."""
        height, width = self.image
        return [(math.ceil(height / step), math.ceil(width / step)) for step in self.steps]

    @property
    def kinds(self) -> list[int]:
        """Boxes in a cell of each map."""
        return [2 + 2 * len(ratios) for ratios in self.ratios]

    def boxes(self) -> Tensor:
        """(A, 4) float32."""
        height, width = self.image
        found = []
        for (rows, columns), step, scale, ratios in zip(
            self.maps, self.steps, pairwise(self.scales), self.ratios, strict=True
        ):
            side, mean = scale[0], math.sqrt(scale[0] * scale[1])
            sizes = [(side, side), (mean, mean)]
            for ratio in ratios:
                long, short = side * math.sqrt(ratio), side / math.sqrt(ratio)
                sizes += [(long, short), (short, long)]
            y, x = ((torch.arange(count, dtype=torch.float64) + 0.5) * step for count in (rows, columns))
            for wide, high in sizes:
                grid = torch.meshgrid(y / height, x / width, indexing="ij")
                there = torch.stack([grid[1], grid[0]], -1).view(-1, 2)
                found.append(torch.cat([there, there.new_tensor([wide / width, high / height]).expand_as(there)], 1))
        whole = torch.cat(found).float()
        return whole.clamp(0, 1) if self.clip else whole


class SSD(nn.Module):
    """Images (n, c, H, W) of the size that `boxes` are for to offsets (n, 4, A) and logits (n, num_classes + 1, A), of
    which class 0 is nothing.

    `features` gives as many maps as `boxes` has, and has `channels`, theirs. Raises ConfigError for images of another
    size.
    """

    default_boxes: Tensor

    def __init__(self, features: nn.Module, boxes: DefaultBoxes, num_classes: int) -> None:
        super().__init__()
        self.features, self.boxes, self.num_classes = features, boxes, num_classes
        channels: Sequence[int] = features.channels  # type: ignore[assignment]
        if len(channels) != len(boxes.steps):
            raise ConfigError(f"{len(channels)} maps for {len(boxes.steps)} steps", key="module.network.boxes")
        heads = [*zip(channels, boxes.kinds, strict=True)]
        self.place = nn.ModuleList(nn.Conv2d(width, kinds * 4, 3, padding=1) for width, kinds in heads)
        self.kind = nn.ModuleList(nn.Conv2d(width, kinds * (num_classes + 1), 3, padding=1) for width, kinds in heads)
        _draw(self.place, self.kind)
        self.register_buffer("default_boxes", boxes.boxes(), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and logits."""
        if tuple(image.shape[-2:]) != self.boxes.image:
            given, wanted = (f"{width}x{height}" for height, width in (image.shape[-2:], self.boxes.image))
            raise ConfigError(
                f"images are {given} pixels and its boxes are for {wanted}; resize in the transforms",
                key="module.network.boxes",
            )
        maps = self.features(image)
        sizes = [tuple(found.shape[-2:]) for found in maps]
        if sizes != self.boxes.maps:
            raise ConfigError(
                f"the features give maps of {sizes}, and of these steps boxes have {self.boxes.maps}",
                key="module.network.boxes.steps",
            )
        place = [head(found).flatten(1).unflatten(1, (4, -1)) for head, found in zip(self.place, maps, strict=True)]
        kind = [
            head(found).flatten(1).unflatten(1, (self.num_classes + 1, -1))
            for head, found in zip(self.kind, maps, strict=True)
        ]
        return torch.cat(place, 2), torch.cat(kind, 2)


def _draw(*parts: nn.Module) -> None:
    """Xavier-uniform weights for whatever has more than one dimension."""
    for part in parts:
        for parameter in part.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)


class ResNetTrunk(nn.Module):
    """A ResNet of torchvision's or timm's up to its third stage, which keeps the second one's resolution: stride 8.

    Raises ConfigError for a network that has no such parts.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        parts = dict(network.named_children())
        activation = next((name for name in ("relu", "act1") if name in parts), "")
        names = ["conv1", "bn1", activation, "maxpool", "layer1", "layer2", "layer3"]
        if not all(name in parts for name in names):
            raise ConfigError(f"{type(network).__name__} has not a ResNet's parts", key="module.network.backbone")
        for name in names:
            self.add_module(name, parts[name])
        for module in parts["layer3"][0].modules():  # type: ignore[index]
            if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
                module.stride = (1, 1)
            elif isinstance(module, nn.AvgPool2d):
                module.kernel_size = module.stride = 1
        self.channels = _width(parts["layer3"])

    def forward(self, image: Tensor) -> Tensor:
        """A map of an eighth of the image's size."""
        for part in self.children():
            image = part(image)
        return image


def _width(stage: nn.Module) -> int:
    """The channels that a stage gives."""
    found = [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)]
    return found[-1].num_features


class Pyramid(nn.Module):
    """A backbone's map and smaller ones made from it. `widths` are theirs, `narrow` those in between; the maps of the
    last `unpadded` shrink by two pixels, those of the others by half.
    """

    def __init__(self, backbone: nn.Module, widths: Sequence[int], narrow: Sequence[int], unpadded: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels = [int(backbone.channels), *widths]  # type: ignore[arg-type]
        halved = len(widths) - unpadded
        self.extra = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(into, between, 1, bias=False),
                nn.BatchNorm2d(between),
                nn.ReLU(inplace=True),
                nn.Conv2d(between, out, 3, *((2, 1) if place < halved else (1, 0)), bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            )
            for place, ((into, out), between) in enumerate(zip(pairwise(self.channels), narrow, strict=True))
        )
        _draw(self.extra)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The maps, finest first."""
        maps = [self.backbone(image)]
        for block in self.extra:
            maps.append(block(maps[-1]))
        return maps


class SSD300(SSD):
    """SSD for 300 x 300 pixels on a ResNet: 8,732 default boxes on maps of 38, 19, 10, 5, 3 and 1.

    `backbone` is the name of one of torchvision's ResNets, or a network of theirs or timm's.
    Source: NVIDIA, DeepLearningExamples, SSD300 v1.1, whose extra layers have batch norm.
    """

    def __init__(self, num_classes: int, backbone: nn.Module | str = "resnet50") -> None:
        network: Any = torchvision.models.get_model(backbone, weights=None) if isinstance(backbone, str) else backbone
        trunk = ResNetTrunk(network)
        widths = [512, 512, 256, 256, 128 if trunk.channels == 256 and _shallow(trunk) else 256]
        boxes = DefaultBoxes(
            300, (8, 16, 32, 64, 100, 300), (21, 45, 99, 153, 207, 261, 315), ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
        )
        super().__init__(Pyramid(trunk, widths, [256, 256, 128, 128, 128], unpadded=2), boxes, num_classes)


def _shallow(trunk: ResNetTrunk) -> bool:
    """Whether it is ResNet-18, whose last map the reference makes narrower."""
    return len(trunk.layer3) == 2  # type: ignore[arg-type]


class SmallFeatures(nn.Module):
    """Maps of an image divided by `stride`, twice that and so on, from pairs of 3 x 3 convolutions with batch norm, for
    a CPU. `widths` are the channels of each halving of the image; the last `levels` of them are given.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 96), levels: int = 2, in_channels: int = 3) -> None:
        super().__init__()
        self.levels, self.channels = levels, list(widths[-levels:])
        self.stages = nn.ModuleList(_stage(into, out) for into, out in pairwise([in_channels, *widths]))

    def forward(self, image: Tensor) -> list[Tensor]:
        """The maps, finest first."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps[-self.levels :]


def _stage(into: int, out: int) -> nn.Sequential:
    """Two convolutions, of which the first halves the size."""
    layers: list[nn.Module] = []
    for width, stride in ((into, 2), (out, 1)):
        layers += [nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
