"""The order of samples is a pure function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calotype.data.order import Batching, EvalOrder, TrainOrder, occurrences
from calotype.errors import DataError
from calotype.keys import generator


def positions(order: TrainOrder | EvalOrder, step: int) -> list[int]:
    return [int(position) for plan in order.batch(step) for position in plan.positions]


def epoch(order: TrainOrder, number: int) -> list[int]:
    steps = range(number * order.steps_per_epoch, (number + 1) * order.steps_per_epoch)
    return [position for step in steps for position in positions(order, step)]


def test_an_epoch_holds_every_sample_once() -> None:
    order = TrainOrder(41, Batching(8, drop_last=False), seed=1)
    assert order.steps_per_epoch == 6
    for number in range(3):
        assert sorted(epoch(order, number)) == list(range(41))


def test_the_order_within_a_batch_is_drawn_too() -> None:
    order = TrainOrder(41, Batching(8), seed=1)
    assert all(positions(order, step) != sorted(positions(order, step)) for step in range(5))


def test_dropping_the_tail_leaves_out_other_samples_each_epoch() -> None:
    order = TrainOrder(41, Batching(8), seed=1)
    left = [set(range(41)) - set(epoch(order, number)) for number in range(4)]
    assert order.steps_per_epoch == 5
    assert all(len(samples) == 1 for samples in left)
    assert len(set.union(*left)) > 1


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order, other = TrainOrder(41, Batching(8), seed=1), TrainOrder(41, Batching(8), seed=2)
    drawn = [tuple(epoch(one, number)) for one in (order, other) for number in range(3)]
    assert len(set(drawn)) == 6


def test_a_step_does_not_depend_on_what_was_asked_before() -> None:
    asked = TrainOrder(41, Batching(8, shards=4), seed=1)
    straight = [positions(asked, step) for step in range(15)]
    for step in (14, 3, 9, 3, 0):
        assert positions(TrainOrder(41, Batching(8, shards=4), seed=1), step) == straight[step]
        assert positions(asked, step) == straight[step]


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_shards_cut_a_batch_without_changing_it(shards: int) -> None:
    whole, cut = (TrainOrder(41, Batching(8, count, drop_last=False), seed=1) for count in (1, shards))
    for step in range(12):
        assert positions(whole, step) == positions(cut, step)
        assert [plan.shard for plan in cut.batch(step)] == list(range(len(cut.batch(step))))


def test_a_batch_is_cut_evenly_the_first_shards_larger() -> None:
    order = TrainOrder(41, Batching(10, 4, drop_last=False), seed=1)
    assert [len(plan.positions) for plan in order.batch(0)] == [3, 3, 2, 2]
    assert [len(plan.positions) for plan in order.batch(4)] == [1]


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("size", range(8, 30))
def test_the_smallest_shard_is_the_smallest_that_comes(size: int, drop_last: bool) -> None:
    order = TrainOrder(size, Batching(8, 4, drop_last=drop_last), seed=1)
    sizes = [len(plan.positions) for step in range(order.steps_per_epoch) for plan in order.batch(step)]
    assert order.smallest_shard() == min(sizes)


def test_without_shuffling_positions_ascend() -> None:
    assert epoch(TrainOrder(16, Batching(8, shuffle=False)), 3) == list(range(16))


def test_a_limit_ends_an_epoch_early_with_an_order_of_its_own() -> None:
    order = TrainOrder(41, Batching(8, limit=2), seed=1)
    assert order.steps_per_epoch == 2
    assert [plan.epoch for plan in order.batch(2)] == [1]
    assert epoch(order, 0) != epoch(order, 1)


def test_fewer_samples_than_a_batch_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.batch_size: .* 3 samples, fewer than one batch of 4"):
        TrainOrder(3, Batching(4))
    assert TrainOrder(3, Batching(4, drop_last=False)).steps_per_epoch == 1


@pytest.mark.parametrize("batch_size", [1, 4, 13, 20])
def test_evaluation_deals_every_sample_once_by_ascending_id(batch_size: int) -> None:
    ids = np.random.default_rng(0).permutation(100)[:13].astype(np.int64)
    order = EvalOrder(ids, batch_size)
    dealt = [ids[position] for step in range(order.steps_per_epoch) for position in positions(order, step)]
    assert dealt == sorted(ids)
    assert all(len(order.batch(step)) == 1 for step in range(order.steps_per_epoch))


def test_a_limited_evaluation_keeps_the_first_batches() -> None:
    order = EvalOrder(np.arange(13), 4, limit=2)
    assert [positions(order, step) for step in range(order.steps_per_epoch)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


LABELS = np.array([7] * 30 + [2] * 8 + [5] * 3, np.int64)


def balanced(seed: int = 1, **batching: object) -> TrainOrder:
    return TrainOrder(41, Batching(8, **batching), seed, LABELS)  # type: ignore[arg-type]


def test_balanced_epochs_are_as_long_and_show_every_class_equally() -> None:
    order = balanced(drop_last=False)
    assert order.steps_per_epoch == 6
    drawn = np.concatenate([order.permutation(number) for number in range(200)])
    assert len(drawn) == 200 * 41
    shares = [float((LABELS[drawn] == label).mean()) for label in (7, 2, 5)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)
    for label in (7, 2, 5):
        counts = np.bincount(drawn, minlength=41)[label == LABELS]
        assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean(), "of a class, each alike"


def test_a_balanced_step_does_not_depend_on_what_was_asked_before() -> None:
    asked = balanced(shards=4)
    straight = [positions(asked, step) for step in range(15)]
    for step in (14, 3, 9, 3, 0):
        assert positions(balanced(shards=2), step) == straight[step]
    assert positions(balanced(seed=2), 0) != straight[0]
    assert straight[0] != straight[5]


def test_draws_of_a_sample_within_an_epoch_are_told_apart() -> None:
    order = balanced(shards=4, drop_last=False)
    for number in range(2):
        plans = [plan for step in range(6 * number, 6 * number + 6) for plan in order.batch(step)]
        seen: dict[int, int] = {}
        for plan in plans:
            assert plan.occurrences is not None
            for position, occurrence in zip(plan.positions.tolist(), plan.occurrences.tolist(), strict=True):
                assert occurrence == seen.get(position, 0)
                seen[position] = occurrence + 1
        assert max(seen.values()) > 1, "an epoch with replacement repeats samples"


def test_uniform_draws_are_the_first_of_their_samples() -> None:
    order = TrainOrder(41, Batching(8), seed=1)
    assert all(plan.occurrences is None for plan in order.batch(0))
    drawn = torch.randperm(41, generator=generator(1, "order", 0))
    assert order.permutation(0).tolist() == drawn.tolist()


def test_occurrences_count_from_0() -> None:
    assert occurrences(np.array([4, 1, 4, 4, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]
    assert occurrences(np.array([], np.int64)).tolist() == []


def test_a_sample_of_a_split_is_fixed_keyed_and_in_order_of_ids() -> None:
    ids = np.random.default_rng(0).permutation(100)[:41].astype(np.int64)

    def of(sample: int, seed: int = 3) -> list[int]:
        order = EvalOrder(ids, 4, sample=sample, seed=seed)
        return [int(ids[position]) for step in range(order.steps_per_epoch) for position in positions(order, step)]

    assert of(10) == of(10) == sorted(of(10))
    assert len(set(of(10))) == 10
    assert set(of(10)) <= set(of(20)), "a larger one holds the smaller"
    assert of(10) != of(10, seed=4)
    assert of(99) == sorted(ids)
