"""The boxes of a split as arrays, by ascending id of their images.

Unusual: images are known by their place among the ids from here on. Evaluators pass ids through float64, which would
make ids of 63 bits equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from calotype.errors import ConfigError, DataError
from calotype.types import CROWD, DIFFICULT

if TYPE_CHECKING:
    from calotype.types import IntArray

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

WIDTHS = {"boxes": (4,), "scores": (), "labels": (), "truth": (7,)}
"""The shape of a row of each entry of a metric's state, beside "images"."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Annotated boxes: `image` and `label` (m,) int64, `boxes` (m, 4) xyxy, `areas` (m,) of the objects in pixels, and
    which are around many of a kind, and which too difficult to count.
    """

    image: IntArray
    label: IntArray
    boxes: Floats
    areas: Floats
    crowd: Flags
    difficult: Flags


@dataclass(frozen=True, eq=False)
class Found:
    """Detections: `image` and `label` (k,) int64, `boxes` (k, 4) xyxy, `scores` (k,). Those of an image are in the
    order of the prediction.
    """

    image: IntArray
    label: IntArray
    boxes: Floats
    scores: Floats


@dataclass(frozen=True, eq=False)
class Rows:
    """All boxes of a split of `images` images and `classes` classes."""

    images: int
    classes: int
    truth: Truth
    found: Found


def gathered(state: Mapping[str, Sequence[Tensor]], classes: int) -> Rows:
    """The boxes of a metric's state. Of a box turned inside out nothing is left; a detection whose box or score is not
    finite is none.

    Raises DataError for an image that is there twice, ConfigError for a box of a class that there isn't.
    """
    images = _joined(state["images"], (3,)).astype(np.int64)
    columns = {name: _joined(state[name], shape) for name, shape in WIDTHS.items()}
    ids, found, annotated = images.T
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        raise DataError(f"the image {ids[order][twice[0]]} was measured twice")
    rows, image = _by_image(annotated, order)
    truth = columns["truth"].astype(np.float64)[rows]
    flags = truth[:, 5].astype(np.int64)
    rows, image_of = _by_image(found, order)
    boxes, scores = (columns[name].astype(np.float64)[rows] for name in ("boxes", "scores"))
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
    return Rows(
        len(ids),
        classes,
        Truth(
            image,
            _checked(truth[:, 4].astype(np.int64), classes, "annotated"),
            _solid(truth[:, :4]),
            truth[:, 6],
            (flags & CROWD) > 0,
            (flags & DIFFICULT) > 0,
        ),
        Found(
            image_of[finite],
            _checked(columns["labels"].astype(np.int64)[rows][finite], classes, "predicted"),
            _solid(boxes[finite]),
            scores[finite],
        ),
    )


def _joined(parts: Sequence[Tensor], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Tensors one after another as one array, whose dtype holds them all."""
    arrays = [(part.double() if part.is_floating_point() else part).cpu().numpy() for part in parts]
    return np.concatenate([array.reshape(-1, *shape) for array in arrays] or [np.zeros((0, *shape))])


def _by_image(counts: IntArray, order: IntArray) -> tuple[IntArray, IntArray]:
    """Which rows come when images of `counts` rows each are put into an order, and which image each is of."""
    starts, counts = (np.cumsum(counts) - counts)[order], counts[order]
    ends = np.cumsum(counts)
    image = np.repeat(np.arange(len(order)), counts)
    return np.arange(len(image)) + (starts - (ends - counts))[image], image


def _checked(labels: IntArray, classes: int, kind: str) -> IntArray:
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ConfigError(f"a box of class {wrong[0]} is {kind}, and there are {classes} classes, from 0", key="module")
    return labels


def _solid(boxes: Floats) -> Floats:
    lower = boxes[:, :2]
    return np.concatenate([lower, np.maximum(lower, boxes[:, 2:])], 1)
