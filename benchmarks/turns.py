"""Timing loops side by side: each runs in a thread of its own, one at a time, a window of steps a turn.

A loop can't be stopped and continued from outside, but it can be made to wait for its next batch. So the batches take
turns, and they take the time as they do: a window runs from the moment its first batch is handed out to the moment the
loop asks for the batch after its last. A machine that is busy for a second is busy for all loops alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Window:
    """What one step of a window took: seconds by the wall, and of the thread's own."""

    seconds: float
    cpu_seconds: float


class Turns:
    """Hands the turn round among those players who are still there."""

    def __init__(self, players: int) -> None:
        self._players, self._current = list(range(players)), 0
        self._changed = threading.Condition()

    def wait(self, player: int) -> None:
        """Return when it is the player's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._current == player)

    def pass_on(self, player: int, *, leaves: bool = False) -> None:
        """Give the turn to the next player if `player` has it."""
        with self._changed:
            later = [other for other in self._players if other > player] or self._players
            if self._current == player:
                self._current = later[0]
            if leaves:
                self._players.remove(player)
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


def run_in_turns(loops: Mapping[str, Callable[[Turns, int], list[Window]]]) -> dict[str, list[Window]]:
    """Run the loops in threads. Each gets the turns and its number and returns its windows."""
    turns, measured, errors = Turns(len(loops)), dict[str, list[Window]](), list[BaseException]()

    def play(name: str, player: int) -> None:
        try:
            measured[name] = loops[name](turns, player)
        except BaseException as error:  # noqa: BLE001 - it is raised again below, in the main thread
            errors.append(error)
        finally:
            turns.pass_on(player, leaves=True)

    threads = [threading.Thread(target=play, args=(name, player)) for player, name in enumerate(loops)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {name: measured[name] for name in loops}
