"""How a segmenter is asked at evaluation and prediction: in windows over a large image, and several times over.

A window that overlaps others is averaged with them, and so are the views of test-time augmentation: probabilities, each
with the same weight, added in a fixed order (windows by rows, then flips, then scales). What is done to images and
answers is done to each alone, so these depend on others in their batch no more than the network's do.
Sources: overlapping windows and multi-scale inputs with left-right flips as in L.-C. Chen et al., DeepLab,
arXiv:1606.00915 and 1706.05587.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.errors import ConfigError

Logits = Callable[[Tensor], Tensor]
"""Images (n, c, H, W) to logits (n, C, H, W)."""


class Inference:
    """Asks for `logits` in `window` pixels (a side, or height and width) every `stride` pixels, two thirds of a window
    where none is given; at `scales` of the image's size; and mirrored, with `flip`.

    An image of at most a window is asked whole. Scaled images are windowed like others.
    """

    def __init__(
        self,
        window: int | Sequence[int] | None = None,
        stride: int | Sequence[int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> None:
        self.window = None if window is None else _sides(window, "window")
        if stride is not None and self.window is None:
            raise ConfigError("is set, and there is no window", key="module.inference.stride")
        sides = self.window or (1, 1)
        self.stride = (-(-2 * sides[0] // 3), -(-2 * sides[1] // 3)) if stride is None else _sides(stride, "stride")
        if any(step > side for step, side in zip(self.stride, sides, strict=True)):
            raise ConfigError(
                f"steps of {self.stride} leave gaps between windows of {sides}", key="module.inference.stride"
            )
        if not scales or min(scales) <= 0:
            raise ConfigError("name factors above 0, such as [0.75, 1.0, 1.25]", key="module.inference.scales")
        self.scales, self.flip = tuple(scales), flip

    def __call__(self, logits: Logits, images: Tensor) -> Tensor:
        """Probabilities of the images' pixels, (n, C, H, W) float32; of one view in one window its logits, whose
        greatest is the same.
        """
        if self.scales == (1.0,) and not self.flip:
            return self._windowed(logits, images)
        total = torch.zeros((), device=images.device)
        for scale in self.scales:
            view = _resized(images, [max(1, round(side * scale)) for side in images.shape[-2:]])
            found = self._probabilities(logits, view)
            if self.flip:
                found = (found + self._probabilities(logits, view.flip(-1)).flip(-1)) / 2
            total = total + _resized(found, images.shape[-2:])
        return total / len(self.scales)

    def _probabilities(self, logits: Logits, images: Tensor) -> Tensor:
        found = self._windowed(logits, images)
        return found if self._cut(images) else _softmax(found)

    def _cut(self, images: Tensor) -> bool:
        return self.window is not None and any(
            size > side for size, side in zip(images.shape[-2:], self.window, strict=True)
        )

    def _windowed(self, logits: Logits, images: Tensor) -> Tensor:
        """Logits of images that fit into a window, else probabilities."""
        if self.window is None or not self._cut(images):
            return logits(images).float()
        total = torch.zeros((), device=images.device)
        times = images.new_zeros((1, 1, *images.shape[-2:]), dtype=torch.float32)
        rows, columns = (places(*sizes) for sizes in zip(images.shape[-2:], self.window, self.stride, strict=True))
        for row in rows:
            for column in columns:
                found = _softmax(logits(images[..., row, column]).float())
                if not total.dim():
                    total = found.new_zeros((*found.shape[:2], *images.shape[-2:]))
                total[..., row, column] += found
                times[..., row, column] += 1
        return total / times


def places(size: int, window: int, stride: int) -> list[slice]:
    """The windows along an axis: every `stride`, the last one moved back to end with the image."""
    starts = range(0, max(size - window, 0) + stride, stride)
    return [slice(start, start + window) for start in (min(start, max(size - window, 0)) for start in starts)]


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    if images.shape[-2:] == tuple(size):
        return images
    return _each(lambda image: F.interpolate(image, [*size], mode="bilinear", antialias=True), images)


def _softmax(logits: Tensor) -> Tensor:
    return _each(lambda image: image.softmax(1), logits)


def _each(change: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A change of each image alone: torch's vectorised kernels round by where in a batch a pixel lies."""
    return torch.cat([change(images[row : row + 1]) for row in range(len(images))])


def _sides(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """Height and width. Raises ConfigError for what isn't one or two numbers of at least 1."""
    found = [value, value] if isinstance(value, int) else [*value]
    if len(found) != 2 or min(found) < 1:
        raise ConfigError(
            f"{value!r} is not allowed; allowed: a side, or [height, width]", key=f"module.inference.{name}"
        )
    return found[0], found[1]
