"""The benchmark's clockwork: loops take turns, are timed for their own turns only, and fail aloud."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from benchmarks.bench_loop import summarise, table
from benchmarks.turns import Stream, Turns, Window, run_in_turns


def paced(log: Path, name: str, pause: float, turns: Turns, player: int) -> list[Window]:
    stream = Stream([0], 3, 2, turns, player)
    for _ in stream:
        with log.open("a") as file:
            file.write(name)
        time.sleep(pause)
    return stream.measured


def test_loops_take_turns_and_each_is_timed_for_its_own(tmp_path: Path) -> None:
    log = tmp_path / "order"
    measured = run_in_turns({"a": partial(paced, log, "a", 0.0), "b": partial(paced, log, "b", 0.02)})
    assert log.read_text() == "aabb" * 3
    assert [len(windows) for windows in measured.values()] == [3, 3]
    assert max(window.seconds for window in measured["a"]) < 0.02 <= min(window.seconds for window in measured["b"])


def stops(turns: Turns, player: int) -> list[Window]:
    batches = iter(Stream([0], 1, 3, turns, player))
    for _ in range(3):
        next(batches)
    return []


def fails(turns: Turns, player: int) -> list[Window]:
    next(iter(Stream([0], 5, 2, turns, player)))
    raise ArithmeticError("broken loop")


def test_a_loop_that_stops_by_itself_or_fails_holds_up_nobody(tmp_path: Path) -> None:
    log = tmp_path / "order"
    with pytest.raises(ArithmeticError, match="broken loop"):
        run_in_turns({"stops": stops, "fails": fails, "goes on": partial(paced, log, "x", 0.0)})
    assert log.read_text() == "x" * 6


def test_ratios_are_paired_by_turn() -> None:
    bare = [Window(1e-3, 1e-3), Window(4e-3, 1e-3), Window(1e-3, 1e-3)]
    slow = [Window(2e-3, 1e-3), Window(8e-3, 1e-3), Window(2e-3, 3e-3)]
    rows = summarise({"bare": bare, "slow": slow}, {"bare": 0, "slow": 7})
    assert [row["ratio"] for row in rows] == [1.0, 2.0]
    assert rows[1]["us_per_step"] == 2000.0
    assert rows[1]["cpu_ratio"] == 1.0
    assert rows[1]["host_waits_per_100_steps"] == 7
    assert table(rows).splitlines()[2].split()[:3] == ["slow", "2000.0", "2.000"]
