"""The tree of a batch's shards across processes, by recursive doubling.

Each process has added a block of neighbouring shards, a subtree. In round k it and the one whose number differs in bit
k exchange what they have and both add it: log2(processes) rounds, after which all hold the whole tree's sum in the same
bits, since a + b is b + a. A process without a shard in the batch takes part with nothing. Gradients go in buckets, the
first round of each while the last shard's backward pass computes those of the layers before.
Source: R. Thakur, R. Rabenseifner, W. Gropp, Optimization of collective communication operations in MPICH, 2005.

`AllReduced` adds the same leaves in an order of torch's own, for `reduce: fast` where a process may find no room for
its part: it says so in the same message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from calotype.engine.distributed import World
from calotype.engine.memory import NoRoomElsewhere
from calotype.engine.reduce import Leaf, RunningSum, Tree, add, disagreement

CAP = 4 << 20
"""Bytes after which a bucket is full. Smaller than DDP's 25 MiB, whose last one would go when nothing is left to do."""


class _Flat:
    """Tensors of one type and device end to end, and behind them which of them are there."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        sizes = [tensor.numel() for tensor in like]
        self.flat = like[0].detach().new_empty(sum(sizes) + len(like))
        *pieces, self.there = torch.split(self.flat, [*sizes, len(like)])
        laid_out = [torch.empty_like(tensor, device="meta") for tensor in like]  # as gradients are: dense, in any order
        self.views = [
            p.as_strided(a.shape, a.stride(), p.storage_offset()) for p, a in zip(pieces, laid_out, strict=True)
        ]

    def fill(self, values: Leaf) -> None:
        """Lay tensors here."""
        pairs = [(view, tensor) for view, tensor in zip(self.views, values, strict=True) if tensor is not None]
        if pairs:
            torch._foreach_copy_([view for view, _ in pairs], [tensor for _, tensor in pairs])
        self.there.copy_(torch.tensor([tensor is not None for tensor in values]))

    def read(self) -> Leaf:
        """What is here, in this memory."""
        return [view if there else None for view, there in zip(self.views, self.there.tolist(), strict=True)]


class _Bucket:
    """Some places of a leaf, which are exchanged together. `names` are those of integers, which are not added."""

    def __init__(self, like: Sequence[Tensor], places: Sequence[int], names: Sequence[str]) -> None:
        self.places, self.names = places, names
        self.mine, self.theirs = (_Flat([like[place] for place in places]) for _ in range(2))
        self.values: Leaf = []
        self.awaited, self.sent = set(places), False
        self.wait: Callable[[], None] = _nothing

    def exchange(self, world: World, bit: int) -> None:
        """Begin a round."""
        self.mine.fill(self.values)
        self.wait = world.swap(self.mine.flat, self.theirs.flat, world.rank ^ bit)

    def join(self) -> None:
        """End a round: have both sums. Raises RuntimeError naming a buffer that differs."""
        self.wait()
        self.wait = _nothing
        # what only they have is copied: their memory takes the next round's words
        theirs = [
            b.clone() if a is None and b is not None else b
            for a, b in zip(self.values, self.theirs.read(), strict=True)
        ]
        if not self.names:
            self.values = add(self.values, theirs)
            return
        for name, a, b in zip(self.names, self.values, theirs, strict=True):
            if a is not None and b is not None and not torch.equal(a, b):
                raise RuntimeError(disagreement(name))
        self.values = [b if a is None else a for a, b in zip(self.values, theirs, strict=True)]


def _nothing() -> None:
    pass


def _grouped(like: Sequence[Tensor], places: Iterable[int]) -> list[list[int]]:
    """Places by type and device, in groups of CAP bytes, one that is whole first coming first."""
    whole, begun = list[list[int]](), dict[Any, list[int]]()
    sizes = Counter[Any]()
    for place in places:
        kind = like[place].dtype, like[place].device
        begun.setdefault(kind, []).append(place)
        sizes[kind] += like[place].nbytes
        if sizes[kind] >= CAP:
            whole.append(begun.pop(kind))
            del sizes[kind]
    return [*whole, *begun.values()]


class Doubling:
    """Adds leaves of gradients of `parameters` and of what is like `rest` over the processes; what is like `agreeing`
    (integers, called `names`) must be equal.
    """

    def __init__(
        self,
        world: World,
        parameters: Sequence[nn.Parameter],
        rest: Sequence[Tensor],
        agreeing: Sequence[Tensor],
        names: Sequence[str],
    ) -> None:
        self.world, self.added = world, len(parameters) + len(rest)
        like = [*parameters, *rest, *(tensor.to(torch.int64) for tensor in agreeing)]
        self.size = len(like)
        early = _grouped(like, reversed(range(len(parameters))))  # as a backward pass gets to them
        late = [*_grouped(like, range(len(parameters), self.added)), [*range(self.added, self.size)]]
        self.early = len(early)
        self.buckets = [
            _Bucket(like, places, names if places[0] >= self.added else ()) for places in [*early, *late] if places
        ]
        self.bucket = {place: bucket for bucket in self.buckets for place in bucket.places}
        self.begin(0)
        for place, p in enumerate(parameters):
            p.register_post_accumulate_grad_hook(lambda p, place=place: self._arrived(place, p.grad))  # type: ignore[no-untyped-call]

    def begin(self, leaves: int) -> None:
        """Begin a batch of so many leaves of this process."""
        self.tree, self.left, self.sent = Tree(), leaves, 0
        self.last: Leaf = [None] * self.added
        for bucket in self.buckets:
            bucket.awaited, bucket.sent, bucket.values = set(bucket.places), False, []

    def push(self, leaf: Leaf) -> None:
        """Add this process's next leaf. Its tensors aren't the caller's any more."""
        self.left -= 1
        if self.left:
            self.tree.push(leaf)
        else:
            self.last = leaf

    def give_up(self) -> None:
        """This process will fail, and the others hear it from that; what it tries before is of no batch."""
        self.begin(0)

    def result(self, agreed: Sequence[Tensor]) -> tuple[Leaf, Leaf]:
        """The sum over all processes and what they agree on; `agreed` is empty where there was no shard. The sum is in
        the leaf's own memory. Raises RuntimeError naming a buffer that differs.
        """
        integers: Leaf = [tensor.to(torch.int64) for tensor in agreed] or [None] * (self.size - self.added)
        self.last = [*self.last, *integers]
        while self.sent < len(self.buckets):
            self._send()
        bit = 1
        while bit < self.world.size:
            for bucket in self.buckets:
                bucket.join()
                if bit << 1 < self.world.size:
                    bucket.exchange(self.world, bit << 1)
            bit <<= 1
        found = {
            place: value for bucket in self.buckets for place, value in zip(bucket.places, bucket.values, strict=True)
        }
        whole = [found[place] for place in range(self.size)]
        self.begin(0)
        return whole[: self.added], whole[self.added :]

    def _arrived(self, place: int, gradient: Tensor | None) -> None:
        """Note a gradient of the last leaf, and send what is whole by now, in the same order everywhere."""
        if self.left != 1:
            return
        bucket = self.bucket[place]
        if bucket.sent:
            raise RuntimeError(
                "a parameter gets its gradient in several parts, and the first was sent; where a network computes "
                "parts of itself again, give torch.utils.checkpoint use_reentrant=False"
            )
        self.last[place] = gradient
        bucket.awaited.discard(place)
        while self.sent < self.early and not self.buckets[self.sent].awaited:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[self.sent]
        own = [self.last[place] for place in bucket.places]
        bucket.values = own if bucket.names else self.tree.below(bucket.places, own)
        bucket.exchange(self.world, 1)
        bucket.sent = True
        self.sent += 1


class AllReduced:
    """Adds leaves like `sums` over the processes by torch's all_reduce; of what is like `agreeing` the first process's
    is taken, which has a part of every batch.
    """

    def __init__(self, world: World, sums: Sequence[Tensor], agreeing: Sequence[Tensor]) -> None:
        self.world, self.agreeing = world, agreeing
        self.without_room = torch.zeros((), device=sums[0].device)
        self.like = [*sums, self.without_room]
        self.groups = [
            (places, _Flat([self.like[place] for place in places]))
            for places in _grouped(self.like, range(len(self.like)))
        ]
        self.begin(0)

    def begin(self, leaves: int) -> None:
        """Begin a batch of so many leaves of this process."""
        self.own = RunningSum()

    def push(self, leaf: Leaf) -> None:
        """Add this process's next leaf. Its tensors aren't the caller's any more."""
        self.own.push(leaf)

    def result(self, agreed: Sequence[Tensor]) -> tuple[Leaf, Leaf]:
        """The sum over all processes, in memory that the next one takes, and what the first process has. Raises
        NoRoomElsewhere where one gave up.
        """
        own = self.own.result() or [None] * (len(self.like) - 1)
        self.begin(0)
        *total, without_room = self._added([*own, None])
        if without_room is not None:
            raise NoRoomElsewhere
        found = list(agreed) or [buffer.clone() for buffer in self.agreeing]
        self.world.copy(found)
        return total, [*found]

    def give_up(self) -> None:
        """Say, where the others add, that this process has no room for its part."""
        self.begin(0)
        self._added([*[None] * (len(self.like) - 1), self.without_room])

    def _added(self, leaf: Leaf) -> Leaf:
        total: Leaf = [None] * len(leaf)
        for places, group in self.groups:
            group.flat.zero_()
            group.fill([leaf[place] for place in places])
            self.world.add(group.flat)
            for place, value in zip(places, group.read(), strict=True):
                total[place] = value
        return total
