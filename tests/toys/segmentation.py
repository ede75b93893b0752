"""Toy segmentation: cross-entropy over valid pixels and Dice per image, void left out of both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.types import Counts, Loss, Metric, Prediction, Shard, Term
from tests.toys.classification import Share, scaled, stem

VOID = 255


def dice(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - Dice of each image, (n,); an image of nothing but void gives 0."""
    valid = (mask != VOID).unsqueeze(1)
    target = F.one_hot(mask.where(mask != VOID, torch.zeros(())).long(), 3).permute(0, 3, 1, 2) * valid
    share = logits.softmax(1) * valid
    both, either = (share * target).sum((1, 2, 3)), (share + target).sum((1, 2, 3))
    return (1 - (2 * both + 1) / (either + 1)) * valid.any(3).any(2).squeeze(1)


class ToySegmentation(nn.Module):
    """network: stem and a 1x1 convolution, logits at full size."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.network = nn.Sequential(stem(width), nn.Conv2d(width, 3, 1))

    def counts(self, shard: Shard) -> dict[str, float]:
        return {"pixels": float((shard["mask"] != VOID).sum()), "images": float(len(shard))}

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        logits, mask = self.network(scaled(shard["image"])), shard["mask"]
        pixels = F.cross_entropy(logits, mask, ignore_index=VOID, reduction="sum")
        images = dice(logits, mask).sum()
        value = pixels / max(1.0, counts["pixels"]) + 0.5 * images / counts["images"]
        valid = float((mask != VOID).sum())
        terms = {"ce": Term(pixels.detach(), valid), "dice": Term(images.detach(), float(len(shard)), 0.5)}
        return Loss(value, terms)

    def predict(self, shard: Shard) -> Prediction:
        found, mask = self.network(scaled(shard["image"])).argmax(1), shard["mask"]
        return Prediction(shard.ids, {"mask": found, "right": (found == mask)[mask != VOID]})

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        return {"accuracy": Share}


class TwoHeads(nn.Module):
    """A stem, logits at half size, and those of an auxiliary head at full size."""

    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.stem = stem(width)
        self.head = nn.Conv2d(width, num_classes, 3, stride=2, padding=1)
        self.aux = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.stem(image)
        return {"out": self.head(found), "aux": self.aux(found)}
