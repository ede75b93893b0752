"""Toy classification: a convolution with batch norm and dropout, cross-entropy over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.types import Counts, Loss, Metric, Prediction, Shard, Term


def scaled(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image


def stem(width: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(0.2)
    )


class Share:
    """Share of right answers: integers, divided once."""

    def __init__(self) -> None:
        self.right = torch.zeros((), dtype=torch.int64)
        self.all = torch.zeros((), dtype=torch.int64)

    def update(self, prediction: Prediction, shard: Shard) -> None:
        right = prediction["right"]
        self.right = self.right + right.sum()
        self.all = self.all + right.numel()

    def state(self) -> dict[str, Tensor]:
        return {"right": self.right, "all": self.all}

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"accuracy": float(state["right"]) / max(1, int(state["all"]))}


class ToyClassification(nn.Module):
    """network: stem, mean over the image, linear.

    A training shard that holds all samples of `nan_at` has a loss that is no number; `gain` multiplies any loss.
    """

    def __init__(self, width: int = 8, nan_at: Sequence[int] | None = None, gain: float = 1.0) -> None:
        super().__init__()
        self.network = nn.Sequential(stem(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))
        self.nan_at, self.gain = nan_at, gain

    def counts(self, shard: Shard) -> dict[str, float]:
        return {"images": float(len(shard))}

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        total = F.cross_entropy(self.network(scaled(shard["image"])), shard["label"], reduction="sum")
        if self.nan_at is not None and self.training and set(self.nan_at) <= set(shard.ids.tolist()):
            total = total * float("nan")
        total = total * self.gain
        return Loss(total / counts["images"], {"loss": Term(total.detach(), float(len(shard)))})

    def predict(self, shard: Shard) -> Prediction:
        logits = self.network(scaled(shard["image"]))
        return Prediction(shard.ids, {"logits": logits, "right": logits.argmax(1) == shard["label"]})

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        return {"accuracy": Share}
