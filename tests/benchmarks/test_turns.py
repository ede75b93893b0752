"""The benchmark's clockwork: loops take turns, are timed for their own turns only, and fail aloud."""

from __future__ import annotations

import threading
import time

import pytest

from benchmarks.bench_loop import summarise, table
from benchmarks.turns import Stream, Turns, Window, run_in_turns


def test_loops_take_turns_and_each_is_timed_for_its_own() -> None:
    order: list[str] = []

    def loop(name: str, pause: float, turns: Turns, player: int) -> list[Window]:
        stream = Stream([0], 3, 2, turns, player)
        for _ in stream:
            order.append(name)
            time.sleep(pause)
        return stream.measured

    measured = run_in_turns(
        {"a": lambda *turn: loop("a", 0.0, *turn), "b": lambda *turn: loop("b", 0.02, *turn)},
    )
    assert order == list("aabb" * 3)
    assert [len(windows) for windows in measured.values()] == [3, 3]
    assert max(window.seconds for window in measured["a"]) < 0.02 <= min(window.seconds for window in measured["b"])


def test_a_loop_that_stops_by_itself_or_fails_holds_up_nobody() -> None:
    def stops(turns: Turns, player: int) -> list[Window]:
        batches = iter(Stream([0], 1, 3, turns, player))
        for _ in range(3):
            next(batches)
        return []

    def fails(turns: Turns, player: int) -> list[Window]:
        next(iter(Stream([0], 5, 2, turns, player)))
        raise ArithmeticError("broken loop")

    def goes_on(turns: Turns, player: int) -> list[Window]:
        stream = Stream([0], 5, 2, turns, player)
        list(stream)
        finished.append(len(stream.measured))
        return stream.measured

    finished: list[int] = []
    with pytest.raises(ArithmeticError, match="broken loop"):
        run_in_turns({"stops": stops, "fails": fails, "goes on": goes_on})
    assert finished == [5]
    assert threading.active_count() == 1


def test_ratios_are_paired_by_turn() -> None:
    bare = [Window(1e-3, 1e-3), Window(4e-3, 1e-3), Window(1e-3, 1e-3)]
    slow = [Window(2e-3, 1e-3), Window(8e-3, 1e-3), Window(2e-3, 3e-3)]
    rows = summarise({"bare": bare, "slow": slow}, {"bare": 0, "slow": 7})
    assert [row["ratio"] for row in rows] == [1.0, 2.0]
    assert rows[1]["us_per_step"] == 2000.0
    assert rows[1]["cpu_ratio"] == 1.0
    assert rows[1]["host_waits_per_100_steps"] == 7
    assert table(rows).splitlines()[2].split()[:3] == ["slow", "2000.0", "2.000"]
