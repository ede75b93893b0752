"""The toy classification without batch norm and dropout: what its shards compute doesn't depend on where they end."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from tests.toys.classification import ToyClassification


class Plain(ToyClassification):
    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.network = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)
        )


class Spectral(Plain):
    """With buffers that every pass changes and that need no batch: the vectors of a spectral norm."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        spectral_norm(self.network[0])
