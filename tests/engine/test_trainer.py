"""The loop's own rules: the latch, evaluation's count of samples, validation once, keyed draws, and refusals before the
first step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from calotype.engine.averaging import EMA
from calotype.engine.checkpoint import Checkpoints
from calotype.engine.evaluate import evaluate
from calotype.engine.observe import Mirrors, Observer
from calotype.engine.parts import Options, Parts
from calotype.engine.plan import Plan
from calotype.engine.precision import Precision
from calotype.engine.setup import check_batch_norm
from calotype.engine.trainer import Trainer
from calotype.errors import ConfigError, DataError, NonFiniteError
from calotype.record.journal import CLOCK, JOURNAL, JsonLines, read
from calotype.types import Batch, Loss, Shard, Term
from tests import harness
from tests.toys.classification import ToyClassification
from tests.toys.configs import toy, write

CPU = torch.device("cpu")


class Noise:
    """A loader of noise keyed by the step: `shards` of `size` images a batch."""

    exact = True

    def __init__(self, shards: int = 2, size: int = 4, steps: int = 8) -> None:
        self.shards, self.size, self.steps_per_epoch = shards, size, steps

    def steps(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        for step in range(start, stop if stop is not None else 10**9):
            yield [self.shard(step * self.shards + index) for index in range(self.shards)]

    def shard(self, number: int) -> Shard:
        drawn = torch.Generator().manual_seed(number)
        ids = np.arange(number * self.size, (number + 1) * self.size)
        images = torch.randint(0, 256, (self.size, 3, 8, 8), dtype=torch.uint8, generator=drawn)
        return Shard(ids, {"image": images, "label": torch.from_numpy(ids % 3)}, bytes(16))


opened: list[JsonLines] = []


def journal(folder: Path) -> list[dict[str, Any]]:
    """The lines of a trainer's journal."""
    return list(read(folder / JOURNAL))


def plan(total: int = 8, log_every: int = 5, **values: Any) -> Plan:
    chosen = {"validate_every": None, "validate_epochs": None, "checkpoint_every": None, **values}
    return Plan(8, total, None, log_every=log_every, **chosen)


def trainer(
    folder: Path, task: Any = None, *, fused: bool = False, timetable: Plan | None = None, **options: Any
) -> Trainer:
    torch.manual_seed(0)
    task = task or ToyClassification()
    optimizer = torch.optim.AdamW(task.parameters(), lr=0.01, fused=fused)
    chosen = {name: options.pop(name, None) for name in ("val", "train_eval", "ema")}
    parts = Parts(task, optimizer, Noise(), **chosen)
    checkpoints = Checkpoints(folder)
    checkpoints.prepare()
    logs = JsonLines(folder / JOURNAL), JsonLines(folder / CLOCK)
    opened.extend(logs)
    observer = Observer(*logs, Mirrors([], print))
    return Trainer(parts, Options(seed=1, device=CPU, shards=2, **options), timetable or plan(), observer, checkpoints)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the logs of the trainers that a test makes."""
    yield
    while opened:
        opened.pop().close()


def bad_at_step_2() -> ToyClassification:
    torch.manual_seed(0)
    return ToyClassification(nan_at=[2 * 8])


def copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", [32, "16-mixed"])
def test_the_latch_lets_nothing_be_updated_before_the_host_looks(fused: bool, precision: Any, tmp_path: Path) -> None:
    """Step 2 is bad, the host looks after step 4: parameters and moments are those before step 2."""
    task = bad_at_step_2()
    before = trainer(tmp_path / "a", task, fused=fused, precision=precision, timetable=plan(2))
    before.fit()
    parameters = [p.detach().clone() for p in task.parameters()]
    moments = [value.clone() for state in before.parts.optimizer.state.values() for value in state.values()]
    task = bad_at_step_2()
    after = trainer(tmp_path / "b", task, fused=fused, precision=precision)
    with pytest.raises(NonFiniteError, match=r"step 2 \(epoch 0\) .* Samples: 16, 17, .* 23\."):
        after.fit()
    assert after.state.step == 5
    assert all(torch.equal(a, b) for a, b in zip(parameters, task.parameters(), strict=True))
    now = [value for state in after.parts.optimizer.state.values() for value in state.values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, now, strict=True))
    after.observer.journal.flush()
    assert [line["step"] for line in journal(tmp_path / "b") if "event" not in line] == [0, 1, 2]
    assert not Checkpoints(tmp_path / "b").names()


class Boxless(ToyClassification):
    """Counts no box in the batch of step 2, so that its loss is nought."""

    def counts(self, shard: Shard) -> dict[str, float]:
        return {"boxes": 0.0 if int(shard.ids[0]) // 8 == 2 else float(len(shard))}

    def forward(self, shard: Shard, counts: Any) -> Loss:
        total = self.network(shard["image"] / 255).square().sum()
        return Loss(total / counts["boxes"] if counts["boxes"] else total * 0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("precision", [32, "16-mixed", "bf16-mixed"])
def test_a_batch_without_boxes_does_no_optimizer_step(fused: bool, precision: Any, tmp_path: Path) -> None:
    """Fact 23: neither decay nor momentum moves a weight by it, also under a scaler, and the next one steps."""
    torch.manual_seed(0)
    task = Boxless()
    found = trainer(tmp_path, task, fused=fused, precision=precision, timetable=plan(4, log_every=1))
    seen, step = list[dict[str, torch.Tensor]](), found.step

    def remember(batch: Batch) -> Any:
        pending = step(batch)
        seen.append({name: p.detach().clone() for name, p in task.named_parameters()})
        return pending

    found.step = remember  # type: ignore[method-assign]
    found.fit()
    moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in itertools.pairwise(seen)]
    assert moved == [True, False, True]
    losses = [float.fromhex(line["loss"]) for line in journal(tmp_path) if "event" not in line]
    assert losses[2] == 0.0 and all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_leaves_no_trace(fused: bool, tmp_path: Path) -> None:
    """Parameters, statistics, moments and average after the bad step are those before it."""
    task = bad_at_step_2()
    skipping = trainer(tmp_path, task, fused=fused, skip_nonfinite=True, ema=EMA(task.network, 0.5))
    seen: dict[int, Any] = {}

    def remember() -> None:
        state = skipping.parts.optimizer.state_dict()["state"]
        moments = {f"{index}.{name}": value.clone() for index, found in state.items() for name, value in found.items()}
        average = {f"ema.{name}": tensor.clone() for name, tensor in skipping.parts.ema.state_dict().items()}  # type: ignore[union-attr]
        seen[skipping.state.step] = copied(task) | moments | average

    skipping.stop_signal = remember
    skipping.fit()
    assert seen[2].keys() == seen[3].keys()
    assert [name for name in seen[2] if not torch.equal(seen[2][name], seen[3][name])] == []
    assert all(not torch.equal(seen[3][name], seen[4][name]) for name in seen[3] if name.endswith("weight"))
    assert all(bool(tensor.isfinite().all()) for tensor in seen[8].values())
    losses = [line["loss"] for line in journal(tmp_path) if "event" not in line]
    assert [loss == "nan" for loss in losses] == [False, False, True] + [False] * 5


class Repeats(Noise):
    """An evaluation loader that gives the shards of `numbers`."""

    def __init__(self, *numbers: int) -> None:
        super().__init__(shards=1, steps=len(numbers))
        self.numbers = numbers

    def steps(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        for number in self.numbers[start:stop]:
            yield [self.shard(number)]


@pytest.mark.parametrize("numbers", [(0, 0), (1, 0), (0, 2, 1), (0, 1, 1)], ids=str)
def test_evaluation_refuses_samples_twice_or_out_of_order(numbers: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the val split gives sample ids twice or out of order near"):
        evaluate(ToyClassification(), Repeats(*numbers), "val", Precision(32, CPU), lambda shard: shard)


def test_evaluation_counts_what_it_saw_and_leaves_the_task_as_it_was() -> None:
    task = ToyClassification()
    before = copied(task)
    measured = evaluate(task, Repeats(0, 1, 5), "val", Precision(32, CPU), lambda shard: shard)
    other = evaluate(task, Repeats(0, 1, 6), "val", Precision(32, CPU), lambda shard: shard)
    assert measured is not None and other is not None
    assert measured.count == other.count == 12
    assert measured.ids != other.ids
    assert task.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())


@pytest.mark.parametrize(
    ("every", "steps"), [(None, [8]), (2, [2, 4, 6, 8]), (3, [3, 6, 8]), (8, [8]), (100, [8])], ids=str
)
def test_validation_comes_as_planned_and_once_at_the_end(every: int | None, steps: list[int], tmp_path: Path) -> None:
    timetable = plan(validate_every=every)
    found = trainer(tmp_path, timetable=timetable, val=Repeats(100, 101))
    found.fit()
    assert [line["step"] for line in journal(tmp_path) if line.get("event") == "evaluation"] == steps


def test_nothing_to_measure_before_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.val_before_training: there is no val split to measure"):
        trainer(tmp_path, timetable=plan(validate_first=True)).fit()


def test_a_part_of_train_is_measured_where_there_is_no_val_split(tmp_path: Path) -> None:
    found = trainer(tmp_path, timetable=plan(validate_every=3, validate_first=True), train_eval=Repeats(100))
    found.fit()
    seen = [(line["split"], line["step"]) for line in journal(tmp_path) if line.get("event") == "evaluation"]
    assert seen == [("train_eval", 0), ("train_eval", 3), ("train_eval", 6), ("train_eval", 8)]
    assert found.state.scores == {}


def test_a_schedule_that_needs_another_monitor_says_which_there_are(tmp_path: Path) -> None:
    found = trainer(tmp_path, val=Repeats(100), monitor="val/mAP")
    with pytest.raises(
        ConfigError, match=r"module\.monitor: 'val/mAP' is not measured; there is val/loss, val/accuracy"
    ):
        found.fit()


class Draws(ToyClassification):
    """Remembers of each shard its first id, the first number it could draw, and the statistics it started from."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[int] = []
        self.drawn: list[float] = []
        self.statistics: list[list[float]] = []

    def forward(self, shard: Shard, counts: Any) -> Any:
        if self.training:
            self.first.append(int(shard.ids[0]))
            self.drawn.append(float(torch.rand(())))
            self.statistics.append(self.network[0][1].running_mean.tolist())
        return super().forward(shard, counts)


def test_each_shard_of_each_step_draws_under_a_key_of_its_own(tmp_path: Path) -> None:
    first, second = Draws(), Draws()
    torch.manual_seed(7)
    trainer(tmp_path / "a", first).fit()
    torch.manual_seed(99)
    trainer(tmp_path / "b", second).fit()
    assert len(set(first.drawn)) == 16
    assert first.drawn == second.drawn


def test_shards_run_in_their_order_each_from_the_steps_statistics(tmp_path: Path) -> None:
    task = Draws()
    trainer(tmp_path, task).fit()
    assert task.first == list(range(0, 64, 4))
    for step in range(8):
        assert task.statistics[2 * step] == task.statistics[2 * step + 1]
        assert step == 0 or task.statistics[2 * step] != task.statistics[2 * step - 1]


def test_validation_measures_the_average(tmp_path: Path) -> None:
    """An average that never moves gives the same number at every validation, the weights another each time."""
    task = ToyClassification()
    found = trainer(tmp_path, task, timetable=plan(validate_every=2), val=Repeats(100), ema=EMA(task.network, 1.0))
    raw = trainer(tmp_path / "raw", timetable=plan(validate_every=2), val=Repeats(100))
    found.fit()
    raw.fit()
    assert len(set(found.state.scores.values())) == 1
    assert len(set(raw.state.scores.values())) == 4


def test_counts_are_the_whole_batchs(tmp_path: Path) -> None:
    seen: list[float] = []

    class Counted(ToyClassification):
        def forward(self, shard: Shard, counts: Any) -> Any:
            seen.append(counts["images"])
            return super().forward(shard, counts)

    trainer(tmp_path, Counted()).fit()
    assert seen == [8.0] * 16


def test_batch_norm_over_one_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.batch_size: the network has batch norm and a shard .* one sample"):
        check_batch_norm(ToyClassification(), 1)
    check_batch_norm(ToyClassification(), 2)
    check_batch_norm(nn.Linear(2, 2), 1)


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        ({"batch_size": 4}, 2, "data.batch_size: the network has batch norm and a shard"),
        ({"drop_last": False}, 2, "data.batch_size: the network has batch norm and a shard"),
        ({"batch_size": 42}, 3, "41 samples, fewer than one batch of 42"),
    ],
    ids=str,
)
def test_a_shard_of_one_sample_and_a_split_of_less_than_a_batch_end_a_run_before_its_first_step(
    data: Any, code: int, message: str, parity_root: Path, tmp_path: Path
) -> None:
    """A tail batch of one leaves one sample a shard; and what drops its tail would drop everything."""
    config = write(toy("classification", parity_root, tmp_path / "runs", data=data), tmp_path / "config.yaml")
    outcome = harness.call(harness.train, config)
    assert outcome.code == code and message in outcome.error
    assert not list(tmp_path.glob("runs/*/*"))


class OneTensor(ToyClassification):
    """Gives one tensor as the loss's value and as its term."""

    def forward(self, shard: Shard, counts: Any) -> Loss:
        value = super().forward(shard, counts).value
        return Loss(value, {"loss": Term(value.detach(), 1.0)})


def test_a_value_that_is_also_a_term_is_added_once(tmp_path: Path) -> None:
    losses = []
    for kind in (ToyClassification, OneTensor):
        folder = tmp_path / kind.__name__
        folder.mkdir()
        torch.manual_seed(0)
        trainer(folder, kind()).fit()
        losses.append([line["loss"] for line in journal(folder) if "loss" in line])
    assert losses[0] == losses[1]
