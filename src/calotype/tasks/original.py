"""What a network says of the pixels that it saw, at the pixels of the file that they came from.

Scores are sampled and not classes, bilinearly at the centre of each pixel, as `interpolate` resizes an image. Each axis
goes by itself, with positions in float64: a shift by whole pixels gives the very scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from calotype.types import VOID


def restored(scores: Tensor, affine: Tensor, size: tuple[int, int]) -> Tensor:
    """The classes of a file of `size` (height, width), int64, by the scores (C, h, w) of the image that it became; VOID
    where that shows nothing of the file.

    `affine`, (2, 3) float64 on the CPU, takes an (x, y) of the file to that of the image, in pixels from the upper left
    corner; it scales and shifts, and x and y may change places.
    """
    (xx, xy, x_shift), (yx, yy, y_shift) = affine.tolist()
    rows, columns = (yy, y_shift), (xx, x_shift)
    if xx == yy == 0:
        scores, rows, columns = scores.transpose(1, 2), (xy, x_shift), (yx, y_shift)
    found, seen = _sampled(scores, 1, rows, size[0])
    found, beside = _sampled(found, 2, columns, size[1])
    return found.argmax(0).masked_fill(~(seen[:, None] & beside), VOID)


def _sampled(scores: Tensor, axis: int, line: tuple[float, float], count: int) -> tuple[Tensor, Tensor]:
    """The scores at `count` pixels along an axis, and which of these it has. `line` is scale and shift."""
    length = scores.shape[axis]
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) * line[0] + line[1]
    seen = (centres > -1e-6) & (centres < length + 1e-6)
    places = (centres - 0.5).round(decimals=6).clamp(0, length - 1)
    low = places.long()
    shape = [-1 if dim == axis else 1 for dim in range(scores.dim())]
    weight = (places - low).to(scores).view(shape)
    low = low.to(scores.device)
    below, above = scores.index_select(axis, low), scores.index_select(axis, (low + 1).clamp(max=length - 1))
    return below * (1 - weight) + above * weight, seen.to(scores.device)
