"""Geometry of boxes: tensors (n, 4) of xyxy corners, in pixels or in parts of an image. Pure functions.

Unusual: suppression is the same on every device. Boxes are ordered by score, and by index where scores are equal,
before torchvision's kernel sees them; and it sees float64, in which boxes of different classes are moved apart without
rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def area(boxes: Tensor) -> Tensor:
    """(n,): width times height, 0 for what is turned inside out."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).unbind(1)
    return width * height


def solid(boxes: Tensor) -> Tensor:
    """(n,) bool: whether width and height are above 0; a box of NaN is not solid."""
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """(n, m) areas that are in both."""
    lower = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    upper = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    width, height = (upper - lower).clamp(min=0).unbind(2)
    return width * height


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(n, m) intersection over union; 0 where there is nothing to divide by."""
    both = intersections(boxes, others)
    either = area(boxes)[:, None] + area(others)[None] - both
    return torch.where(either > 0, both / either, 0)


def corners(boxes: Tensor) -> Tensor:
    """(..., 4) xyxy of boxes that are centre x, y, width, height."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def centred(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, y, width, height of xyxy."""
    lower, upper = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(lower + upper) / 2, upper - lower], -1)


def suppressed(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Indices of what non-maximum suppression leaves, by descending score, of equal scores by index: of two boxes of
    one class whose IoU is above `threshold` the better stays, and none that isn't finite.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[boxes[order].isfinite().all(1)]
    if not len(order):
        return order
    placed = boxes[order].double()
    # a power of two above all coordinates: moved by a multiple of it, no coordinate of 24 bits is rounded
    reach = torch.exp2(placed.abs().amax().clamp(min=1).log2().ceil() + 2)
    moved = placed + (labels[order].double() * reach)[:, None]
    ranks = torch.arange(len(order), 0, -1, device=boxes.device, dtype=torch.float64)
    # the kernel of the GPU rounds a threshold to float32, so both get one that is none to round, and not below
    limit = torch.tensor(threshold, dtype=torch.float32)
    limit = limit if limit.item() >= threshold else limit.nextafter(limit.new_tensor(torch.inf))
    return order[nms(moved, ranks, limit.item())]


def matched(defaults: Tensor, boxes: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """For each of the default boxes (A, 4) the box (n, 4) that it stands for, (A,) int64, and whether it does, (A,).

    It is the box of the highest IoU, if that is above `threshold`; besides, each box has the default box that fits it
    best, of two boxes with the same one the later. Boxes that are not solid match nothing. Of equal IoUs the first
    counts.
    Source: W. Liu et al., SSD: Single Shot MultiBox Detector, arXiv:1512.02325.
    """
    if not len(boxes):
        none = torch.zeros(len(defaults), dtype=torch.int64, device=defaults.device)
        return none, none.bool()
    there = solid(boxes)
    overlap = torch.where(there[:, None], iou(boxes, defaults), -1)
    best, which = _first_max(overlap, 0)
    # the default box that each box has for itself; of several that want one the last has it
    own = torch.where(there, _first_max(overlap, 1)[1], len(defaults))
    number = torch.arange(len(boxes), device=boxes.device)
    forced = torch.full((len(defaults) + 1,), -1, dtype=torch.int64, device=defaults.device)
    forced = forced.scatter_reduce(0, own, number, "amax")[:-1]
    return torch.where(forced >= 0, forced, which), (forced >= 0) | (best > threshold)


def _first_max(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest along a dimension, and the first place that has it, on any device."""
    best = values.amax(dim, keepdim=True)
    size = values.shape[dim]
    shape = [1, 1]
    shape[dim] = size
    places = torch.arange(size, device=values.device).view(shape)
    return best.squeeze(dim), torch.where(values == best, places, size).amin(dim)


def encoded(boxes: Tensor, defaults: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """Boxes (n, 4) xyxy as what a network says of their default boxes (n, 4) in centre x, y, width, height: offsets of
    centres in default sizes, and logarithms of sizes, divided by the variances.
    """
    there = centred(boxes)
    place = (there[:, :2] - defaults[:, :2]) / defaults[:, 2:] / variances[0]
    size = (there[:, 2:] / defaults[:, 2:]).log() / variances[1]
    return torch.cat([place, size], 1)


def decoded(offsets: Tensor, defaults: Tensor, variances: tuple[float, float] = (0.1, 0.2)) -> Tensor:
    """The inverse of `encoded`: (..., A, 4) xyxy."""
    place = defaults[:, :2] + offsets[..., :2] * variances[0] * defaults[:, 2:]
    size = defaults[:, 2:] * (offsets[..., 2:] * variances[1]).exp()
    return corners(torch.cat([place, size], -1))


def moved(boxes: Tensor, affine: Tensor) -> Tensor:
    """Boxes (n, 4) xyxy of a file in the pixels of the image that it became, float64. `affine` (2, 3) takes an (x, y)
    of the file to that of the image; it scales, shifts, flips and turns by 90 degrees.
    """
    ends = boxes.double().view(-1, 2, 2) @ affine[:, :2].double().T + affine[:, 2].double()
    return torch.cat([ends.amin(1), ends.amax(1)], 1)


def brought_back(boxes: Tensor, affine: Tensor) -> Tensor:
    """Boxes (n, 4) xyxy of a transformed image in the pixels of its file, float64. `affine` (2, 3) takes an (x, y) of
    the file to that of the transformed image; it scales, shifts, flips and turns by 90 degrees.
    """
    turn, shift = affine[:, :2].double(), affine[:, 2].double()
    ends = (boxes.double().view(-1, 2, 2) - shift) @ torch.linalg.inv(turn).T
    return torch.cat([ends.amin(1), ends.amax(1)], 1)
