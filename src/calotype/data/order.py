"""Which samples make which batch: a pure function of (seed, step), never the state of an iterator.

Step k belongs to epoch k // steps_per_epoch, whose permutation is keyed by the epoch, and takes the next slice of it.
So a resume at any step costs one permutation and reads nothing that was skipped. A batch is cut into shards as evenly
as can be, the first ones larger; in a tail batch smaller than the shards the last ones are absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from calotype.errors import DataError
from calotype.keys import generator

if TYPE_CHECKING:
    from calotype.types import IntArray


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """What a worker is asked for: the positions of one shard's samples in their source, in order."""

    step: int
    epoch: int
    shard: int
    positions: IntArray


class Order(Protocol):
    """A rule that says for each step which samples are read."""

    @property
    def steps_per_epoch(self) -> int: ...
    def batch(self, step: int) -> list[ShardPlan]: ...


@dataclass(frozen=True, slots=True)
class Batching:
    """How an epoch is cut: into batches of `batch_size`, each into `shards`.

    With `drop_last` the samples left over at an epoch's end wait for another epoch's permutation; without it they
    make a smaller batch. `limit` ends an epoch after so many batches.
    """

    batch_size: int
    shards: int = 1
    shuffle: bool = True
    drop_last: bool = True
    limit: int | None = None

    def steps(self, size: int) -> int:
        """Batches in an epoch of `size` samples. Raises DataError for none."""
        whole = size // self.batch_size if self.drop_last else -(-size // self.batch_size)
        if whole == 0:
            raise DataError(
                f"the train split has {size} samples, fewer than one batch of {self.batch_size}; "
                "lower data.batch_size or set data.drop_last=false",
                key="data.batch_size",
            )
        return whole if self.limit is None else min(self.limit, whole)


class TrainOrder:
    """Epochs without replacement over `size` samples, each in an order of its own."""

    def __init__(self, size: int, batching: Batching, seed: int = 0) -> None:
        self.size, self.batching, self.seed = size, batching, seed
        self.steps_per_epoch = batching.steps(size)
        self._cached: tuple[int, IntArray] = (-1, np.arange(0))

    def permutation(self, epoch: int) -> IntArray:
        """The positions of an epoch in order, int64 (size,); the last epoch asked for is kept."""
        if not self.batching.shuffle:
            return np.arange(self.size)
        if self._cached[0] != epoch:
            drawn = torch.randperm(self.size, generator=generator(self.seed, "order", epoch))
            self._cached = (epoch, drawn.numpy())
        return self._cached[1]

    def batch(self, step: int) -> list[ShardPlan]:
        """The shards of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        size = self.batching.batch_size
        positions = self.permutation(epoch)[within * size : (within + 1) * size]
        pieces = np.array_split(positions, self.batching.shards)
        return [ShardPlan(step, epoch, shard, piece) for shard, piece in enumerate(pieces) if len(piece)]

    def smallest_shard(self) -> int:
        """The fewest samples any shard of an epoch holds."""
        batching = self.batching
        tail = self.size - (self.steps_per_epoch - 1) * batching.batch_size
        pieces = np.array_split(np.arange(min(tail, batching.batch_size)), batching.shards)
        return min(len(piece) for piece in pieces if len(piece))


class EvalOrder:
    """Every sample once, by ascending id, in batches of one shard. `limit` keeps the first batches only."""

    def __init__(self, ids: IntArray, batch_size: int, *, limit: int | None = None) -> None:
        self.positions = np.argsort(ids, kind="stable")
        self.batch_size = batch_size
        whole = -(-len(ids) // batch_size)
        self.steps_per_epoch = whole if limit is None else min(limit, whole)

    def batch(self, step: int) -> list[ShardPlan]:
        """The one shard of a batch."""
        return [ShardPlan(step, 0, 0, self.positions[step * self.batch_size : (step + 1) * self.batch_size])]
