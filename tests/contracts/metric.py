"""What every metric owes: subclass `MetricContract`, say how to make one, and pytest checks the rest."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calotype.types import Metric, Prediction, Shard

CLASSES = 7


def added(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of tensors; of lists what they are one after another."""
    return {name: sum((state[name] for state in states[1:]), states[0][name]) for name in states[0]}


def parts(value: Tensor | list[Tensor]) -> list[Tensor]:
    """The tensors of an entry of a state."""
    return value if isinstance(value, list) else [value]


def moved(value: Any, device: str) -> Any:
    """A prediction's field on a device; an entry of a list may be None."""
    if isinstance(value, list):
        return [None if item is None else item.to(device) for item in value]
    return value.to(device)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Equal to the last bit, NaN equal to NaN."""
    return repr(left) == repr(right)


class MetricContract:
    """Inherit, and return a new metric from `make`. `batch` predicts labelled images; replace it for other tasks, and
    give batches of different seeds different ids where the metric knows images by them.
    """

    def make(self) -> Metric:
        raise NotImplementedError

    def batch(self, count: int, seed: int = 0) -> tuple[Prediction, Shard]:
        draw = torch.Generator().manual_seed(seed)
        ids = np.arange(count)
        logits = torch.randint(-4, 5, (count, CLASSES), generator=draw).float() / 2
        return Prediction(ids, {"logits": logits}), Shard(
            ids, {"label": torch.randint(0, CLASSES, (count,), generator=draw)}
        )

    def pieces(self, whole: tuple[Prediction, Shard], cuts: list[int]) -> list[tuple[Prediction, Shard]]:
        prediction, shard = whole
        spans = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(shard)], strict=True)]
        return [
            (
                Prediction(prediction.ids[s], {name: value[s] for name, value in prediction.fields.items()}),
                Shard(shard.ids[s], {name: value[s] for name, value in shard.fields.items()}),
            )
            for s in spans
        ]

    def measured(self, batches: list[tuple[Prediction, Shard]]) -> dict[str, Any]:
        states = []
        for batch in batches:
            metric = self.make()
            metric.update(*batch)
            states.append(metric.state())
        return self.make().compute(added(states))

    @pytest.mark.parametrize("cuts", [[1], [8, 16, 24], [29], [5, 6, 7]])
    def test_how_a_split_is_cut_into_batches_changes_no_bit(self, cuts: list[int]) -> None:
        whole = self.batch(30)
        assert same(self.measured(self.pieces(whole, cuts)), self.measured([whole]))

    def test_the_order_of_batches_changes_no_bit(self) -> None:
        batches = [self.batch(9, seed) for seed in range(4)]
        assert same(self.measured(batches), self.measured(batches[::-1]))

    def test_updates_of_one_metric_add_up(self) -> None:
        metric, batches = self.make(), [self.batch(9, seed) for seed in range(3)]
        for batch in batches:
            metric.update(*batch)
        assert same(metric.compute(metric.state()), self.measured(batches))

    def test_states_are_exact_sums_of_fixed_shape(self) -> None:
        fresh, metric = self.make(), self.make()
        metric.update(*self.batch(5))
        state: dict[str, Any] = metric.state()  # type: ignore[assignment]
        empty: dict[str, Any] = fresh.state()  # type: ignore[assignment]
        assert {name: type(value) for name, value in empty.items()} == {n: type(value) for n, value in state.items()}
        assert not any(value for value in empty.values() if isinstance(value, list)), "lists begin empty"
        sums = {name: value for name, value in state.items() if not isinstance(value, list)}
        assert all(empty[name].shape == value.shape and not empty[name].any() for name, value in sums.items())
        assert all(not value.is_floating_point() or value.dtype == torch.float64 for value in sums.values())

    def test_compute_leaves_the_state_alone(self) -> None:
        metric = self.make()
        metric.update(*self.batch(5))
        state = {name: [part.clone() for part in parts(value)] for name, value in metric.state().items()}
        first = metric.compute(metric.state())
        assert same(first, metric.compute(metric.state()))
        for name, value in metric.state().items():
            for part, before in zip(parts(value), state[name], strict=True):
                assert torch.equal(part, before)

    def test_nothing_measured_is_no_error(self) -> None:
        metric = self.make()
        for value in metric.compute(metric.state()).values():
            assert not isinstance(value, float) or math.isnan(value) or value == 0.0

    def test_different_predictions_give_another_value(self) -> None:
        assert len({repr(self.measured([self.batch(40, seed)])) for seed in range(6)}) > 1

    def test_update_never_waits_for_the_device(self) -> None:
        """Tensors without values stand in for a GPU: whatever asks for one fails."""
        prediction, shard = self.batch(6)
        fields = {name: moved(value, "meta") for name, value in prediction.fields.items()}
        self.make().update(replace(prediction, fields=fields), shard.to("meta"))
