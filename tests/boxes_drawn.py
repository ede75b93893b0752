"""Drawn boxes for tests of detection metrics: whole pixels, so that IoUs are exact; equal scores, crowds, empty images,
ids of 62 bits with gaps.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from calotype.average_precision import AveragePrecision, evaluators
from calotype.average_precision.rows import gathered
from calotype.types import Prediction, Shard

CLASSES = ("cat", "dog", "a bird", "no such thing")
"""Of the last one there is never an object."""
FAR = (1 << 61) + 1
"""An id from which on float64 has no odd numbers for a long way."""


def drawn(count: int, seed: int = 0, *, difficult: bool = False, first: int | None = None) -> tuple[Prediction, Shard]:
    """Images with annotations and with detections that lie near some of them, or nowhere."""
    draw = np.random.default_rng(seed)
    start = FAR + 1000 * seed if first is None else first
    ids = start + np.cumsum(draw.integers(1, 4, count))
    truth = [_truth(draw, difficult=difficult) for _ in range(count)]
    found = [_found(draw, boxes) for boxes in truth]
    columns = {name: [_tensor(row[name]) for row in found] for name in ("boxes", "scores", "labels")}
    return Prediction(ids, columns), Shard(ids, {"truth": [torch.from_numpy(boxes) for boxes in truth]})


def _truth(draw: np.random.Generator, *, difficult: bool) -> np.ndarray:
    number = int(draw.choice([0, 1, 3, 9]))
    corner, side = draw.integers(0, 60, (number, 2)), draw.choice([8, 12, 40, 130], (number, 2))
    flags = (draw.random(number) < 0.15) + 4 * (draw.random(number) < 0.3)
    if difficult:
        flags = 2 * (draw.random(number) < 0.3)
    labels = draw.integers(0, len(CLASSES) - 1, number)
    boxes = np.column_stack([corner, corner + side, labels, flags, side.prod(1)]).astype(np.float64)
    beside = boxes[::3, :5][: len(boxes[1::3])]  # two objects that the same boxes fit
    boxes[1::3, :5] = beside + np.array([2, 1, 2, 1, 0])
    return boxes


def _found(draw: np.random.Generator, truth: np.ndarray) -> dict[str, np.ndarray]:
    near = np.repeat(truth, draw.integers(0, 4, len(truth)), 0)
    boxes = near[:, :4] + draw.integers(-3, 4, (len(near), 4))
    labels = np.where(draw.random(len(near)) < 0.9, near[:, 4], draw.integers(0, len(CLASSES), len(near)))
    astray = draw.integers(0, 50, (draw.integers(0, 4), 4))
    astray[:, 2:] += astray[:, :2] + 1
    boxes = np.concatenate([boxes, astray])
    labels = np.concatenate([labels, draw.integers(0, len(CLASSES), len(astray))])
    order = draw.permutation(len(boxes))
    scores = draw.integers(1, 8, len(boxes)) / 8
    return {"boxes": boxes[order].astype(np.float32), "scores": scores, "labels": labels[order].astype(np.int64)}


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def told(boxes: list[list[float]], *found: list[float], id: int = 0) -> tuple[Prediction, Shard]:
    """One image: annotations x1, y1, x2, y2, class, flags, and detections x1, y1, x2, y2, score, class."""
    rows, ids = torch.tensor(found, dtype=torch.float64).view(-1, 6), np.array([id])
    annotated = torch.tensor(boxes, dtype=torch.float64).view(-1, 6)
    sides = annotated[:, 2:4] - annotated[:, :2]
    columns = {"boxes": [rows[:, :4]], "scores": [rows[:, 4]], "labels": [rows[:, 5].long()]}
    return Prediction(ids, columns), Shard(ids, {"truth": [torch.cat([annotated, sides.prod(1, keepdim=True)], 1)]})


def digest_of_tables() -> str:
    """Of all that hotcoco computes for a split of some size, in any process."""
    metric = AveragePrecision(CLASSES)
    metric.update(*drawn(300))
    tables = evaluators.tables(gathered(metric.state(), len(CLASSES)), "hotcoco")
    return hashlib.sha256(b"".join(table.tobytes() for table in tables)).hexdigest()
