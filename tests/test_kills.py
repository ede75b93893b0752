"""Runs killed by SIGKILL at random moments, in steps, in validation, in checkpoint writes, end in the straight run's
bits.

What is random is drawn from a fixed seed, so a failure can be repeated. A kill is at the n-th pass of a fault point,
or after a random time. A quarter of the kills hit a run that was killed before.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.toys.configs import DATA, VARIANTS, config, write

POINTS = (
    "after_step",
    "in_backward",
    "in_val",
    "mid_write",
    "before_fsync",
    "before_rename",
    "after_rename",
    "before_pointer",
    "after_pointer",
    "before_delete",
)
KINDS = {"as_it_stands": {}} | VARIANTS


class Bench:
    """A config's straight run, and copies of it to kill."""

    def __init__(self, task: str, kind: str, root: Path, folder: Path) -> None:
        self.task, self.kind, self.root, self.folder = task, kind, root, folder
        path, runs = self.config("straight")
        began = time.monotonic()
        outcome = harness.call(harness.passes, path)
        assert outcome.code == 0, outcome.error
        self.seconds = time.monotonic() - began
        self.passes: dict[str, int] = outcome.value
        self.hash = harness.final_hash(harness.only_run(runs))

    def config(self, name: str) -> tuple[str, Path]:
        folder = self.folder / name
        folder.mkdir()
        runs = folder / "runs"
        return write(config(self.task, self.root, runs, **KINDS[self.kind]), folder / "config.yaml"), runs

    def kill(self, number: int, point: str) -> None:
        """Kill one copy at `point` (a second time elsewhere for every fourth), resume it and compare."""
        draw = random.Random(f"{self.task}/{self.kind}/{number}")
        path, runs = self.config(str(number))
        plan = f"{point}@{draw.randint(1, self.passes[point])}"
        assert harness.in_child(harness.train, path, plan) == harness.KILLED, plan
        found = list(runs.glob("*/*/record.json"))
        if not found:  # killed while the record itself was written: nothing to resume, and nothing lost
            return
        run = str(harness.only_run(runs))
        if number % 4 == 3:
            plan += f", after_step@{draw.randint(1, 3)}"
            code = harness.in_child(harness.resume, run, plan.rpartition(" ")[2])
            assert code in {harness.KILLED, 0}, plan
        self.finish(runs, plan)

    def kill_at_random_time(self, number: int) -> None:
        """Kill one copy whenever, resume it and compare."""
        draw = random.Random(f"{self.task}/{self.kind}/{number}/time")
        path, runs = self.config(f"timed-{number}")
        child = harness.start(harness.train, path)
        delay = draw.uniform(0.3, 1.0) * self.seconds
        child.join(delay)
        child.kill()
        child.join()
        if list(runs.glob("*/*/record.json")):
            self.finish(runs, f"{delay:.3f} s")

    def finish(self, runs: Path, plan: str) -> None:
        outcome = harness.call(harness.resume, str(harness.only_run(runs)))
        assert outcome.code == 0, f"{plan}: {outcome.error}"
        assert harness.final_hash(harness.only_run(runs)) == self.hash, plan


@pytest.fixture
def bench(root_of: dict[str, Path], tmp_path: Path) -> Any:
    return lambda task, kind: Bench(task, kind, root_of[task], tmp_path)


@pytest.mark.guarantee(
    "A run killed at random moments, in steps, validation and checkpoint writes, ends in the same bits",
    condition="CPU; three toys and photos; plain, scaler, bf16, fused with channels_last, plateau with early stopping",
)
@pytest.mark.parametrize(
    ("task", "kind", "points"),
    [
        ("classification", "as_it_stands", POINTS[:5]),
        ("classification", "fused_scaler", ("in_val", "before_rename", "after_rename")),
        ("classification", "bf16", ("after_step", "mid_write")),
        ("segmentation", "as_it_stands", ("before_pointer", "after_pointer", "before_delete")),
        pytest.param("segmentation", "fused", ("after_step", "before_fsync"), marks=pytest.mark.long),
        pytest.param("segmentation", "plateau", ("in_val", "mid_write"), marks=pytest.mark.long),
        ("detection", "as_it_stands", ("after_rename", "in_backward", "before_delete")),
        pytest.param("detection", "scaler", ("after_step", "before_pointer"), marks=pytest.mark.long),
        pytest.param("detection", "plain", ("in_backward", "mid_write"), marks=pytest.mark.long),
        ("photos", "as_it_stands", ("after_step", "before_rename")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_killed_at_random(task: str, kind: str, points: tuple[str, ...], bench: Any) -> None:
    target = bench(task, kind)
    for number, point in enumerate(points):
        target.kill(number, point)
    target.kill_at_random_time(0)


@pytest.mark.guarantee("So does one killed thirty times", condition="the same")
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", DATA)
def test_killed_at_random_thirty_times(task: str, kind: str, bench: Any) -> None:
    target = bench(task, kind)
    for number in range(100, 100 + 3 * len(POINTS)):
        target.kill(number, POINTS[number % len(POINTS)])
    for number in range(100, 106):
        target.kill_at_random_time(number)
