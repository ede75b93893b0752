"""Which samples make which batch: a pure function of (seed, step), never the state of an iterator.

Step k belongs to epoch k // steps_per_epoch, whose permutation is keyed by the epoch, and takes the next slice of it.
So a resume at any step costs one permutation and reads nothing that was skipped. A batch is cut into shards as evenly
as can be, the first ones larger; in a tail batch smaller than the shards the last ones are absent.
Where samples are drawn with replacement, the draws of one sample within an epoch are told apart by their occurrence,
which is part of the key of its augmentation.
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
    """What a worker is asked for: the positions of one shard's samples in their source, in order.

    `occurrences` says of each the how-manieth draw of its sample in the epoch it is; None: the first, all of them.
    """

    step: int
    epoch: int
    shard: int
    positions: IntArray
    occurrences: IntArray | None = None


class Order(Protocol):
    """A rule that says for each step which samples are read."""

    @property
    def steps_per_epoch(self) -> int: ...
    def batch(self, step: int) -> list[ShardPlan]: ...
    def size(self, step: int) -> int: ...


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
    """Epochs over so many samples, each in an order of its own: without replacement, or, where `labels` are given (the
    class of each sample, int64), with replacement and every class that has samples equally likely.
    """

    def __init__(self, samples: int, batching: Batching, seed: int = 0, labels: IntArray | None = None) -> None:
        self.samples, self.batching, self.seed = samples, batching, seed
        self.steps_per_epoch = batching.steps(samples)
        self._members = None if labels is None else _Members(labels)
        self._cached: tuple[int, IntArray, IntArray | None] = (-1, np.arange(0), None)

    def permutation(self, epoch: int) -> IntArray:
        """The positions of an epoch in order, int64 (samples,); the last epoch asked for is kept."""
        return self._epoch(epoch)[0]

    def _epoch(self, epoch: int) -> tuple[IntArray, IntArray | None]:
        if not self.batching.shuffle:
            return np.arange(self.samples), None
        if self._cached[0] != epoch:
            drawn = generator(self.seed, "order", epoch)
            if self._members is None:
                self._cached = (epoch, torch.randperm(self.samples, generator=drawn).numpy(), None)
            else:
                positions = self._members.draw(self.samples, drawn)
                self._cached = (epoch, positions, occurrences(positions))
        return self._cached[1:]

    def batch(self, step: int) -> list[ShardPlan]:
        """The shards of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        positions, repeats = self._epoch(epoch)
        size = self.batching.batch_size
        rows = np.arange(within * size, min((within + 1) * size, self.samples))
        return [
            ShardPlan(step, epoch, shard, positions[piece], None if repeats is None else repeats[piece])
            for shard, piece in enumerate(np.array_split(rows, self.batching.shards))
            if len(piece)
        ]

    def size(self, step: int) -> int:
        """How many shards a step has."""
        batching, within = self.batching, step % self.steps_per_epoch
        return min(batching.shards, batching.batch_size, self.samples - within * batching.batch_size)

    def smallest_shard(self) -> int:
        """The fewest samples any shard of an epoch holds."""
        batching = self.batching
        tail = self.samples - (self.steps_per_epoch - 1) * batching.batch_size
        pieces = np.array_split(np.arange(min(tail, batching.batch_size)), batching.shards)
        return min(len(piece) for piece in pieces if len(piece))


class Share:
    """What one of several processes reads of the train split: the same block of neighbouring shards of every batch."""

    def __init__(self, order: TrainOrder, rank: int, ranks: int) -> None:
        self.order, self.steps_per_epoch = order, order.steps_per_epoch
        width = order.batching.shards // ranks
        self.mine = range(rank * width, (rank + 1) * width)

    def batch(self, step: int) -> list[ShardPlan]:
        """This process's shards of a step; none of a tail batch that is smaller than the shards before them."""
        return [plan for plan in self.order.batch(step) if plan.shard in self.mine]

    def size(self, step: int) -> int:
        """How many those are."""
        return len(self.mine[: max(0, self.order.size(step) - self.mine.start)])


class _Members:
    """The positions of the samples of each class, one class after another."""

    def __init__(self, labels: IntArray) -> None:
        self.positions = np.argsort(labels, kind="stable")
        _, self.starts, self.sizes = np.unique(labels[self.positions], return_index=True, return_counts=True)

    def draw(self, count: int, drawn: torch.Generator) -> IntArray:
        """`count` positions with replacement: a class, all equally likely, then a sample of it."""
        classes = torch.randint(len(self.sizes), (count,), generator=drawn).numpy()
        shares = torch.rand(count, dtype=torch.float64, generator=drawn).numpy()
        within = (shares * self.sizes[classes]).astype(np.int64)
        found: IntArray = self.positions[self.starts[classes] + within]
        return found


def occurrences(positions: IntArray) -> IntArray:
    """For each position how often it came before in the same array, int64."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[firsts, len(positions)])
    counted = np.empty(len(positions), np.int64)
    counted[order] = np.arange(len(positions)) - np.repeat(firsts, lengths)
    return counted


class EvalOrder:
    """Every sample once, by ascending id, in batches of one shard. `limit` keeps the first batches only; `sample` keeps
    so many samples, the same each time, drawn by `seed`. Of several processes the batches go to one after another; the
    last ones may have none at the end.
    """

    def __init__(
        self,
        ids: IntArray,
        batch_size: int,
        *,
        limit: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.positions = np.argsort(ids, kind="stable")
        if sample is not None:
            drawn = torch.randperm(len(ids), generator=generator(seed, "watch")).numpy()
            self.positions = self.positions[np.sort(drawn[:sample])]
        self.batch_size, (self.rank, self.ranks) = batch_size, part
        whole = -(-len(self.positions) // batch_size)
        self.batches = whole if limit is None else min(limit, whole)
        self.samples = min(len(self.positions), self.batches * batch_size)
        self.steps_per_epoch = -(-self.batches // self.ranks)

    def batch(self, step: int) -> list[ShardPlan]:
        """The one shard of a batch."""
        number = step * self.ranks + self.rank
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return [ShardPlan(step, 0, 0, self.positions[rows])] if number < self.batches else []

    def size(self, step: int) -> int:
        """1, or 0 where this process has no batch left."""
        return int(step * self.ranks + self.rank < self.batches)
