"""Transforms that need boxes, beside torchvision's: they act on a sample's "image", "boxes" and "labels" and draw from
torch's global generator, which is keyed for every sample.

A box that goes takes its label along: after a crop one whose centre is cut off, in a mosaic one of which little is
left. Others are cut at the edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from calotype.boxes import area, iou
from calotype.errors import ConfigError

if TYPE_CHECKING:
    from calotype.types import Sample


class SSDCrop:
    """The whole image, or a crop that all boxes overlap by more than an IoU drawn from `least`, of which 0 is any crop.

    Width and height of a crop are parts of the image's, drawn from `scale` until one part is at most `ratio` times the
    other. After `attempts` draws in vain the image stays whole, as one without boxes does.
    Source: W. Liu et al., SSD, arXiv:1512.02325, with the rule for all boxes of NVIDIA's DeepLearningExamples.
    """

    def __init__(
        self,
        least: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0),
        scale: Sequence[float] = (0.3, 1.0),
        ratio: float = 2.0,
        attempts: int = 50,
    ) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ConfigError(f"scale {list(scale)} is no range of parts above 0 and up to 1")
        if not all(0 <= value < 1 for value in least):
            raise ConfigError(f"least {list(least)} must be in 0..1, and below 1")
        if ratio < 1 or attempts < 1:
            raise ConfigError(f"ratio {ratio} and attempts {attempts} must be at least 1")
        self.least, self.scale, self.ratio, self.attempts = tuple(least), (scale[0], scale[1]), ratio, attempts

    def __call__(self, sample: Sample) -> Sample:
        """The sample, cropped or not."""
        boxes = plain_boxes(sample)
        if not len(boxes):
            return sample
        size = F.get_size(sample["image"])
        for _ in range(self.attempts):
            choice = int(torch.randint(len(self.least) + 1, ()))
            if choice == len(self.least):
                return sample
            place = self._place(size)
            if place is not None and self._fits(boxes, place, self.least[choice]):
                return cropped(sample, place)
        return sample

    def _place(self, size: Sequence[int]) -> tuple[int, int, int, int] | None:
        """A crop as left, top, right, bottom; None for one that is too long."""
        low, high = self.scale
        *drawn, down, right = torch.rand(4, dtype=torch.float64).tolist()
        tall, wide = (low + (high - low) * part for part in drawn)
        if not 1 / self.ratio <= wide / tall <= self.ratio:
            return None
        height, width = (max(1, int(part * side)) for part, side in zip((tall, wide), size, strict=True))
        top, left = int(down * (size[0] - height + 1)), int(right * (size[1] - width + 1))
        return left, top, left + width, top + height

    @staticmethod
    def _fits(boxes: Tensor, place: Sequence[int], least: float) -> bool:
        overlap = iou(boxes, boxes.new_tensor([place]))
        return bool((overlap > least).all() if least else True) and bool(inside(boxes, place).any())


def plain_boxes(sample: Sample) -> Tensor:
    """The boxes of a sample, (n, 4) xyxy."""
    found: Tensor = sample["boxes"].as_subclass(Tensor)
    return found


def inside(boxes: Tensor, place: Sequence[int]) -> Tensor:
    """Which boxes have their centre within (left, top, right, bottom), (n,)."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    lower, upper = centre.new_tensor(place[:2]), centre.new_tensor(place[2:])
    return ((centre > lower) & (centre < upper)).all(1)


def cropped(sample: Sample, place: Sequence[int]) -> Sample:
    """A sample cut to (left, top, right, bottom) of its image."""
    left, top, right, bottom = place
    boxes = plain_boxes(sample)
    there = inside(boxes, place)
    moved = boxes[there] - boxes.new_tensor([left, top, left, top])
    height, width = bottom - top, right - left
    return {
        **sample,
        "image": F.crop(sample["image"], top, left, height, width),
        **target(moved, sample["labels"][there], (height, width)),
    }


def target(boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    """ "boxes" and "labels" of an image of (height, width), cut at its edge."""
    limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    found: Any = tv_tensors.BoundingBoxes(
        boxes.clamp(min=0).minimum(limit), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size
    )
    return {"boxes": found, "labels": labels}


class Mosaic:
    """Four images in one of `size` x `size`, with probability `p`: they meet at a point drawn from the middle half,
    each scaled so that its longer side is `scale` (a range) of the mosaic's, and cut at the edge.

    Boxes of which less than `visible` is left go. What no image covers is `fill`. The three others are drawn anew for
    each sample; the reader reads them, and takes them through the transforms before this one.
    Source: A. Bochkovskiy et al., YOLOv4, arXiv:2004.10934.
    """

    partners = 3

    def __init__(
        self,
        size: int,
        p: float = 1.0,
        scale: Sequence[float] = (0.5, 1.0),
        visible: float = 0.25,
        fill: int = 114,
    ) -> None:
        if size < 4:
            raise ConfigError(f"size {size} must be at least 4")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigError(f"scale {list(scale)} is no range of factors above 0")
        self.size, self.p, self.scale, self.visible, self.fill = size, p, (scale[0], scale[1]), visible, fill

    def __call__(self, sample: Sample, others: Sequence[Sample] = ()) -> Sample:
        """The mosaic of a sample and three others, or the sample."""
        if torch.rand(()).item() >= self.p:
            return sample
        if len(others) != self.partners:
            raise ConfigError("Mosaic is given the other images by the reader; take it as one of data.train_transforms")
        x, y = (int((0.25 + 0.5 * drawn) * self.size) for drawn in torch.rand(2).tolist())
        channels, dtype = sample["image"].shape[0], sample["image"].dtype
        canvas = torch.full((channels, self.size, self.size), self.fill, dtype=dtype)
        boxes, labels = [], []
        for number, one in enumerate([sample, *others]):
            image, scaled = self._scaled(one)
            height, width = image.shape[-2:]
            # the corner that meets the others': lower right, lower left, upper right, upper left
            left, top = x - width * (number in (0, 2)), y - height * (number in (0, 1))
            across = slice(max(0, left), min(self.size, left + width))
            down = slice(max(0, top), min(self.size, top + height))
            canvas[:, down, across] = image[
                :, down.start - top : down.stop - top, across.start - left : across.stop - left
            ]
            moved = scaled + scaled.new_tensor([left, top, left, top])
            cut = moved.clamp(0, self.size)
            seen = area(cut) > self.visible * area(moved)
            boxes.append(cut[seen])
            labels.append(one["labels"][seen])
        made = target(torch.cat(boxes), torch.cat(labels), (self.size, self.size))
        return {**sample, "image": tv_tensors.Image(canvas), **made}

    def _scaled(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """An image of a sample and its boxes, resized."""
        low, high = self.scale
        height, width = sample["image"].shape[-2:]
        factor = (low + (high - low) * torch.rand(()).item()) * self.size / max(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        boxes = plain_boxes(sample)
        return F.resize(sample["image"], list(size)).as_subclass(Tensor), boxes * boxes.new_tensor(
            [size[1] / width, size[0] / height] * 2
        )
