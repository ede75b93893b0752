"""Evaluation: every sample once, in whole batches of sorted ids, sums added in batch order.

So a number depends on the samples and the weights, not on who computed which batch, and it comes with what it counted:
the number of samples and the digest of their ids. Nothing waits for the device before the last batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import zip_longest
from typing import Any, cast

import torch
from torch import Tensor

from calotype.digest import Digest
from calotype.engine.checkpoint import from_bytes, to_bytes
from calotype.engine.distributed import World
from calotype.engine.precision import Precision
from calotype.engine.reduce import merge
from calotype.engine.survey import pack, unpack
from calotype.errors import ConfigError, DataError
from calotype.faults import fault
from calotype.types import Counts, Loader, Loss, Metric, Prediction, Shard, Task

Place = Callable[[Shard], Shard]


class Bystander:
    """Sees what an evaluation sees, and here does nothing about it; `world` shares the batches."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()

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
    """What was measured on a split: metrics by name without the split, over `count` samples whose ids have a digest.
    `others` are the shards that other processes read, without their fields.
    """

    split: str
    metrics: Mapping[str, Any]
    count: int
    ids: str
    others: Sequence[Shard] = ()

    def scalars(self) -> dict[str, float]:
        """The metrics that are single numbers, as `split/name`."""
        return {f"{self.split}/{name}": value for name, value in self.metrics.items() if isinstance(value, int | float)}


_Name = tuple[str, str]
"""A metric and an entry of its state; of the loss, "" and a term, and "#" and what the term is divided by."""

_Value = Tensor | list[Tensor]
"""A sum; or what is put one after another, as lists are by `+`."""


class _Sums:
    """The additive states of an evaluation.

    Integers add up to the same in any order. What is rounded is added in the order of the batches, and lists are put
    one after another; of several processes each keeps its own batches apart until all are `joined`.
    """

    def __init__(self, factories: Mapping[str, Callable[[], Metric]], *, joint: bool) -> None:
        self.factories, self.joint = factories, joint
        self.total: dict[_Name, _Value] = {}
        self.apart: list[dict[_Name, _Value]] = []
        self.weights: dict[str, float] = {}

    def add(self, loss: Loss, prediction: Prediction, shard: Shard) -> None:
        found: dict[_Name, _Value] = {}
        for name, factory in self.factories.items():
            metric = factory()
            metric.update(prediction, shard)
            found |= {(name, key): value for key, value in metric.state().items()}
        for name, term in loss.terms.items():
            found["", name], found["#", name] = term.sum.double(), torch.tensor(term.count, dtype=torch.float64)
            self.weights[name] = term.weight
        rounded = {name: value for name, value in found.items() if self.joint and _in_order(value)}
        merge(self.total, {name: value for name, value in found.items() if name not in rounded})
        if self.joint:
            self.apart.append(rounded)

    def results(self) -> dict[str, Any]:
        means = {}
        for (metric, name), value in self.total.items():
            if metric == "":
                count = float(cast(Tensor, self.total["#", name]))
                means[name] = float(cast(Tensor, value)) / count if count else 0.0
        results: dict[str, Any] = dict(means) if len(means) > 1 else {}
        if means:
            results["loss"] = sum(mean * self.weights[name] for name, mean in means.items())
        for name, factory in self.factories.items():
            state = {key: value for (metric, key), value in self.total.items() if metric == name}
            if state:
                measured = factory().compute(state)
                if both := sorted(results.keys() & measured.keys()):
                    raise ConfigError(
                        f"a loss or another metric is called {both[0]} as well; call it otherwise", key="module"
                    )
                results |= measured
        return results

    def word(self) -> bytes:
        """What this process found, for the others."""
        names, tensors = list[tuple[int, str, str, bool]](), dict[str, Tensor]()
        for batch, found in enumerate([self.total, *self.apart]):
            for (metric, key), value in found.items():
                for part in value if isinstance(value, list) else [value]:
                    tensors[str(len(names))] = part
                    names.append((batch, metric, key, isinstance(value, list)))
        head = json.dumps({"names": names, "weights": self.weights}).encode()
        return head + b"\n" + to_bytes(tensors)

    def joined(self, words: Sequence[bytes], device: torch.device) -> _Sums:
        """The sums of all processes from what each said; batch j is process j mod W's."""
        whole, dealt = _Sums(self.factories, joint=False), []
        for word in words:
            head, _, rest = word.partition(b"\n")
            about, tensors, batches = json.loads(head), from_bytes(rest), dict[int, dict[_Name, _Value]]()
            for place, (batch, metric, key, listed) in enumerate(about["names"]):
                value = tensors[str(place)].to(device)
                merge(batches.setdefault(batch, {}), {(metric, key): [value] if listed else value})
            whole.weights |= about["weights"]
            merge(whole.total, batches.pop(0, {}))
            dealt.append([batches.get(batch, {}) for batch in range(1, 1 + max(batches, default=0))])
        for row in zip_longest(*dealt, fillvalue={}):
            for found in row:
                merge(whole.total, found)
        return whole


def _in_order(value: _Value) -> bool:
    """Whether the order of batches matters to a sum."""
    return isinstance(value, list) or value.is_floating_point()


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

    `place` brings a shard to the device. Of several processes `loader` deals each its batches, and all come to the same
    numbers. Raises DataError when the loader gives an id twice or out of order, or fewer samples than it said.
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
    world = watch.world
    sums, seen = _Sums(task.metrics(), joint=world.size > 1), list[Shard]()
    for batch in loader.steps(0, loader.steps_per_epoch):
        fault("in_val")
        if any(world.gather(b"stop" if watch.stop() else b"")):
            return None
        for shard in batch:
            placed, counts = place(shard), task.counts(shard)
            with watch.judging():
                loss, prediction = _judge(task, placed, counts, precision)
            sums.add(loss, prediction, placed)
            watch.seen(prediction, placed)
            seen.append(replace(shard, fields={}))
    others: list[Shard] = []
    if world.size > 1:
        sums = sums.joined(world.gather(sums.word()), precision.device)
        dealt = [unpack(word)[1] for word in world.gather(pack({}, seen))]
        others = [shard for rank, theirs in enumerate(dealt) if rank != world.rank for shard in theirs]
        seen = [shard for row in zip_longest(*dealt) for shard in row if shard is not None]
    ids, last = Digest(), None
    for shard in seen:
        last = _check_order(shard, last, split)
        ids.add(shard.ids)
    count, wanted = sum(map(len, seen)), getattr(loader, "samples", None)
    if wanted not in (None, count):
        raise DataError(f"the {split} split gave {count} of its {wanted} samples")
    return Evaluation(split, sums.results(), count, ids.hex(), others)


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
