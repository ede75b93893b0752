"""Signals to a whole process group, as a terminal and a queue send them, with loader workers forked and spawned; and
processes of one run that leave without a word, or whose loader workers do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calotype import faults
from tests import harness
from tests.toys.configs import toy, write
from tests.toys.parity import draw

NOTED = "noted"
"""The file in which every process that reads a sample writes its number."""


def written(folder: Path, root: Path, **sections: Any) -> tuple[str, Path]:
    """A config whose readers note themselves, and its folder of runs."""
    folder.mkdir(exist_ok=True)
    tree = toy("classification", root, folder / "runs", **sections)
    tree["data"]["train_transforms"] += [{"_target_": "tests.toys.faulty.Remember", "path": str(folder / NOTED)}]
    return write(tree, folder / "config.yaml"), folder / "runs"


def readers_gone(folder: Path) -> bool:
    """Whether within 5 s none of those that read is left."""
    readers = {int(line.split()[0]) for line in (folder / NOTED).read_text().splitlines()}
    return harness.until(lambda: not any(map(harness.alive, readers)), 5)


def at(plan: str, action: Callable[[], None]) -> Callable[[str], None]:
    """A hook that acts at `point@n`."""
    name, _, count = plan.partition("@")
    left = int(count)

    def passing(point: str) -> None:
        nonlocal left
        left -= point == name
        if point == name and left == 0:
            action()

    return passing


def train_in_group(config: str, plan: str, name: str, times: int, method: str) -> None:
    """Train, and send the whole process group a signal so many times at one point. For `call`."""
    multiprocessing.set_start_method(method, force=True)

    def send() -> None:
        for _ in range(times):
            os.killpg(0, signal.Signals[name])

    faults.hook = at(plan, send)
    harness.train(config)


@pytest.mark.guarantee(
    "SIGTERM to the process group stops a run with a checkpoint, and the resume has the same bits",
    condition="two loader workers, forked or spawned; in a step, in validation, in a checkpoint's writing",
)
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "plan",
    [
        "in_backward@14",
        pytest.param("in_val@2", marks=pytest.mark.long),
        pytest.param("mid_write@9", marks=pytest.mark.long),
    ],
)
def test_sigterm_to_the_group(plan: str, method: str, parity_root: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"trainer": {"max_epochs": 2}, "data": {"workers": 2}}
    config, runs = written(tmp_path / "stopped", parity_root, **sections)
    stopped = harness.call(train_in_group, config, plan, "SIGTERM", 1, method)
    assert stopped.code == harness.INTERRUPTED, stopped
    assert readers_gone(tmp_path / "stopped")
    run = harness.only_run(runs)
    status = harness.status(run)
    assert (status["exit_code"], status["step"]) == (harness.INTERRUPTED, harness.newest(run))
    assert time.time() - (run / "status.json").stat().st_mtime < 10
    assert harness.call(harness.resume, str(run)).code == 0
    straight = harness.straight(*written(tmp_path / "straight", parity_root, **sections))
    assert harness.final_hash(run) == harness.final_hash(straight)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_reaches_the_group(times: int, parity_root: Path, tmp_path: Path) -> None:
    """Once it is graceful, twice immediate; no loader worker is left after either."""
    config, runs = written(tmp_path, parity_root, data={"workers": 2})
    assert harness.call(train_in_group, config, "after_step@7", "SIGINT", times, "fork").code == 130
    assert readers_gone(tmp_path)
    run = harness.only_run(runs)
    assert harness.status(run)["exit_code"] == 130
    assert harness.last(run).name == ("step-00000007-part" if times == 1 else "step-00000006")


# --- several processes


def train_leaving(config: str, rank: int, plan: str, how: str) -> None:
    """Train as one of several processes, of which one ends by itself at a point, or fails there. For `together`."""

    def leave() -> None:
        if how == "raise":
            raise RuntimeError("something in the save")
        os._exit(0)

    if os.environ["RANK"] == str(rank):
        faults.hook = at(plan, leave)
    harness.train(config)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_process_that_leaves_without_a_word_is_named(rank: int, parity_root: Path, tmp_path: Path) -> None:
    timeout = 5
    config, runs = written(tmp_path, parity_root, trainer={"timeout": timeout})
    began = time.monotonic()
    outcomes = harness.together(2, train_leaving, config, rank, "in_backward@6", "exit")
    assert time.monotonic() - began < timeout + 15
    assert outcomes[rank].code == 0 and outcomes[1 - rank].code == harness.INTERRUPTED
    assert outcomes[1 - rank].error.startswith(f"PeerLost: process {rank}"), outcomes
    assert harness.in_child(harness.resume, str(harness.only_run(runs))) == 0


@pytest.mark.long
def test_what_only_the_first_one_s_save_fails_with_all_end_with(parity_root: Path, tmp_path: Path) -> None:
    timeout = 5
    config, runs = written(tmp_path, parity_root, trainer={"timeout": timeout})
    began = time.monotonic()
    outcomes = harness.together(2, train_leaving, config, 0, "mid_write@12", "raise")
    assert time.monotonic() - began < timeout + 15
    assert [found.code for found in outcomes] == [1, 1], outcomes
    assert outcomes[0].error == "RuntimeError: something in the save"
    assert outcomes[1].error.startswith("CalotypeError: process 0") and "something in the save" in outcomes[1].error
    assert harness.status(harness.only_run(runs))["state"] == "failed"


@pytest.mark.guarantee(
    "When a loader worker of one of several processes dies or hangs all end, and a resume has the same bits",
    condition="within data.timeout and 5 s of it; CPU, two processes",
)
@pytest.mark.long
@pytest.mark.parametrize("how", ["kill", "hang"])
def test_a_loader_worker_of_one_of_several(how: str, tmp_path: Path) -> None:
    root = draw(tmp_path / "data")
    faulty = {"_target_": "tests.toys.faulty.Faulty", "workers": 1, "timeout": 5}
    straight = harness.straight(*written(tmp_path / "straight", root, data=faulty))
    config, runs = written(tmp_path / "broken", root, data={**faulty, how: 20})
    outcomes = harness.together(2, harness.train, config)
    assert [found.code for found in outcomes] == [harness.INTERRUPTED] * 2, outcomes
    assert all("a loader worker died or hung at step" in found.error for found in outcomes), outcomes
    assert time.time() - (root / "fired").stat().st_mtime < 5 + 5 + 5, "data.timeout, 5 s, and what telling takes"
    assert readers_gone(tmp_path / "broken")
    run = harness.only_run(runs)
    assert [found.code for found in harness.together(2, harness.resume, str(run))] == [0, 0]
    assert harness.lines(run) == harness.lines(straight)


@pytest.mark.long
def test_from_two_to_one_to_two_processes_each_step_has_its_samples(parity_root: Path, tmp_path: Path) -> None:
    straight = harness.straight(*written(tmp_path / "straight", parity_root))
    config, runs = written(tmp_path / "moved", parity_root)
    harness.together(2, harness.train, config, "1/after_step@4")
    run = str(harness.only_run(runs))
    assert harness.in_child(harness.resume, run, "after_step@4") == harness.KILLED
    assert [found.code for found in harness.together(2, harness.resume, run)] == [0, 0]
    assert len(harness.resumed_at(Path(run))) == 2
    ids = [line["ids"] for line in harness.lines(Path(run))]
    assert ids == [line["ids"] for line in harness.lines(straight)] and len(set(ids)) == len(ids) == 15
    assert harness.final_hash(Path(run)) == harness.final_hash(straight)
