"""Tasks that need more memory than there is for more than so many samples at once."""

from __future__ import annotations

import os

import torch
from torch import nn

from calotype.types import Counts, Loss, Shard
from tests.toys.classification import ToyClassification
from tests.toys.plain import Plain

ROOM = "TOYS_ROOM"
"""The environment variable that says for how many samples there is room; without it there is for any number."""


class _Cramped(nn.Module):
    def forward(self, shard: Shard, counts: Counts) -> Loss:
        if self.training and len(shard) > int(os.environ.get(ROOM, "1000")):
            raise torch.OutOfMemoryError(f"{len(shard)} samples")
        loss: Loss = super().forward(shard, counts)
        return loss


class Greedy(_Cramped, Plain):
    """Plain, but for that."""


class GreedyToy(_Cramped, ToyClassification):
    """The toy with batch norm and dropout, but for that."""
