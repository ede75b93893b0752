"""What `data check` is told of boxes, for every layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from calotype.data.annotations import corners
from calotype.types import CROWD

if TYPE_CHECKING:
    from calotype.data.annotations import Annotations

REACH = 1.0
"""Pixels by which a box may reach out of its image unremarked: by rounding, or where corners count from 1."""


def texts_of(annotations: Annotations) -> dict[str, list[str]]:
    """Texts by kind: "doubled" images, "stray" annotations of no image, "boxes" that can't be used; and as notes those
    "reaching" out of their image, and around a "crowd".
    """
    found: dict[str, list[str]] = {}
    for kind, text in _told(annotations):
        found.setdefault(kind, []).append(text)
    return found


def _told(found: Annotations) -> Iterator[tuple[str, str]]:
    yield from (("doubled", text) for text in found.doubled)
    yield from (("stray", text) for text in found.stray)
    for row, box in found.flawed():
        yield "boxes", f"{found.images.name(row)}: {found.reason(row, box)}"
    rows = np.repeat(np.arange(len(found)), np.diff(found.ends))
    height, width = found.sizes[rows].T
    x_min, y_min, x_max, y_max = found.boxes.T
    with np.errstate(invalid="ignore"):
        beyond = np.max([-x_min, -y_min, x_max - width, y_max - height], axis=0)
    sound = found.flaws == 0
    for row, box in found.with_rows(np.flatnonzero(sound & (width > 0) & (height > 0) & (beyond > REACH))):
        size = f"{found.sizes[row, 1]}x{found.sizes[row, 0]} by {beyond[box]:.6g} pixels"
        text = f"{found.told(int(found.numbers[box]))} {corners(found.boxes[box])} reaches out of its image of {size}"
        yield "reaching", f"{found.images.name(row)}: {text}"
    for row, box in found.with_rows(np.flatnonzero(sound & ((found.flags & CROWD) > 0))):
        yield "crowd", f"{found.images.name(row)}: {found.told(int(found.numbers[box]))} is around a crowd"
