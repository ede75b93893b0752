"""Figures of a split, from a row of facts for each of its images: sizes, channels, mean and standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calotype.analysis.looks import CHANNELS

if TYPE_CHECKING:
    import numpy.typing as npt

    Rows = npt.NDArray[Any]


def sizes(rows: Rows) -> dict[str, Any]:
    """Width and height in pixels, least, middle and most, and the commonest of both with its share; rows of one or
    more images.
    """
    found: dict[str, Any] = {
        side: {"min": int(rows[side].min()), "median": float(np.median(rows[side])), "max": int(rows[side].max())}
        for side in ("width", "height")
    }
    pairs, counts = np.unique(np.stack([rows["width"], rows["height"]], 1), axis=0, return_counts=True)
    width, height = pairs[counts.argmax()].tolist()
    return found | {"commonest": {"width": width, "height": height, "share": float(counts.max() / len(rows))}}


def channels(rows: Rows) -> dict[str, int]:
    """How many images have so many channels."""
    numbers, counts = np.unique(rows["channels"], return_counts=True)
    return {str(number): count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)}


def levels(rows: Rows) -> dict[str, list[float]] | None:
    """Mean and standard deviation of each channel over all pixels of all images, in 0..1; None where images differ in
    their channels or have too many. Whole numbers are added, so the figures are exact but for their last rounding.
    """
    count = int(rows["channels"][0])
    if count > CHANNELS or (rows["channels"] != count).any():
        return None
    pixels = int((rows["height"].astype(np.int64) * rows["width"]).sum())
    sums, squares = (_total(rows[name][:, :count]) for name in ("sum", "squares"))
    variances = [pixels * square - total * total for total, square in zip(sums, squares, strict=True)]
    return {
        "mean": [total / pixels / 255 for total in sums],
        "std": [math.sqrt(variance) / pixels / 255 for variance in variances],
    }


def pixels(rows: Rows, classes: Sequence[str]) -> dict[str, Any] | None:
    """Under "classes" each one's share of the pixels that are of any, under "void" the share of all that are of none;
    None where samples have no mask.
    """
    if "pixels" not in (rows.dtype.names or ()):
        return None
    *counts, void = rows["pixels"].sum(0).tolist()
    known = max(1, sum(counts))
    shares = {name: count / known for name, count in zip(classes, counts, strict=True)}
    return {"classes": shares, "void": void / max(1, sum(counts) + void)}


def _total(values: npt.NDArray[np.uint64]) -> list[int]:
    """Sums of columns as Python's whole numbers, which have no end: a thousand rows at a time fit 64 bits."""
    pieces = [values[start : start + 1024].sum(0).tolist() for start in range(0, len(values), 1024)]
    return [sum(column) for column in zip(*pieces, strict=True)]
