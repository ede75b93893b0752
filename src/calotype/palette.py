"""The colours of classes: what a mask looks like in a file, over an image and in pictures of an evaluation.

numpy is imported by the functions, so that importing this costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calotype.types import VOID

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

ALPHA = 0.4
"""How much of a colour is laid over an image."""
COVER = 0.6
"""How much of a highlighted image its colours cover."""


def palette() -> Bytes:
    """The colours of PASCAL VOC, (256, 3): the lowest bits of a number are the highest of red, green, blue in turn.
    Void (255) is (224, 224, 192). Source: VOClabelcolormap of the VOC development kit.
    """
    import numpy as np

    numbers, found = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            found[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return found


def coloured(mask: npt.NDArray[np.integer]) -> Bytes:
    """A mask (H, W) in its colours, (H, W, 3); beyond 255 they begin again."""
    colours: Bytes = palette()[mask & 255]
    return colours


def overlay(image: Bytes, mask: npt.NDArray[np.integer], alpha: float = ALPHA) -> Bytes:
    """The colours of a mask (H, W) over an image (H, W, 3) of the same size."""
    import numpy as np

    blend: Bytes = np.rint(image * (1 - alpha) + coloured(mask) * alpha).astype(np.uint8)
    return blend


def highlighted(pixels: Bytes, mask: npt.NDArray[np.int64], lines: int = 1) -> Bytes:
    """Bytes (H, W, C) as (H, W, 3) with a mask (H, W) over them: class 0 as it is, void and the others in their
    colours, with white lines of so many pixels between classes that no void divides.
    """
    import numpy as np

    grey = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
    colours, there = palette()[np.clip(mask, 0, VOID)], (mask != 0)[..., None]
    mixed = np.where(there, grey * (1 - COVER) + colours * COVER, grey)
    mixed[_edges(mask, lines)] = 255
    return np.ascontiguousarray(mixed.round().astype(np.uint8))


def _edges(mask: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """Where a class meets another, so many pixels wide."""
    import numpy as np

    found, known = np.zeros(mask.shape, bool), mask != VOID
    for step in range(1, width + 1):
        found[step:] |= (mask[step:] != mask[:-step]) & known[step:] & known[:-step]
        found[:, step:] |= (mask[:, step:] != mask[:, :-step]) & known[:, step:] & known[:, :-step]
    return found
