"""Steps are written at log points, exactly; a tracker that fails is left out; the guard's step is named."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from calotype.engine.observe import Mirrors, Observer, PendingStep, ids_digest
from calotype.engine.precision import Guard, Precision
from calotype.errors import NonFiniteError
from calotype.types import Term


class Log:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, line: Mapping[str, Any]) -> None:
        self.lines.append(dict(line))

    def append(self, text: str) -> None:
        self.lines += [json.loads(line) for line in text.splitlines()]

    def flush(self) -> None: ...
    def mark(self) -> dict[str, Any]:
        return {}


class Tracker:
    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            if name == self.failing:
                raise ConnectionError("server down")
            self.calls.append((name, arguments))

        return call


def pending(step: int, loss: float = 1.5, norm: float = 0.25) -> PendingStep:
    ids = [np.array([step, 3], np.int64), np.array([9], np.int64)]
    terms = {"a": Term(torch.tensor(2.0 * step), 2.0), "b": Term(torch.tensor(1.0), 4.0)}
    loss_, norm_ = torch.tensor(loss), torch.tensor(norm)
    return PendingStep(step, 0, ids, [b"x", b"y"], loss_, norm_, (0.1, 0.01), terms, (0.9, 0.5))


def observer(*trackers: Tracker) -> tuple[Observer, Log, Log, list[str]]:
    journal, clock, warnings = Log(), Log(), list[str]()
    mirrors = Mirrors(trackers, warnings.append)  # type: ignore[arg-type]
    return Observer(journal, clock, mirrors), journal, clock, warnings


def guard(*steps: tuple[float, float]) -> Guard:
    found = Guard(Precision(32, torch.device("cpu")))
    for loss, norm in steps:
        found.check(torch.tensor(loss), torch.tensor(norm))
    return found


def test_every_step_is_in_the_journal_with_exact_numbers() -> None:
    tracker = Tracker()
    found, journal, clock, _ = observer(tracker)
    for step in range(3):
        found.step(pending(step, loss=step + 1 / 3), 0.01)
    assert journal.lines == []
    found.flush(guard())
    assert [line["step"] for line in journal.lines] == [0, 1, 2]
    line = journal.lines[2]
    assert float.fromhex(line["loss"]) == float(torch.tensor(2 + 1 / 3)) and line["lr"] == [(0.1).hex(), (0.01).hex()]
    assert set(line) == {"step", "epoch", "ids", "input", "loss", "norm", "lr"}
    assert line["ids"] == ids_digest(pending(2).ids) and len({text["ids"] for text in journal.lines}) == 3
    ((name, (step, scalars)),) = tracker.calls
    assert (name, step) == ("log", 3)
    assert scalars["train/loss"] == pytest.approx(4 / 3) and scalars["lr/1"] == 0.01 and scalars["momentum/1"] == 0.5
    assert scalars["time/memory_gib"] == clock.lines[0]["time/memory_gib"] > 0
    assert scalars["train/a"] == 1.0 and scalars["train/b"] == 0.25
    assert len(clock.lines) == 1 and clock.lines[0]["step"] == 3
    found.flush(guard())
    assert len(clock.lines) == 1


def test_ids_are_told_apart_by_order_and_by_where_shards_end() -> None:
    def of(*shards: list[int]) -> str:
        return ids_digest([np.array(ids, np.int64) for ids in shards])

    assert len({of([1, 2], [3]), of([1], [2, 3]), of([2, 1], [3]), of([1, 2, 3]), of([3], [1, 2])}) == 5


def test_the_bad_step_is_the_last_in_the_journal_and_named_with_its_samples() -> None:
    found, journal, _, _ = observer()
    for step, loss in enumerate([1.0, math.nan, 1.0]):
        found.step(pending(step, loss=loss), 0.0)
    with pytest.raises(
        NonFiniteError, match=r"step 1 \(epoch 0\) has loss nan .*Samples: 1, 3, 9\. Lower the learning"
    ):
        found.flush(guard((1.0, 1.0), (math.nan, 1.0)))
    assert [line["step"] for line in journal.lines] == [0, 1]


def test_of_many_samples_the_first_are_named_and_the_rest_counted() -> None:
    found, _, _, _ = observer()
    found.step(dataclasses.replace(pending(0, loss=math.nan), ids=[np.arange(15), np.arange(15, 40)]), 0.0)
    with pytest.raises(NonFiniteError, match=r"Samples: 0, 1, .* 14, 15 and 24 more\. .*`calotype replay` says where"):
        found.flush(guard((math.nan, 1.0)))


def test_a_norm_that_overflowed_is_named_too() -> None:
    found, _, _, _ = observer()
    found.step(pending(0, norm=math.inf), 0.0)
    with pytest.raises(NonFiniteError, match=r"loss 1\.5 and gradient norm inf"):
        found.flush(guard((1.5, math.inf)))


def test_a_tracker_that_fails_is_told_of_once_and_left_out() -> None:
    good, bad = Tracker(), Tracker("log")
    found, _, _, warnings = observer(bad, good)
    for step in range(2):
        found.step(pending(step), 0.0)
        found.flush(guard())
    assert len(good.calls) == 2 and bad.calls == []
    assert len(warnings) == 1 and "tracker Tracker failed in log" in warnings[0] and "server down" in warnings[0]


def test_events_hold_exact_numbers_at_any_depth() -> None:
    found, journal, _, _ = observer()
    found.event("evaluation", 4, metrics={"a": 0.1, "b": [1, 0.5]}, split="val")
    values = {"event": "evaluation", "step": 4, "metrics": {"a": (0.1).hex(), "b": [1, (0.5).hex()]}, "split": "val"}
    assert journal.lines == [values]


def test_a_tracker_that_failed_is_closed_all_the_same() -> None:
    closed: list[str] = []

    class Fails:
        def log(self, step: int, scalars: Any) -> None:
            raise OSError("full")

        def close(self, status: str) -> None:
            closed.append(status)
            raise OSError("still full")

    mirrors = Mirrors([Fails()], lambda _: None)  # type: ignore[list-item]
    mirrors.call("log", 1, {})
    assert mirrors.trackers == []
    mirrors.call("close", "done")
    assert closed == ["done"]
