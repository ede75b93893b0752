"""Runs of several processes, any one of which is killed by SIGKILL at a random moment, end in the straight run's bits.

What is random is drawn from a seed that is printed, so a failure can be repeated. A kill is at the n-th pass of a fault
point that this process passes, or some time after its first one; a third of the kills hit a run that was killed before.
Each resume is by 1, 2 or 4 processes.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from calotype import faults
from tests import harness
from tests.toys.configs import toy, write

SEED = "together"
SIZES = (1, 2, 4)
BY_TIME = 4
"""Every fourth kill comes after a random time instead of at a point."""


def train_for(config: str, rank: int, seconds: float) -> None:
    """Train as one of several processes, of which one is killed some time after it passed its first fault point: who
    waits for one that never comes to their first meeting waits for minutes, where no launcher ends it.
    """
    killer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True

    def begun(_: str) -> None:
        faults.hook = None
        killer.start()

    if os.environ["RANK"] == str(rank):
        faults.hook = begun
    harness.train(config)


class Bench:
    """A config's straight run by one process, what several of them pass, and copies of it to kill."""

    def __init__(self, size: int, root: Path, folder: Path) -> None:
        self.size, self.root, self.folder, self.readers = size, root, folder, folder / "readers"
        path, runs = self.config("straight")
        self.hash = harness.final_hash(harness.straight(path, runs))
        path, runs = self.config("together")
        began = time.monotonic()
        outcomes = harness.together(size, harness.passes, path)
        self.seconds = time.monotonic() - began
        assert [found.code for found in outcomes] == [0] * size, outcomes
        assert harness.final_hash(harness.only_run(runs)) == self.hash
        self.passes: list[dict[str, int]] = [found.value for found in outcomes]

    def config(self, name: str) -> tuple[str, Path]:
        folder = self.folder / name
        folder.mkdir()
        tree = toy("classification", self.root, folder / "runs", data={"workers": 1})
        tree["data"]["train_transforms"] += [{"_target_": "tests.toys.faulty.Remember", "path": str(self.readers)}]
        return write(tree, folder / "config.yaml"), folder / "runs"

    def kill(self, number: int) -> None:
        """Kill a process of one copy (every third time a process of its resume too), resume it and compare."""
        draw = random.Random(f"{SEED}/{self.size}/{number}")
        path, runs = self.config(str(number))
        rank = draw.randrange(self.size)
        point = draw.choice(sorted(self.passes[rank]))
        plan = f"{rank}/{point}@{draw.randint(1, self.passes[rank][point])}"
        if number % BY_TIME == BY_TIME - 1:
            seconds = draw.uniform(0.0, 0.5) * self.seconds
            print(f"{SEED}/{self.size}/{number}: {rank} after {seconds:.3f} s")
            self.ended(rank, harness.together(self.size, train_for, path, rank, seconds), by_time=True)
        else:
            print(f"{SEED}/{self.size}/{number}: {plan}")
            self.ended(rank, harness.together(self.size, harness.train, path, plan))
        if number % 3 == 2:
            self.go_on(path, runs, 2, f"{draw.randrange(2)}/after_step@{draw.randint(1, 3)}")
        self.go_on(path, runs, draw.choice(SIZES))
        assert harness.final_hash(harness.only_run(runs)) == self.hash

    def ended(self, rank: int, outcomes: list[harness.Outcome], *, by_time: bool = False) -> None:
        """The one was killed, the others ended with 75, or were done before; no loader worker is left."""
        codes = [found.code for found in outcomes]
        assert codes[rank] == harness.KILLED or (by_time and codes[rank] == 0), outcomes
        assert {*codes[:rank], *codes[rank + 1 :]} <= {0, harness.INTERRUPTED}, outcomes
        readers = {int(line.split()[0]) for line in self.readers.read_text().splitlines()}
        assert harness.until(lambda: not any(map(harness.alive, readers)), 10)

    def go_on(self, path: str, runs: Path, size: int, plan: str = "") -> None:
        """Resume with so many processes, or start where the record was not written yet."""
        begun = list(runs.glob("*/*/record.json"))
        how: Any = (harness.resume, str(begun[0].parent)) if begun else (harness.train, path)
        outcomes = harness.together(size, *how, plan)
        print(f"  then {size} {plan}")
        allowed = {0, harness.INTERRUPTED, harness.KILLED} if plan else {0}
        assert {found.code for found in outcomes} <= allowed, outcomes


@pytest.mark.guarantee(
    "A run any of whose processes is killed at random moments ends in the bits of one process",
    condition="CPU; 20 kills of 2 processes, 10 of 4; resumed by 1, 2 or 4; no loader worker is left",
)
@pytest.mark.long
@pytest.mark.parametrize(("size", "kills"), [(2, 20), (4, 10)])
def test_any_process_killed_at_random(size: int, kills: int, parity_root: Path, tmp_path: Path) -> None:
    bench = Bench(size, parity_root, tmp_path)
    for number in range(kills):
        bench.kill(number)
