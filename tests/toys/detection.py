"""Toy detection: a 4x4 grid of cells; the cell under a box's centre is matched to it.

Boxes come as a list of (n_i, 4) tensors, some empty. Location loss is counted by matched boxes, classification by
cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.types import Counts, Loss, Metric, Prediction, Shard, Term
from tests.toys.classification import Share, scaled, stem

GRID, NONE = 4, 3


def match(shard: Shard) -> tuple[Tensor, Tensor, Tensor]:
    """Class of each cell (n, 4, 4), target box of each cell (n, 4, 4, 4), and which cells have a box."""
    size = shard["image"].shape[-1]
    classes = torch.full((len(shard), GRID, GRID), NONE)
    boxes = torch.zeros(len(shard), GRID, GRID, 4)
    for row, (found, labels) in enumerate(zip(shard["boxes"], shard["labels"], strict=True)):
        for box, label in zip(found, labels, strict=True):
            x, y = ((box[:2] + box[2:]) / 2 * GRID / size).long().clamp(0, GRID - 1).tolist()
            classes[row, y, x], boxes[row, y, x] = label, box / size
    return classes, boxes, classes != NONE


class ToyDetection(nn.Module):
    """network: stem, mean over cells, 1x1 convolution to 4 classes and 4 coordinates."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.network = nn.Sequential(stem(width), nn.AdaptiveAvgPool2d(GRID), nn.Conv2d(width, 8, 1))

    def counts(self, shard: Shard) -> dict[str, float]:
        return {"boxes": float(match(shard)[2].sum()), "cells": float(len(shard) * GRID * GRID)}

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        classes, boxes, matched = match(shard)
        out = self.network(scaled(shard["image"])).permute(0, 2, 3, 1)
        place = F.smooth_l1_loss(out[..., 4:][matched], boxes[matched], reduction="sum")
        kind = F.cross_entropy(out[..., :4].flatten(0, 2), classes.flatten(), reduction="sum")
        value = kind / counts["cells"] + (place / counts["boxes"] if counts["boxes"] else place * 0)
        cells = float(classes.numel())
        terms = {"class": Term(kind.detach(), cells), "box": Term(place.detach(), float(matched.sum()))}
        return Loss(value, terms)

    def predict(self, shard: Shard) -> Prediction:
        out = self.network(scaled(shard["image"])).permute(0, 2, 3, 1)
        found = out[..., :4].argmax(3)
        return Prediction(shard.ids, {"classes": found, "right": found == match(shard)[0]})

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        return {"accuracy": Share}
