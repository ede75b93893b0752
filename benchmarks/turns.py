"""Timing loops side by side: each runs in a process of its own, one at a time, a window of steps a turn.

A loop can't be stopped and continued from outside, but it can be made to wait for its next batch. So the batches take
turns, and they take the time as they do: a window runs from the moment its first batch is handed out to the moment the
loop asks for the batch after its last. A machine that is busy for a second is busy for all loops alike, and what a loop
does to its process (allocator, threads, garbage collector) is its own affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

Name = TypeVar("Name")


@dataclass(frozen=True)
class Window:
    """What one step of a window took: seconds by the wall, and of the process's own thread."""

    seconds: float
    cpu_seconds: float


class Turns:
    """Hands the turn round among those players who are still there. Processes that are started with it share it."""

    def __init__(self, players: int) -> None:
        context = get_context("spawn")
        self._there = context.Array("b", [True] * players, lock=False)
        self._current = context.Value("i", 0, lock=False)
        self._changed = context.Condition()

    def wait(self, player: int) -> None:
        """Return when it is the player's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._current.value == player)

    def pass_on(self, player: int, *, leaves: bool = False) -> None:
        """Give the turn to the next player if `player` has it."""
        with self._changed:
            if self._current.value == player:
                players = len(self._there)
                after = [(player + step) % players for step in range(1, players)]
                self._current.value = next((other for other in after if self._there[other]), player)
            self._there[player] = not leaves
            self._changed.notify_all()


class Stream:
    """`windows` times `size` batches, in turn with the other streams of `turns`; times are in `measured`.

    A loop that stops by itself after its last step asks for no further batch, so its last window is not measured.
    """

    def __init__(
        self, batches: Sequence[Any], windows: int, size: int, turns: Turns | None = None, player: int = 0
    ) -> None:
        self.batches, self.windows, self.size = list(batches), windows, size
        self.turns, self.player = turns or Turns(1), player
        self.measured: list[Window] = []

    def __len__(self) -> int:
        return self.windows * self.size

    def __iter__(self) -> Iterator[Any]:
        for window in range(self.windows):
            self.turns.wait(self.player)
            begun, begun_cpu = time.perf_counter(), time.thread_time()
            for step in range(window * self.size, (window + 1) * self.size):
                yield self.batches[step % len(self.batches)]
            seconds, cpu_seconds = time.perf_counter() - begun, time.thread_time() - begun_cpu
            self.measured.append(Window(seconds / self.size, cpu_seconds / self.size))
            self.turns.pass_on(self.player)


def run_in_turns(loops: Mapping[Name, Callable[[Turns, int], list[Window]]]) -> dict[Name, list[Window]]:
    """Run the loops, functions that can be sent to a process. Each gets the turns and its number."""
    turns = Turns(len(loops))
    with ProcessPoolExecutor(len(loops), get_context("spawn"), _share, (turns,)) as processes:
        playing = {name: processes.submit(_play, loop, player) for player, (name, loop) in enumerate(loops.items())}
        return {name: future.result() for name, future in playing.items()}


_shared: list[Turns] = []


def _share(turns: Turns) -> None:
    _shared.append(turns)


def _play(loop: Callable[[Turns, int], list[Window]], player: int) -> list[Window]:
    try:
        return loop(_shared[0], player)
    finally:
        _shared[0].pass_on(player, leaves=True)
