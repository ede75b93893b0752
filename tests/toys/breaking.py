"""A toy classification that breaks at a shard of certain samples, each time in another way."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from calotype.types import Counts, Loss, Shard
from tests.toys.plain import Plain


class Root(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value.sqrt()


class Breaking(Plain):
    """`how` is "forward" (the root of a negative number), "backward" (the root of 0, whose slope is infinite) or
    "raise".
    """

    def __init__(self, at: Sequence[int] = (), how: str = "forward") -> None:
        super().__init__()
        self.root, self.at, self.how = Root(), set(at), how

    def forward(self, shard: Shard, counts: Counts) -> Loss:
        loss = super().forward(shard, counts)
        if not (self.training and self.at and self.at <= set(shard.ids.tolist())):
            return loss
        if self.how == "raise":
            raise RuntimeError("this shard can't be computed")
        if self.how == "backward":
            return Loss(loss.value + self.root((self.network[0].weight * 0).sum()), loss.terms)
        return Loss(loss.value * self.root(loss.value.detach() * 0 - 1), loss.terms)
