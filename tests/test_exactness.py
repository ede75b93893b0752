"""A run is a function of its record: repeated, killed and resumed, read by any number of workers, it gives the same
bits.

A kill "at every step" is a chain: the run is killed after its first step, resumed and killed after the next, and so
on, so that each resume also starts from what earlier resumes left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.toys.configs import TASKS, toy, write

STEPS = 15
"""Of a straight run of three epochs."""


def run(folder: Path, root: Path, task: str = "classification", *plans: str, **sections: Any) -> Path:
    """Train in a new folder, stopped by `plans` and resumed; the run folder."""
    runs = folder / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    config = write(toy(task, root, runs, **sections), folder / "config.yaml")
    return harness.interrupted(config, runs, plans) if plans else harness.straight(config, runs)


@pytest.fixture(scope="session")
def straight(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The straight run of each toy task as it stands, trained when it is first asked for."""
    made: dict[str, Path] = {}

    def of(task: str) -> Path:
        if task not in made:
            made[task] = run(tmp_path_factory.mktemp("straight"), parity_root, task)
        return made[task]

    return of


@pytest.mark.parametrize("task", TASKS)
def test_two_runs_give_the_same_bits_with_any_workers(
    task: str, straight: Any, parity_root: Path, tmp_path: Path
) -> None:
    again = run(tmp_path, parity_root, task, data={"workers": 2})
    assert len(harness.lines(again)) == STEPS
    assert harness.final_hash(again) == harness.final_hash(straight(task))


@pytest.mark.parametrize("task", TASKS)
def test_another_seed_gives_other_bits(task: str, straight: Any, parity_root: Path, tmp_path: Path) -> None:
    tree = toy(task, parity_root, tmp_path / "runs") | {"seed": 4}
    other = harness.straight(write(tree, tmp_path / "config.yaml"), tmp_path / "runs")
    ours, theirs = harness.lines(straight(task)), harness.lines(other)
    for name in ("ids", "input", "loss", "norm"):
        assert all(a[name] != b[name] for a, b in zip(ours, theirs, strict=True)), name
    assert harness.final_hash(other) != harness.final_hash(straight(task))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("action", ["", ":SIGTERM"], ids=["kill", "term"])
def test_stopped_at_every_step(task: str, action: str, straight: Any, parity_root: Path, tmp_path: Path) -> None:
    """By SIGKILL the next child starts at the last checkpoint, at most two steps back; by SIGTERM where it was."""
    first = [f"after_step@1{action}"]
    steps = range(2, STEPS + 1)
    rest = [f"after_step@{1 if action or step % 2 else 2}{action}" for step in steps]
    stopped = run(tmp_path, parity_root, task, *first, *rest)
    assert harness.final_hash(stopped) == harness.final_hash(straight(task))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "plans",
    [
        ("after_step@2", "after_step@1"),
        ("in_backward@6:SIGTERM", "in_backward@5"),
        ("after_step@5",),
        ("after_step@5:SIGTERM",),
        ("in_val@2:SIGTERM", "in_val@3:SIGTERM"),
        ("after_step@15",),
        ("after_step@15:SIGTERM",),
        ("in_val@14",),
        ("in_val@14:SIGTERM",),
        ("in_val@14:SIGTERM", "in_val@2:SIGTERM"),
    ],
    ids="+".join,
)
def test_stopped_at_awkward_moments(plans: Any, workers: int, straight: Any, parity_root: Path, tmp_path: Path) -> None:
    """Twice in an epoch, at its boundary, twice in one validation, after the last step, in the final test."""
    stopped = run(tmp_path, parity_root, "classification", *plans, data={"workers": workers})
    assert harness.final_hash(stopped) == harness.final_hash(straight("classification"))
