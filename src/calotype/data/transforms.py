"""Transforms of images with their masks and boxes, beside torchvision's: they act on tv_tensors and draw from torch's
global generator, which is keyed for every sample.

Unusual: a scaled crop is cut out before it is resized as far as the result is the same to the bit. A resize goes along
rows first and along columns then, so the first pass needs only the rows that the crop is mixed from, and the second
only the crop's columns; of a mask, where pixels are picked and not mixed, only the crop is ever made. Padding of masks
is void.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from calotype.errors import ConfigError
from calotype.types import VOID


class RandomScaleCrop(v2.Transform):  # type: ignore[misc]
    """Scale by one factor drawn from `scale`, pad to `pad_to` around the middle, crop `size` x `size` somewhere.

    Without `pad_to` it is padded to the crop's size. Images are resized bilinearly, masks by the nearest pixel; padding
    is `fill`, a level or one for each channel, void in masks.
    Source: the augmentation of L.-C. Chen et al., arXiv:1706.05587, with the sizes as arguments.
    """

    def __init__(
        self,
        size: int,
        scale: Sequence[float] = (0.5, 2.0),
        pad_to: int | None = None,
        fill: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigError(f"scale {list(scale)} is no range of factors above 0")
        if size < 1 or (pad_to is not None and pad_to < size):
            raise ConfigError(f"size {size} must be at least 1, and pad_to {pad_to} no smaller")
        self.size, self.scale, self.fill = size, (float(scale[0]), float(scale[1])), fill
        self.pad_to = size if pad_to is None else pad_to

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor and the crop's place: `scaled` (H, W), `pad` left, top, right, bottom, `crop` top, left."""
        height, width = F.get_size(next(item for item in flat_inputs if isinstance(item, tv_tensors.TVTensor)))
        low, high = self.scale
        factor = low + (high - low) * torch.rand(()).item()
        scaled = max(1, round(height * factor)), max(1, round(width * factor))
        pad = _around(scaled, (self.pad_to, self.pad_to))
        top = int(torch.randint(scaled[0] + pad[1] + pad[3] - self.size + 1, ()))
        left = int(torch.randint(scaled[1] + pad[0] + pad[2] - self.size + 1, ()))
        return {"scaled": scaled, "pad": pad, "crop": (top, left)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The input with what was drawn done to it."""
        scaled, pad, (top, left) = params["scaled"], params["pad"], params["crop"]
        if not isinstance(inpt, tv_tensors.Image | tv_tensors.Mask):
            return F.crop(F.pad(F.resize(inpt, list(scaled)), pad), top, left, self.size, self.size)
        # the crop in the scaled image: what of it there is, and where in the crop that lies
        rows, columns = (range(max(0, at), min(most, at + self.size)) for at, most in _places(params))
        canvas = self._canvas(inpt)
        above, before = max(0, pad[1] - top), max(0, pad[0] - left)
        if rows and columns:
            cut = (_picked if isinstance(inpt, tv_tensors.Mask) else _resized)(inpt, scaled, rows, columns)
            canvas[..., above : above + len(rows), before : before + len(columns)] = cut
        return tv_tensors.wrap(canvas, like=inpt)

    def _canvas(self, like: Tensor) -> Tensor:
        """Nothing but padding, of the crop's size."""
        shape = (*like.shape[:-2], self.size, self.size)
        if isinstance(like, tv_tensors.Mask):
            return torch.full(shape, VOID, dtype=like.dtype)
        return _filled(shape, like.dtype, self.fill)


class PadTo(v2.Transform):  # type: ignore[misc]
    """Pad around the middle to `size` (one side, or height and width) what is smaller; what is larger stays. Then pad
    on to a multiple of `divisor`, which networks that halve their maps five times want to be 32.

    Padding is `fill`, a level or one for each channel, void in masks.
    """

    def __init__(self, size: int | Sequence[int] = 1, fill: int | Sequence[int] = 0, divisor: int = 1) -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if min(*self.size, divisor) < 1:
            raise ConfigError(f"size {size} and divisor {divisor} must be at least 1")
        self.fill, self.divisor = fill, divisor

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The padding: left, top, right, bottom."""
        have = F.get_size(next(item for item in flat_inputs if isinstance(item, tv_tensors.TVTensor)))
        least = [max(sides) for sides in zip(have, self.size, strict=True)]
        return {"padding": _around(have, [-(-side // self.divisor) * self.divisor for side in least])}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The input, padded."""
        fill = VOID if isinstance(inpt, tv_tensors.Mask) else self.fill
        return F.pad(inpt, params["padding"], fill=fill)


class RandomBlur(v2.Transform):  # type: ignore[misc]
    """With probability `p` every pixel becomes the mean of the `size` x `size` around it; masks stay as they are."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, size: int = 3, p: float = 0.5) -> None:
        super().__init__()
        if size not in range(3, 16, 2):
            raise ConfigError(f"size {size} is none of 3, 5, ... 15")
        self.size, self.p = size, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw whether."""
        return {"blur": torch.rand(()).item() < self.p}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The image (C, H, W) uint8, blurred or not; beyond an edge it is mirrored."""
        if not params["blur"]:
            return inpt
        if inpt.dtype != torch.uint8 or min(inpt.shape[-2:]) <= self.size // 2:
            raise ConfigError(f"RandomBlur takes uint8 images of more than {self.size // 2} pixels a side")
        return tv_tensors.wrap(_mean(inpt, self.size), like=inpt)


def _places(params: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the crop begins in the scaled image, and that one's size; for rows and columns."""
    (height, width), (top, left) = params["scaled"], params["crop"]
    return (top - params["pad"][1], height), (left - params["pad"][0], width)


def _around(size: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Left, top, right, bottom that make (height, width) at least the wanted."""
    missing = [max(0, want - have) for want, have in zip(wanted, size, strict=True)]
    top, left = (both // 2 for both in missing)
    return [left, top, missing[1] - left, missing[0] - top]


def _filled(shape: Sequence[int], dtype: torch.dtype, fill: int | Sequence[int]) -> Tensor:
    """An image of one colour, its channels together in memory as decoded images have them."""
    levels = torch.tensor([fill] if isinstance(fill, int) else list(fill), dtype=dtype)
    canvas = torch.empty((*shape[1:], shape[0]), dtype=dtype)
    canvas[:] = levels
    return canvas.permute(2, 0, 1)


def _resized(image: Tensor, scaled: tuple[int, int], rows: range, columns: range) -> Tensor:
    """The image resized to `scaled`, of which only these rows and columns are wanted."""
    have, (height, width) = image.shape[-2], scaled
    reach = max(1.0, have / height) + 1
    read = slice(
        max(0, int(rows.start * have / height - reach)), min(have, int((rows.stop + 1) * have / height + reach) + 1)
    )
    wide = F.resize_image(image[..., read, :], [read.stop - read.start, width])
    # rows that no wanted one is mixed from stay as the memory was
    tall = torch.empty((have, len(columns), len(image)), dtype=image.dtype).permute(2, 0, 1)
    tall[..., read, :] = wide[..., columns.start : columns.stop]
    made: Tensor = F.resize_image(tall, [height, len(columns)])[..., rows.start : rows.stop, :]
    return made


def _picked(mask: Tensor, scaled: tuple[int, int], rows: range, columns: range) -> Tensor:
    """The pixels of a mask that are nearest to those of the wanted rows and columns."""
    down, across = (
        (((torch.arange(some.start, some.stop) + 0.5) * (have / want)).long()).clamp_(max=have - 1)
        for some, have, want in zip((rows, columns), mask.shape[-2:], scaled, strict=True)
    )
    picked: Tensor = mask.as_subclass(Tensor).index_select(-2, down).index_select(-1, across)
    return picked


def _mean(image: Tensor, size: int) -> Tensor:
    """The rounded mean of each window, in whole numbers. With a pixel's channels together in memory a row is one run of
    bytes, and its neighbour lies as many bytes away as there are channels.
    """
    half, channels = size // 2, image.shape[0]
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    padded = np.pad(pixels, ((half, half), (half, half), (0, 0)), mode="reflect").astype(np.uint16)
    high, wide = pixels.shape[0], pixels.shape[1] * channels
    runs = padded.reshape(len(padded), -1)
    down = sum((runs[at : at + high] for at in range(1, size)), start=runs[:high].copy())
    total = sum((down[:, at * channels : at * channels + wide] for at in range(1, size)), start=down[:, :wide].copy())
    mean = (total + size * size // 2) // (size * size)
    return torch.from_numpy(mean.astype(np.uint8).reshape(pixels.shape)).permute(2, 0, 1)
