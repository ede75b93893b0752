"""What every task owes: subclass `TaskContract`, say how to make one and its shards, and pytest checks the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calotype.types import Loss, Shard, Task


def totals(task: Task, shards: Sequence[Shard]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for shard in shards:
        for name, count in task.counts(shard).items():
            counts[name] = counts.get(name, 0.0) + count
    return counts


def gradients(task: Any, shards: Sequence[Shard]) -> tuple[float, list[Tensor], list[Loss]]:
    """Loss and gradients of a batch in these shards, by the contract: counts of all first, then values just add."""
    task.zero_grad()
    counts = totals(task, shards)
    losses = [task(shard, counts) for shard in shards]
    for loss in losses:
        loss.value.backward()
    return sum(loss.value.item() for loss in losses), [p.grad.clone() for p in task.parameters()], losses


def copied(value: Any) -> Any:
    return [copied(item) for item in value] if isinstance(value, list) else value.clone()


def same(one: Any, other: Any) -> bool:
    """Whether two fields are equal: tensors, or lists of them."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


class TaskContract:
    """Inherit; `make` returns a task whose weights are the same each time, `shard` the samples of these ids.

    `make` leaves dropout out, and `shard` gives ids different counts where the task counts other things than images.
    """

    def make(self) -> Any:
        raise NotImplementedError

    def shard(self, ids: Sequence[int]) -> Shard:
        raise NotImplementedError

    def test_owns_its_network(self) -> None:
        task = self.make()
        assert isinstance(task, nn.Module)
        assert isinstance(task.network, nn.Module)
        assert {id(p) for p in task.network.parameters()} == {id(p) for p in task.parameters()}

    def test_counts_are_sums_read_from_the_targets_alone(self) -> None:
        task, parts = self.make(), [self.shard([0, 1, 2]), self.shard([3]), self.shard([4, 5, 6, 7])]
        blind = replace(parts[0], fields={name: value for name, value in parts[0].fields.items() if name != "image"})
        assert task.counts(blind) == task.counts(parts[0])
        assert totals(task, parts) == pytest.approx(totals(task, [self.shard(range(8))]), rel=1e-12)
        assert all(isinstance(count, float | int) and count >= 0 for count in task.counts(parts[0]).values())

    @pytest.mark.parametrize("cuts", [(4,), (1,), (2, 3), (7,)])
    def test_unequal_shards_add_up_to_the_whole_batch(self, cuts: tuple[int, ...]) -> None:
        task = self.make().eval()
        spans = zip((0, *cuts), (*cuts, 8), strict=True)
        value, whole, _ = gradients(task, [self.shard(range(8))])
        value_cut, cut, _ = gradients(task, [self.shard(range(a, b)) for a, b in spans])
        assert value_cut == pytest.approx(value, rel=1e-5)
        for one, other in zip(whole, cut, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)

    def test_terms_explain_the_value(self) -> None:
        shards = [self.shard([0, 1, 2]), self.shard([3, 4])]
        value, _, losses = gradients(self.make().eval(), shards)
        explained = 0.0
        for name, first in losses[0].terms.items():
            terms = [loss.terms[name] for loss in losses]
            assert not any(term.sum.requires_grad for term in terms)
            explained += first.weight * sum(term.sum.item() for term in terms) / sum(term.count for term in terms)
        assert explained == pytest.approx(value, rel=1e-5)

    def test_every_weight_learns(self) -> None:
        _, found, _ = gradients(self.make(), [self.shard(range(8))])
        assert all(bool(gradient.isfinite().all()) and bool(gradient.any()) for gradient in found)

    def test_prediction_keeps_the_ids_and_changes_nothing(self) -> None:
        task, shard = self.make().eval(), self.shard([5, 2, 7])
        before = {name: value.clone() for name, value in task.state_dict().items()}
        with torch.no_grad():
            prediction = task.predict(shard)
        assert prediction.ids.tolist() == [5, 2, 7]
        assert prediction.fields
        assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())

    def test_metrics_are_fresh_each_time(self) -> None:
        task, shard = self.make().eval(), self.shard(range(6))
        with torch.no_grad():
            prediction = task.predict(shard)
        assert task.metrics()
        for factory in task.metrics().values():
            metric, other = factory(), factory()
            metric.update(prediction, shard)
            assert metric.compute(metric.state())
            assert not any(value.any() for value in other.state().values())

    def test_a_gallery_shows_what_it_saw_without_changing_anything(self) -> None:
        task, shard = self.make().eval(), self.shard(range(6))
        if not hasattr(task, "gallery"):
            return
        with torch.no_grad():
            prediction = task.predict(shard)
        before = {name: copied(value) for name, value in {**shard.fields, **prediction.fields}.items()}
        drawn = torch.get_rng_state()
        gallery = task.gallery()
        assert dict(gallery.pictures()) == {}, "nothing seen, nothing shown"
        gallery.update(prediction, shard)
        for name, picture in gallery.pictures().items():
            assert picture.dtype == np.uint8 and picture.shape[0] == 3 and "/" not in name
        assert all(same(value, before[name]) for name, value in {**shard.fields, **prediction.fields}.items())
        assert torch.equal(torch.get_rng_state(), drawn)

    def test_evaluate_is_forward_and_predict(self) -> None:
        task, shard = self.make().eval(), self.shard(range(5))
        if not hasattr(task, "evaluate"):
            return
        with torch.no_grad():
            loss, prediction = task.evaluate(shard, task.counts(shard))
            assert torch.equal(loss.value, task(shard, task.counts(shard)).value)
            for name, value in task.predict(shard).fields.items():
                assert same(prediction[name], value)
