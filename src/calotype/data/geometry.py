"""Where the pixels of a file end up after transforms, so that what a network says of them can be brought back.

A grid of boxes goes through the transforms beside the image; how their centres move is the map. Where it is a shift to
an image of another size, the transforms are run once more, on numbered pixels. Whatever moves tv_tensors is followed
like that, in any order: resize, pad, crop, flip, turns by 90 degrees.
Unusual: boxes and not torchvision's KeyPoints: flips of these count pixel centres, resizes pixel edges, so that after
both they are off by one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import tv_tensors

from calotype.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from calotype.types import Sample

    Points = npt.NDArray[np.float64]

POINTS = 33
"""In each direction; of an image that is cropped to a tenth, three are left."""
OFF = 0.01
"""Pixels by which a point may miss the map."""
FIRST, SAMPLED = 1000, 1000
"""The number of the first pixel, above what padding has; and how many pixels are looked at, about."""
IDENTITY = torch.eye(2, 3, dtype=torch.float64)


def traced(transform: Callable[[Sample], Sample], given: Sample) -> tuple[Sample, Tensor]:
    """A sample after `transform`, and how its image (C, H, W) moved: (2, 3) float64, which takes an (x, y) of the file,
    in pixels from its upper left corner, to that of the transformed image.

    Transforms that know no boxes have moved nothing if the size stayed. Raises DataError with the reason where they
    changed it, and where the map isn't one of scale, shift, flip and turns by 90 degrees.
    """
    size = _size(given["image"])
    before = _points(size)
    points = _boxes(before, size)
    found = _together(transform, {**given, "points": points})
    sample = dict(transform(dict(given))) if found is None else found
    after, now = sample.pop("points", None), _size(sample["image"])
    if isinstance(after, tv_tensors.BoundingBoxes) and len(after) == len(before) and tuple(after.canvas_size) == now:
        affine = _fitted(before, _centres(after), now)
        scaled = (affine[:, :2].abs().sum(1) - 1).abs().max() > OFF
        if not scaled and now != size:
            again = _together(transform, {**given, "points": points, "pixels": _numbered(size)}) or {}
            affine = _moved(affine, again.get("pixels"), size, now)
        return sample, affine
    if now != size:
        raise DataError(
            f"is {size[1]}x{size[0]} pixels and {now[1]}x{now[0]} after the evaluation transforms, which don't say "
            "which pixel went where: they move no tv_tensors.BoundingBoxes; take transforms that do, such as "
            "torchvision's v2 (their padding with a constant)"
        )
    return sample, IDENTITY


def _together(transform: Callable[[Sample], Sample], given: Sample) -> dict[str, Any] | None:
    """The transformed sample. None where a transform stumbles, in any way, over what is beside the image: without that
    it gets to say why.
    """
    with suppress(Exception):
        return dict(transform(given))
    return None


def _numbered(size: tuple[int, int]) -> Tensor:
    """A mask in which each pixel has its number, from FIRST on."""
    found: Tensor = tv_tensors.Mask(torch.arange(FIRST, FIRST + size[0] * size[1]).view(size))
    return found


def _moved(affine: Tensor, pixels: Tensor | None, size: tuple[int, int], now: tuple[int, int]) -> Tensor:
    """A map without a change of scale, shifted to where the pixels went: torchvision's CenterCrop of an image that is
    smaller moves boxes by one more than the image, of some sizes.
    """
    if pixels is None or tuple(pixels.shape) != now:
        return affine
    numbers = pixels.as_subclass(torch.Tensor).flatten()
    places = torch.arange(len(numbers))[numbers >= FIRST]
    places = places[:: max(1, len(places) // SAMPLED)]
    if not len(places):
        return affine
    came = numbers[places] - FIRST
    centres = torch.stack([came % size[1] + 0.5, came // size[1] + 0.5, torch.ones(len(came))]).double()
    there = torch.stack([places % now[1] + 0.5, places // now[1] + 0.5]).double()
    off = (there - affine @ centres).median(1).values
    affine[:, 2] += off.round()
    return affine


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _points(size: tuple[int, int]) -> Points:
    """(x, y) from corner to corner, (n, 2)."""
    y, x = (np.linspace(0, side, POINTS) for side in size)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def _boxes(points: Points, size: tuple[int, int]) -> Tensor:
    found: Tensor = tv_tensors.BoundingBoxes(
        torch.from_numpy(np.concatenate([points - 0.5, points + 0.5], 1)),
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=size,
        clamping_mode=None,
    )
    return found


def _centres(boxes: Tensor) -> Points:
    corners = boxes.as_subclass(torch.Tensor).double().numpy()
    centres: Points = (corners[:, :2] + corners[:, 2:]) / 2
    return centres


def _fitted(
    before: Points,
    after: Points,
    now: tuple[int, int],
) -> Tensor:
    """The map of points. Those outside are left out where the others fit better: a transform may clamp boxes."""
    inside = ((after > 1) & (after < np.array(now[::-1]) - 1)).all(1)
    for chosen in (np.ones(len(before), bool), inside):
        known = np.column_stack([before[chosen], np.ones(chosen.sum())])
        found, _, rank, _ = np.linalg.lstsq(known, after[chosen])
        if rank == 3 and np.abs(known @ found - after[chosen]).max() < OFF:
            break
    else:
        raise DataError("can't be followed through the evaluation transforms: they bend or cut it beyond recognition")
    affine = np.where(np.abs(found.T) < 1e-9, 0, found.T)
    if not (affine[0, 1] == affine[1, 0] == 0 or affine[0, 0] == affine[1, 1] == 0):
        raise DataError("is turned or sheared by the evaluation transforms; leave out all but turns by 90 degrees")
    return torch.from_numpy(affine)
