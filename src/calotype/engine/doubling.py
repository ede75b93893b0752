"""The tree of a batch's shards across processes, by recursive doubling.

Each process has added a block of neighbouring shards, a subtree. In round k it and the one whose number differs in bit
k exchange what they have and both add it: log2(processes) rounds, after which all hold the whole tree's sum in the same
bits, since a + b is b + a. A process without a shard in the batch takes part with nothing.
Source: R. Thakur, R. Rabenseifner, W. Gropp, Optimization of collective communication operations in MPICH, 2005.

`AllReduced` adds the same leaves in an order of torch's own, for `reduce: fast` where a process may find no room for
its part: it says so in the same message.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calotype.engine.distributed import World
from calotype.engine.reduce import Leaf, add, disagreement


class _Buffer:
    """The tensors of one type and device end to end, and behind them which of them are there."""

    def __init__(self, like: Sequence[Tensor], places: Sequence[int]) -> None:
        self.places = list(places)
        chosen = [like[place] for place in places]
        sizes = [tensor.numel() for tensor in chosen]
        self.flat = chosen[0].detach().new_empty(sum(sizes) + len(places))
        *pieces, self.there = torch.split(self.flat, [*sizes, len(places)])
        self.views = [piece.view(tensor.shape) for piece, tensor in zip(pieces, chosen, strict=True)]

    def fill(self, leaf: Leaf) -> None:
        """Lay a leaf's tensors here."""
        present = [(view, leaf[place]) for view, place in zip(self.views, self.places, strict=True)]
        pairs = [(view, tensor) for view, tensor in present if tensor is not None]
        if pairs:
            torch._foreach_copy_([view for view, _ in pairs], [tensor for _, tensor in pairs])
        self.there.copy_(torch.tensor([tensor is not None for _, tensor in present]))

    def read(self, leaf: Leaf) -> None:
        """Put what is here into a leaf."""
        for place, view, there in zip(self.places, self.views, self.there.tolist(), strict=True):
            leaf[place] = view if there else None


def _buffers(like: Sequence[Tensor]) -> list[_Buffer]:
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for place, tensor in enumerate(like):
        kinds.setdefault((tensor.dtype, tensor.device), []).append(place)
    return [_Buffer(like, places) for places in kinds.values()]


class Doubling:
    """Adds leaves like `sums` over the processes; what is like `agreeing` (integers, called `names`) must be equal."""

    def __init__(self, world: World, sums: Sequence[Tensor], agreeing: Sequence[Tensor], names: Sequence[str]) -> None:
        self.world, self.names, self.added = world, names, len(sums)
        self.like = like = [*sums, *(tensor.to(torch.int64) for tensor in agreeing)]
        self.mine, self.theirs = _buffers(like), _buffers(like)

    def add(self, leaf: Leaf, agreed: Sequence[Tensor]) -> tuple[Leaf, Leaf]:
        """The sum over all processes and what they agree on; `agreed` is empty where there was no shard. The sum is in
        the leaf's own memory. Raises RuntimeError naming a buffer that differs.
        """
        integers: Leaf = [tensor.to(torch.int64) for tensor in agreed] or [None] * len(self.names)
        whole = [*leaf, *integers]
        bit = 1
        while bit < self.world.size:
            for buffer in self.mine:
                buffer.fill(whole)
            partner = self.world.rank ^ bit
            self.world.swap([buffer.flat for buffer in self.mine], [buffer.flat for buffer in self.theirs], partner)
            other: Leaf = [None] * len(whole)
            for buffer in self.theirs:
                buffer.read(other)
            whole = self._joined(whole, other)
            bit <<= 1
        return whole[: self.added], whole[self.added :]

    def _joined(self, mine: Leaf, theirs: Leaf) -> Leaf:
        # what only they have is copied, laid out as here: their memory takes the next round's words
        other = [
            torch.empty_like(like).copy_(b) if a is None and b is not None else b
            for a, b, like in zip(mine, theirs, self.like, strict=True)
        ]
        for name, a, b in zip(self.names, mine[self.added :], other[self.added :], strict=True):
            if a is not None and b is not None and not torch.equal(a, b):
                raise RuntimeError(disagreement(name))
        sums = add(mine[: self.added], other[: self.added])
        return sums + [b if a is None else a for a, b in zip(mine[self.added :], other[self.added :], strict=True)]


class AllReduced:
    """Adds leaves like `sums` over the processes by torch's all_reduce; of what is like `agreeing` the first process's
    is taken, which has a part of every batch.
    """

    def __init__(self, world: World, sums: Sequence[Tensor], agreeing: Sequence[Tensor]) -> None:
        self.world, self.agreeing = world, agreeing
        self.like = [*sums, torch.zeros((), device=sums[0].device)]
        self.buffers = _buffers(self.like)

    def add(self, leaf: Leaf, agreed: Sequence[Tensor]) -> tuple[Leaf, Leaf]:
        """The sum over all processes, in memory that the next one takes, and what the first process has. Raises
        OutOfMemoryError where one gave up.
        """
        *total, without_room = self._added([*leaf, None])
        if without_room is not None:
            raise torch.OutOfMemoryError("another process has no room for its part of the batch")
        found = list(agreed) or [buffer.clone() for buffer in self.agreeing]
        self.world.copy(found)
        return total, [*found]

    def give_up(self) -> None:
        """Say, where the others add, that this process has no room for its part."""
        self._added([*[None] * (len(self.like) - 1), self.like[-1]])

    def _added(self, leaf: Leaf) -> Leaf:
        total: Leaf = [None] * len(leaf)
        for buffer in self.buffers:
            buffer.flat.zero_()
            buffer.fill(leaf)
            self.world.add(buffer.flat)
            buffer.read(total)
        return total
