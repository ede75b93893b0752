"""Leaves added over processes, bucket by bucket while backward passes go on, are the one tree's sum bit for bit."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

from calotype.engine import doubling
from calotype.engine.distributed import World
from calotype.engine.reduce import Leaf, Tree
from tests import harness

SLOTS = 4
"""Shards of a whole batch."""


class Net(nn.Module):
    """A parameter that is used by odd shards alone, one of another type by none, one that is frozen, two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.odd = nn.Parameter(torch.randn(5))
        self.unused = nn.Parameter(torch.randn(2, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))

    def backward(self, shard: int) -> Leaf:
        """The leaf of a shard."""
        for p in self.trained():
            p.grad = None
        image = torch.randn(6, 5, generator=torch.Generator().manual_seed(shard))
        loss = self.layers(image * self.odd if shard % 2 else image * self.frozen).square().sum()
        loss.backward()
        return [*(p.grad for p in self.trained()), loss.detach().clone()]

    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]


def met() -> World:
    return World.join(30 if os.environ["RANK"] == "0" else None)


def add(leaves: int, cap: int, early: int) -> None:
    """Two batches of so many shards; `early` buckets at least are on their way when a last backward pass is done."""
    doubling.CAP = cap
    world, alone, net = met(), Net(), Net()
    joint = doubling.Doubling(world, net.trained(), [torch.zeros(())], [torch.tensor(0)], ["count"])
    share = SLOTS // world.size
    mine = range(world.rank * share, min(leaves, (world.rank + 1) * share))
    for batch in range(2):
        tree = Tree()
        for shard in range(leaves):
            tree.push(alone.backward(shard + 10 * batch))
        joint.begin(len(mine))
        for shard in mine:
            assert joint.sent == 0
            leaf = net.backward(shard + 10 * batch)
            if shard == mine[-1]:
                assert joint.sent >= early
            joint.push(leaf)
        total, agreed = joint.result([torch.tensor(5)] if mine else [])
        assert same(total, tree.result()) and same(agreed, [torch.tensor(5)])
    world.leave()


def same(one: Leaf, other: Leaf) -> bool:
    pairs: list[tuple[Tensor | None, Tensor | None]] = list(zip(one, other, strict=True))
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.guarantee(
    "Gradients that are sent while others are still computed add up to the same bits", condition="trainer.reduce=exact"
)
@pytest.mark.parametrize(
    ("size", "leaves", "cap", "early"),
    [
        (2, 4, 1, 4),  # a bucket for each tensor; the last layer's two come first, the odd shards' last
        (2, 4, 160, 1),  # the layers in one bucket, the rest in another
        (2, 3, 1, 4),
        pytest.param(2, 1, 1, 4, marks=pytest.mark.long),  # the second process has none
        pytest.param(4, 3, 1, 4, marks=pytest.mark.long),
        pytest.param(4, 4, 1 << 20, 0, marks=pytest.mark.long),  # one bucket of a type, which even shards don't fill
    ],
)
def test_buckets(size: int, leaves: int, cap: int, early: int) -> None:
    outcomes = harness.together(size, add, leaves, cap, early)
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes


def add_twice_in_a_pass() -> None:
    """A parameter whose gradient comes in two parts, as of a part of a network that is computed again."""
    world, net = met(), Net()
    doubling.CAP = 1
    joint = doubling.Doubling(world, net.trained(), [torch.zeros(())], [], [])
    joint.begin(1)
    net.backward(0)
    with pytest.raises(RuntimeError, match="in several parts, and the first was sent"):
        net.layers(torch.ones(1, 5)).sum().backward()
    joint.give_up()  # what is tried from here on is of no batch
    net.backward(1)
    assert joint.sent == 0
    world.leave()


def test_a_gradient_that_comes_after_it_was_sent() -> None:
    outcomes = harness.together(2, add_twice_in_a_pass)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
