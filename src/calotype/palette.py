"""The colours in which classes are drawn, in files of masks and in pictures: those of PASCAL VOC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

VOID = 255
COVER = 0.6
"""How much of a picture its mask's colours cover."""


def palette() -> Pixels:
    """The colours, (256, 3): the lowest bits of a number are the highest of red, green, blue in turn.
    Source: VOClabelcolormap of the VOC development kit.
    """
    numbers, found = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            found[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return found


def overlay(pixels: Pixels, mask: npt.NDArray[np.int64], lines: int = 1) -> Pixels:
    """Pixels (H, W, C) as (H, W, 3) with a mask (H, W) over them: class 0 as it is, void and the others in their
    colours, with white lines of so many pixels between classes that no void divides.
    """
    grey = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
    colours, there = palette()[np.clip(mask, 0, VOID)], (mask != 0)[..., None]
    mixed = np.where(there, grey * (1 - COVER) + colours * COVER, grey)
    mixed[_edges(mask, lines)] = 255
    return np.ascontiguousarray(mixed.round().astype(np.uint8))


def _edges(mask: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """Where a class meets another, so many pixels wide."""
    found, known = np.zeros(mask.shape, bool), mask != VOID
    for step in range(1, width + 1):
        found[step:] |= (mask[step:] != mask[:-step]) & known[step:] & known[:-step]
        found[:, step:] |= (mask[:, step:] != mask[:, :-step]) & known[:, step:] & known[:, :-step]
    return found
