"""A data set, a network, a task, a metric and a config in one file: the angle of a bar, read off its image.

    cp examples/own_task.py .
    calotype train own_task.py
    calotype verify last

Calotype knows nothing of angles. No class here derives from one of Calotype's: what counts is their methods, which
`calotype.types` lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from calotype.config.python import T
from calotype.types import Counts, Loss, Metric, Prediction, Shard, Term

SIZE = 16


def draw(angle: float) -> Tensor:
    """(1, 16, 16) uint8: a bar through the middle, `angle` radians from the horizontal."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    distance = (x * math.sin(angle) - y * math.cos(angle)).abs()
    return (255 * (1 - 4 * distance).clamp(0, 1)).to(torch.uint8)[None]


class Split:
    """One split: `count` bars. There are no files, so `files` and `containers` are empty."""

    files: Sequence[Path] = ()
    containers: Mapping[Path, str] = {}

    def __init__(self, first: int, count: int) -> None:
        self.ids = np.arange(first, first + count)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> dict[str, Any]:
        angle = math.pi * (self.ids[position] * 0.618 % 1)
        return {"image": tv_tensors.Image(draw(angle)), "angle": torch.tensor(angle, dtype=torch.float32)}

    def name(self, position: int) -> str:
        return f"bar {self.ids[position]}"


class Bars:
    """The data set."""

    classes = ("bar",)
    splits = ("train", "val", "test")

    def __init__(self, count: int = 512) -> None:
        self.count = count

    def split(self, name: str) -> Split:
        return Split(self.splits.index(name) * self.count, self.count if name == "train" else self.count // 4)


class Noise:
    """A transform. It may draw from any global generator: each sample is drawn under a key of its own."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        noise = torch.randint(0, 64, sample["image"].shape, dtype=torch.uint8)
        return sample | {"image": tv_tensors.Image(torch.maximum(sample["image"], noise))}


class MeanError:
    """Mean error in degrees. `state` is what adds up over batches."""

    def __init__(self) -> None:
        self.sum, self.count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def update(self, prediction: Prediction, shard: Shard) -> None:
        apart = (prediction["angle"] - shard["angle"]).double()
        self.sum = self.sum + torch.rad2deg((apart + math.pi / 2).remainder(math.pi) - math.pi / 2).abs().sum()
        self.count = self.count + len(shard)

    def state(self) -> dict[str, Tensor]:
        return {"sum": self.sum, "count": self.count}

    def compute(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"degrees": float(state["sum"]) / int(state["count"])}


class Angle(nn.Module):
    """The task: owns network and loss. The network gives cosine and sine of twice the angle."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.LazyLinear(2),
        )  # fmt: skip
        self.network(torch.zeros(1, 1, SIZE, SIZE))  # so that the lazy layer has its weights

    def counts(self, shard: Shard) -> dict[str, float]:
        """What the loss is divided by, from the targets alone; summed over the batch before `forward`."""
        return {"images": float(len(shard))}

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        """This shard's share of the batch's loss: divided by the whole batch's counts, so that shares just add."""
        double = 2 * shard["angle"]
        apart = self.network(shard["image"] / 255) - torch.stack([double.cos(), double.sin()], 1)
        total = apart.square().sum()
        return Loss(total / counts["images"], {"loss": Term(total.detach(), float(len(shard)))})

    def predict(self, shard: Shard) -> Prediction:
        out = self.network(shard["image"] / 255)
        return Prediction(shard.ids, {"angle": torch.atan2(out[:, 1], out[:, 0]) / 2})

    def metrics(self) -> dict[str, Callable[[], Metric]]:
        return {"degrees": MeanError}


# The config. Targets are names, so that the record of a run can be read, compared and run again.
seed = 0
module = T("own_task.Angle", width=16, optimizer=T("torch.optim.AdamW", lr=0.01), monitor="val/loss")
data = T("own_task.Bars", train_transforms=[T("own_task.Noise")], batch_size=32, workers=0)
trainer = {"max_epochs": 3, "threads": 1, "gradient_clip_val": 1.0, "ema": {"decay": 0.9, "warmup": True}}
