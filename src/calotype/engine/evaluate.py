"""Evaluation: every sample once, in whole batches of sorted ids, sums added in batch order.

So a number depends on the samples and the weights, not on who computed which batch, and it comes with what it counted:
the number of samples and the digest of their ids. Nothing waits for the device before the last batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from calotype.digest import Digest
from calotype.engine.precision import Precision
from calotype.errors import ConfigError, DataError
from calotype.faults import fault
from calotype.types import Counts, Loader, Loss, Metric, Prediction, Shard, Task

Place = Callable[[Shard], Shard]


class Bystander:
    """Sees what an evaluation sees, and here does nothing about it."""

    def stop(self) -> bool:
        """Asked between two batches: whether to end."""
        return False

    def judging(self) -> AbstractContextManager[None]:
        """Around the forward pass of each shard."""
        return nullcontext()

    def seen(self, prediction: Prediction, shard: Shard) -> None:
        """A shard and what was predicted for it, on the device."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured on a split: metrics by name without the split, over `count` samples whose ids have a digest."""

    split: str
    metrics: Mapping[str, Any]
    count: int
    ids: str

    def scalars(self) -> dict[str, float]:
        """The metrics that are single numbers, as `split/name`."""
        return {f"{self.split}/{name}": value for name, value in self.metrics.items() if isinstance(value, int | float)}


class _Sums:
    """The additive states of an evaluation, by metric and name."""

    def __init__(self, factories: Mapping[str, Callable[[], Metric]]) -> None:
        self.factories = factories
        self.states: dict[str, dict[str, Tensor]] = {}
        self.terms: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.weights: dict[str, float] = {}

    def add(self, loss: Loss, prediction: Prediction, shard: Shard) -> None:
        for name, factory in self.factories.items():
            metric = factory()
            metric.update(prediction, shard)
            state, sums = metric.state(), self.states.setdefault(name, {})
            for key, value in state.items():
                sums[key] = sums[key] + value if key in sums else value
        for name, term in loss.terms.items():
            value = term.sum.double()
            self.terms[name] = self.terms[name] + value if name in self.terms else value
            self.counts[name] = self.counts.get(name, 0.0) + term.count
            self.weights[name] = term.weight

    def results(self) -> dict[str, Any]:
        means = {
            name: float(value) / self.counts[name] if self.counts[name] else 0.0 for name, value in self.terms.items()
        }
        results: dict[str, Any] = dict(means) if len(means) > 1 else {}
        if means:
            results["loss"] = sum(mean * self.weights[name] for name, mean in means.items())
        for name, factory in self.factories.items():
            if name in self.states:
                results |= factory().compute(self.states[name])
        return results


def check_monitor(task: Task, monitor: str, *, measured: bool, followed: bool) -> None:
    """Refuse before the first step a monitor that nothing will measure, as far as metrics without a sample tell.

    `measured`: there is a validation; `followed`: a schedule or early stopping needs it. Raises ConfigError.
    """
    if followed and not measured:
        raise ConfigError("there is no val split to measure the monitor on", key="module.monitor")
    names = ["loss"]
    for factory in task.metrics().values():
        metric = factory()
        with suppress(ArithmeticError, KeyError, IndexError, RuntimeError, ValueError):
            names += metric.compute(metric.state())
    split, _, name = monitor.partition("/")
    nearest = get_close_matches(name, names, 1)
    if measured and (split != "val" or (name not in names and nearest)):
        hint = nearest[0] if nearest else "loss"
        raise ConfigError(f"{monitor!r} is not measured; did you mean val/{hint}?", key="module.monitor")


def evaluate(
    task: Task,
    loader: Loader,
    split: str,
    precision: Precision,
    place: Place,
    watch: Bystander | None = None,
) -> Evaluation | None:
    """Measure `task` on the batches of `loader`; None when `watch` asked to stop between two batches.

    `place` brings a shard to the device. Raises DataError when the loader gives an id twice or out of order.
    """
    module: Any = task
    training = module.training
    module.eval()
    try:
        return _measure(module, loader, split, precision, place, watch or Bystander())
    finally:
        module.train(training)


@torch.no_grad()
def _measure(
    task: Any, loader: Loader, split: str, precision: Precision, place: Place, watch: Bystander
) -> Evaluation | None:
    sums, ids, last, count = _Sums(task.metrics()), Digest(), None, 0
    for batch in loader.steps(0, loader.steps_per_epoch):
        fault("in_val")
        if watch.stop():
            return None
        for shard in batch:
            last = _check_order(shard, last, split)
            ids.add(shard.ids)
            count += len(shard)
            placed, counts = place(shard), task.counts(shard)
            with watch.judging():
                loss, prediction = _judge(task, placed, counts, precision)
            sums.add(loss, prediction, placed)
            watch.seen(prediction, placed)
    return Evaluation(split, sums.results(), count, ids.hex())


def _judge(task: Any, shard: Shard, counts: Counts, precision: Precision) -> tuple[Loss, Prediction]:
    with precision.autocast():
        if hasattr(task, "evaluate"):
            loss, prediction = task.evaluate(shard, counts)
            return loss, prediction
        return task(shard, counts), task.predict(shard)


def _check_order(shard: Shard, last: int | None, split: str) -> int:
    ids = shard.ids
    if (last is not None and ids[0] <= last) or (ids[1:] <= ids[:-1]).any():
        raise DataError(f"the {split} split gives sample ids twice or out of order near {ids[0]}")
    return int(ids[-1])
