"""Every duration becomes steps once, and what is due when follows from the step alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from calotype.engine.plan import Plan
from calotype.errors import ConfigError
from calotype.settings import CheckpointSettings, TrainerSettings


def plan(steps_per_epoch: int = 10, every: Any = "1ep", **trainer: Any) -> Plan:
    return Plan.of(TrainerSettings(**trainer), CheckpointSettings(every=every), steps_per_epoch)


@pytest.mark.parametrize(
    ("trainer", "total"),
    [
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "max_steps": 25}, 25),
        ({"max_epochs": 3, "max_steps": 99}, 30),
        ({"max_epochs": None, "max_steps": 7}, 7),
        ({"max_epochs": None, "max_time": "2h"}, None),
        ({"max_epochs": 0}, 0),
    ],
)
def test_the_run_ends_at_the_nearest_limit(trainer: dict[str, Any], total: int | None) -> None:
    found = plan(**trainer)
    assert found.total == total
    assert found.ends(10**9) is (total is not None)
    if total:
        assert found.ends(total) and not found.ends(total - 1)


def test_a_run_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="trainer: the run has no end; set max_epochs, max_steps or max_time"):
        plan(max_epochs=None)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90.0), ("30m", 1800.0), ("2h", 7200.0), (5, 5.0), (None, None)])
def test_max_time_in_seconds(text: Any, expected: float | None) -> None:
    assert plan(max_time=text).max_seconds == expected


def due(found: Plan) -> list[int]:
    return [step for step in range(31) if found.validates(step)]


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        ("1ep", [10, 20, 30]),
        (1, [10, 20, 30]),
        (2, [20]),
        ("7st", [7, 14, 21, 28]),
        ("50%", [15, 30]),
        ("0.5ep", [5, 10, 15, 20, 25, 30]),
        (None, []),
    ],
)
def test_validation_every_so_often(interval: Any, steps: list[int]) -> None:
    assert due(plan(max_epochs=3, val_check_interval=interval)) == steps


def test_validation_at_a_list_of_epochs() -> None:
    assert due(plan(max_epochs=3, val_epochs=[0, 2])) == [10, 30]
    assert due(plan(max_epochs=3, val_epochs=[])) == []


def test_validation_before_the_first_step_is_asked_for() -> None:
    assert due(plan(max_epochs=3)) == [10, 20, 30]
    assert due(plan(max_epochs=3, val_before_training=True)) == [0, 10, 20, 30]
    assert due(plan(max_epochs=3, val_before_training=True, val_epochs=[1])) == [0, 20]


@pytest.mark.parametrize(("every", "steps"), [("1ep", [10, 20, 30]), ("12st", [12, 24]), (None, [])])
def test_checkpoints_every_so_often(every: Any, steps: list[int]) -> None:
    found = plan(max_epochs=3, every=every)
    assert [step for step in range(31) if found.checkpoints(step)] == steps


@pytest.mark.parametrize(("key", "value"), [("trainer.val_check_interval", "0st"), ("checkpoint.every", "1%")])
def test_a_duration_of_no_step_is_refused_by_its_key(key: str, value: str) -> None:
    options = {"every": value} if key.startswith("checkpoint") else {"val_check_interval": value}
    with pytest.raises(ConfigError, match=f"{key}: {value} is less than one step"):
        plan(max_epochs=3, **options)


def test_the_host_looks_at_the_losses_at_intervals_at_epochs_and_at_the_end() -> None:
    found = plan(max_epochs=None, max_steps=27, log_every_n_steps=8)
    assert [step for step in range(28) if found.logs(step)] == [8, 10, 16, 20, 24, 27]


def test_epochs_of_steps() -> None:
    found = plan(max_epochs=3)
    assert [found.epoch(step) for step in (0, 9, 10, 29)] == [0, 0, 1, 2]
    assert [step for step in range(31) if found.ends_epoch(step)] == [10, 20, 30]


@pytest.mark.parametrize("seed", range(30))
def test_what_is_due_next_is_the_first_step_at_which_anything_is(seed: int) -> None:
    draw = random.Random(seed)
    some: dict[str, Any] = draw.choice(
        [{"val_check_interval": f"{draw.randint(1, 20)}st"}, {"val_check_interval": "1ep"}, {"val_epochs": [0, 2]}]
    )
    limit: dict[str, Any] = draw.choice([{"max_epochs": 3}, {"max_steps": draw.randint(1, 60)}, {"max_time": "2h"}])
    every = draw.choice([None, "2ep", f"{draw.randint(1, 20)}st"])
    log = draw.randint(1, 50)
    found = plan(draw.randint(1, 15), every, log_every_n_steps=log, **{"max_epochs": None, **limit, **some})

    def due(step: int) -> bool:
        asked = (found.logs, found.validates, found.checkpoints, found.ends, found.ends_epoch)
        return any(question(step) for question in asked)

    end = 60 if found.total is None else found.total
    step, visited = 0, []
    while step < end:
        step = found.next_due(step)
        visited.append(step)
    assert [step for step in visited if step <= end] == [step for step in range(1, end + 1) if due(step)]
