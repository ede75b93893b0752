"""The signals that ask a run to stop, and to leave at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from calotype.engine.plan import Reached
from calotype.errors import CONTINUE, Interrupted

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
ECHO = 2.0
"""Seconds within which a signal is taken for the one before: a scheduler sends it to all processes of a job, and the
one that started the others passes it on."""


def _leave() -> NoReturn:
    raise KeyboardInterrupt


@dataclass(slots=True)
class Signals:
    """The first SIGTERM, SIGUSR1 or Ctrl-C asks a run to stop after its step: it is `name`, and `first` is called. A
    second one, of Ctrl-C at any time, stops it `at_once`.
    """

    name: str | None = None
    first: Callable[[int], None] = lambda _: None
    at_once: Callable[[], NoReturn] = _leave
    _since: float = 0.0

    def asked(self) -> str | None:
        """The signal that asked, if one did."""
        return self.name

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.name is None:
            self.name, self._since = signal.Signals(number).name, now
            self.first(number)
        elif number == signal.SIGINT or now - self._since > ECHO:
            self.at_once()

    @contextmanager
    def caught(self, *, leaving: bool = False) -> Iterator[None]:
        """Listen within the context; only the main thread can. `leaving`: also after an error, of which others are to
        be told in peace. Raises Interrupted where a second signal was no Ctrl-C.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in STOPPING}
        stay = False
        try:
            yield
        except KeyboardInterrupt as error:
            stay = leaving
            if self.name in (None, "SIGINT"):
                raise
            raise Interrupted(f"stopped at once by a second signal; {CONTINUE}") from error
        except BaseException as error:
            stay = leaving and not isinstance(error, Reached)
            raise
        finally:
            for number, handler in previous.items() if not stay else ():
                signal.signal(number, handler)
