"""Toys with what torch's FSDP can't divide, or not like the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from calotype.types import Counts, Loss, Shard
from tests.toys.classification import ToyClassification


class Scaled(ToyClassification):
    """With a learned temperature, a parameter without dimensions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        loss = super().forward(shard, counts)
        return Loss(loss.value * self.temperature, loss.terms)


class Tied(ToyClassification):
    """Two layers share a weight."""

    def __init__(self) -> None:
        super().__init__()
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        mean = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.network = nn.Sequential(mean, nn.ReLU(), first, second, nn.Linear(4, 3))


class Rows(torch.optim.SGD):
    """Keeps a number for each row of a weight."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["rows"] = p.detach().reshape(len(p), -1).square().sum(1)
        return super().step(closure)
