"""The tree of shards: its order, absent leaves, and what becomes of buffers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from calotype.engine.reduce import Buffers, Leaf, RunningSum, Tree
from calotype.errors import ConfigError


def leaves(count: int, size: int = 1000) -> list[Tensor]:
    drawn = torch.randn(count, size, generator=torch.Generator().manual_seed(count))
    return list(drawn * 10.0 ** torch.arange(count).remainder(5).unsqueeze(1))


def summed(adder: Tree | RunningSum, parts: list[Leaf]) -> Leaf:
    for part in parts:
        adder.push([None if tensor is None else tensor.clone() for tensor in part])
    return adder.result()


def test_eight_leaves_add_as_a_balanced_tree() -> None:
    a, b, c, d, e, f, g, h = leaves(8)
    (total,) = summed(Tree(), [[leaf] for leaf in (a, b, c, d, e, f, g, h)])
    assert total is not None
    assert torch.equal(total, ((a + b) + (c + d)) + ((e + f) + (g + h)))
    assert not torch.equal(total, a + b + c + d + e + f + g + h)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7])
def test_missing_leaves_at_the_end_count_as_none(count: int) -> None:
    """A tail batch fills the first shards of the tree that a whole batch has."""
    present = leaves(count)
    full: list[Leaf] = [[leaf] for leaf in present] + [[None]] * (8 - count)
    (short,), (padded,) = summed(Tree(), [[leaf] for leaf in present]), summed(Tree(), full)
    assert short is not None and padded is not None
    assert torch.equal(short, padded)


@pytest.mark.guarantee(
    "The shards' sum has the same bits whoever computes which half", condition="trainer.reduce=exact"
)
def test_halves_computed_apart_give_the_same_bits() -> None:
    """Who computes which shard is no part of the arithmetic."""
    parts: list[Leaf] = [[leaf] for leaf in leaves(8)]
    whole, left, right = summed(Tree(), parts), summed(Tree(), parts[:4]), summed(Tree(), parts[4:])
    joined = summed(Tree(), [left, right])
    assert whole[0] is not None and joined[0] is not None
    assert torch.equal(whole[0], joined[0])


def test_running_sum_adds_one_after_another() -> None:
    a, b, c, d = leaves(4)
    (total,) = summed(RunningSum(), [[a], [b], [c], [d]])
    assert total is not None
    assert torch.equal(total, ((a + b) + c) + d)


@pytest.mark.parametrize("adder", [Tree, RunningSum])
def test_none_counts_as_zero_and_stays_only_where_all_are(adder: type[Tree] | type[RunningSum]) -> None:
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    first, second, third = summed(adder(), [[one, None, None], [None, None, two], [two, None, one]])
    assert first is not None and third is not None
    assert (first.item(), second, third.item()) == (3.0, None, 3.0)


class Counting(nn.Module):
    """Buffers of every kind."""

    def __init__(self, **extra: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.7]))
        self.register_buffer("still", torch.tensor([1 / 3]))
        self.register_buffer("seen", torch.tensor(0))
        for name, tensor in extra.items():
            self.register_buffer(name, tensor)


def test_float_buffers_are_means_by_items_and_untouched_ones_keep_their_bits() -> None:
    module = Counting()
    still, buffers, tree = module.still.clone(), Buffers(module), Tree()
    buffers.begin()
    for index, (items, value) in enumerate(((3, 1.0), (1, 5.0))):
        if index:
            buffers.restore()
        assert module.mean.tolist() == pytest.approx([0.1, 0.7])
        assert module.seen.item() == 0
        module.mean.fill_(value)
        module.seen.add_(1)
        tree.push(buffers.leaf(items))
    buffers.finish(tree.result(), 4)
    assert module.mean.tolist() == pytest.approx([2.0, 2.0])
    assert torch.equal(module.still, still)
    assert module.seen.item() == 1


def test_integer_buffers_that_disagree_are_an_error() -> None:
    module = Counting()
    buffers = Buffers(module)
    buffers.begin()
    module.seen.add_(1)
    buffers.leaf(1)
    buffers.restore()
    module.seen.add_(2)
    with pytest.raises(RuntimeError, match="buffer seen ends with different values"):
        buffers.leaf(1)


@pytest.mark.parametrize(
    "buffer", [torch.tensor([1.0, float("inf")]), torch.tensor([float("nan")]), torch.tensor([1j])], ids=repr
)
def test_buffers_without_a_mean_need_a_rule(buffer: Tensor) -> None:
    module = Counting(odd=buffer)
    with pytest.raises(ConfigError, match=r"buffer odd .* give the task a buffer_rule"):
        Buffers(module)
    Buffers(module, {"odd": "constant"}).begin()


def test_constant_buffers_are_left_alone() -> None:
    module = Counting(table=torch.tensor([float("-inf")]))
    buffers = Buffers(module, {"table": "constant", "mean": "constant", "seen": "constant"})
    buffers.begin()
    module.mean.fill_(9.0)
    buffers.restore()
    assert module.mean.tolist() == [9.0, 9.0]
    assert len(buffers.leaf(1)) == 1
