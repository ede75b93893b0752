"""What `data check` is told of boxes, for every layout: those that can't be used, and those that reach out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from calotype.data.annotations import Annotations

REACH = 1.0
"""Pixels by which a box may reach out of its image unremarked: by rounding, or where corners count from 1."""


def texts_of(annotations: Annotations) -> dict[str, list[str]]:
    """Texts by kind: "boxes" that can't be used, with annotations of no image and images that there are twice;
    "boxes_notes" that reach out of their image.
    """
    wrong = [f"{annotations.images.name(row)}: {annotations.reason(row, box)}" for row, box in annotations.flawed()]
    found = {"boxes": [*wrong, *annotations.stray, *annotations.doubled], "boxes_notes": [*_reaching(annotations)]}
    return {kind: texts for kind, texts in found.items() if texts}


def _reaching(annotations: Annotations) -> Iterator[str]:
    rows = np.repeat(np.arange(len(annotations)), np.diff(annotations.ends))
    height, width = annotations.sizes[rows].T
    x_min, y_min, x_max, y_max = annotations.boxes.T
    with np.errstate(invalid="ignore"):
        beyond = np.max([-x_min, -y_min, x_max - width, y_max - height], axis=0)
        which = np.flatnonzero((annotations.flaws == 0) & (width > 0) & (beyond > REACH))
    for box in which.tolist():
        row = int(rows[box])
        size = f"{annotations.sizes[row, 1]}x{annotations.sizes[row, 0]}"
        corners = ", ".join(f"{value:.6g}" for value in annotations.boxes[box].tolist())
        place = f"{annotations.images.name(row)}: {annotations.called} {annotations.numbers[box]}"
        yield f"{place} ({corners}) reaches out of its image of {size} by {beyond[box]:.6g} pixels"
