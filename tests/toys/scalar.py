"""The toy classification with a parameter without dimensions."""

from __future__ import annotations

import torch
from torch import nn

from calotype.types import Counts, Loss, Shard
from tests.toys.classification import ToyClassification


class Scaled(ToyClassification):
    """A learned temperature beside the network."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        loss = super().forward(shard, counts)
        return Loss(loss.value * self.temperature, loss.terms)
