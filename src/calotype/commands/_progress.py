"""A line on stderr that says how far a long piece of work is, how fast it goes and how long it will still take."""

from __future__ import annotations

import math
import os
import sys
import time
from datetime import timedelta
from types import TracebackType
from typing import TextIO


class Progress:
    """Counts up to `total` things called `what`. On a terminal one line is redrawn, elsewhere one is written each
    `interval` seconds; leaving the context always writes the last.
    """

    def __init__(self, total: int, what: str, *, interval: float = 10.0, stream: TextIO | None = None) -> None:
        self.total, self.what, self.stream = total, what, stream or sys.stderr
        self.redraws = self.stream.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
        self.interval = 0.2 if self.redraws else interval
        self.done, self.started = 0, time.monotonic()
        self._shown_at = self.started

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show(end="\n")

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        if time.monotonic() - self._shown_at >= self.interval:
            self._show(end="" if self.redraws else "\n")

    def _show(self, end: str) -> None:
        self._shown_at = now = time.monotonic()
        used = max(now - self.started, 1e-9)
        left = ""
        if 0 < self.done < self.total:
            left = f", {_clock(used / self.done * (self.total - self.done))} left"
        rate = self.done / used
        text = f"{self.done}/{self.total} {self.what}  {_figures(rate)}/s  {_clock(used)}{left}"
        self.stream.write(f"\r\x1b[K{text}{end}" if self.redraws else f"{text}{end}")
        self.stream.flush()


def _figures(rate: float) -> str:
    return f"{rate:.3g}" if rate < 100 else str(round(rate))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=math.ceil(seconds)))
