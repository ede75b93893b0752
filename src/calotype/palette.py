"""The colours of classes: what a mask looks like in a file, over an image and in pictures of an evaluation.

numpy is imported by the functions, so that importing this costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

ALPHA = 0.4
"""How much of a colour is laid over an image."""


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
