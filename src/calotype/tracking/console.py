"""Progress for whoever is watching: a bar on a terminal, plain lines anywhere else, always on stderr.

Unusual choices: the bar moves at log points and between the batches of an evaluation only. A thread that redraws it
would be alive when the data loader forks its workers. And the time left is reckoned from the first log point of this
process, so a resumed run doesn't count the steps that an earlier one did.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TextIO

_ROUTINE = ("train/", "time/", "lr/")
_HIDDEN = ("test/", "momentum/")
_CLASSES = 8
_REDRAW = 0.2
"""Least seconds between two pictures of the bar within an evaluation."""


@dataclass
class _Pace:
    """Where a run stands. `total` is its length in steps, 0 where it is not known."""

    total: int
    steps_per_epoch: int
    first: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        self.started = time.monotonic()

    def epoch(self, step: int) -> str:
        """The epoch that step number `step` (from 1) belongs to, and how many there are."""
        if not self.steps_per_epoch:
            return ""
        number = max(1, math.ceil(step / self.steps_per_epoch))
        return f"epoch {number}/{math.ceil(self.total / self.steps_per_epoch)}" if self.total else f"epoch {number}"

    def times(self, step: int) -> str:
        """Time used, and the time left where it can be told."""
        now = time.monotonic()
        first_step, first_time = self.first = self.first or (step, now)
        used = _clock(now - self.started)
        if step <= first_step or step >= self.total:
            return used
        return f"{used}, {_clock((now - first_time) / (step - first_step) * (self.total - step))} left"


class _View(Protocol):
    def write(self, text: str) -> None: ...
    def show(self, step: int, scalars: Mapping[str, float]) -> None: ...
    def between(self, text: str) -> None: ...
    def close(self) -> None: ...


class _Lines:
    """A line at the first log point, then at most one each `interval` seconds, and one for every epoch and result."""

    def __init__(self, stream: TextIO, pace: _Pace, interval: float) -> None:
        self._stream, self._pace, self._interval = stream, pace, interval
        self._printed_at = -math.inf
        self._epochs_done: int | None = None

    def write(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        now = time.monotonic()
        epochs_done = step // self._pace.steps_per_epoch if self._pace.steps_per_epoch else 0
        ended = self._epochs_done is not None and epochs_done > self._epochs_done
        self._epochs_done = epochs_done
        times = self._pace.times(step)
        if ended or _results(scalars) or now - self._printed_at >= self._interval:
            self._printed_at = now
            position = f"step {step}/{self._pace.total}" if self._pace.total else f"step {step}"
            self.write("  ".join(filter(None, [self._pace.epoch(step), position, times, _format(scalars)])))

    def between(self, text: str) -> None:
        """Write `text` if nothing was written for an interval."""
        if time.monotonic() - self._printed_at >= self._interval:
            self._printed_at = time.monotonic()
            self.write(text)

    def close(self) -> None:
        pass


class _Bar:
    """A bar that shows the latest scalars; results of validation stay above it."""

    def __init__(self, stream: TextIO, pace: _Pace) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._pace = pace
        self._latest, self._between_at = "", -math.inf
        columns = [BarColumn(bar_width=24), MofNCompleteColumn()]
        texts = [TextColumn("{task.fields[" + name + "]}", markup=False) for name in ("times", "scalars")]
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            *columns,
            *texts,
            console=RichConsole(file=stream),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task(pace.epoch(1), total=pace.total or None, times="", scalars="")
        self._progress.start()

    def write(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        epoch, times = self._pace.epoch(step), self._pace.times(step)
        results = _results(scalars)
        if results:
            self.write("  ".join(filter(None, [epoch, f"step {step}", _format(results)])))
        self._latest = _format({n: v for n, v in scalars.items() if n.startswith(("train/", "time/"))}) or self._latest
        # rich would shrink every column alike: the bar and its numbers come first, scalars get what is left of the line
        left = self._progress.console.width - len(epoch) - len(times) - 24 - 2 * len(str(self._pace.total)) - 6
        shown = self._latest if len(self._latest) <= left else self._latest[: max(0, left)].rpartition("  ")[0]
        self._progress.update(self._task, completed=step, description=epoch, times=times, scalars=shown, refresh=True)

    def between(self, text: str) -> None:
        """Show `text` where the scalars are, until they change."""
        if time.monotonic() - self._between_at >= _REDRAW:
            self._between_at = time.monotonic()
            self._progress.update(self._task, scalars=text, refresh=True)

    def close(self) -> None:
        self._progress.stop()


class Console:
    """Tracker that writes to stderr.

    `interval` is the least time in seconds between two plain lines of training; ends of epochs and results are always
    written. The test split's results and the end of a run that is done are left to the summary of `train`, momentum and
    metrics of many single classes to other trackers. A bar is drawn where `stream` is a terminal that can move its
    cursor; NO_COLOR is honoured.
    """

    wants_progress = True

    def __init__(self, interval: float = 10.0, stream: TextIO | None = None) -> None:
        self.interval = interval
        self._stream = stream
        self._view: _View | None = None
        self._evaluation: _Pace | None = None
        self._last = self._judged = 0

    def start(self, run: Any) -> None:
        """Write the run's name, folder and header. Of `run` it reads those, `total_steps` and `steps_per_epoch`."""
        stream = self._stream or sys.stderr
        self._run = run
        self._pace = _Pace(run.total_steps or 0, run.steps_per_epoch or 0)
        self._view = _Bar(stream, self._pace) if _draws(stream) else _Lines(stream, self._pace, self.interval)
        self._view.write(f"{run.name}  {run.folder}")
        width = max(map(len, run.header), default=0)
        for name, value in run.header.items():
            self._view.write(f"  {name:<{width}}  {value}")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Show the scalars measured when `step` steps were done."""
        self._last = step
        shown = {name: value for name, value in scalars.items() if not name.startswith(_HIDDEN)}
        if sum(name.endswith("]") for name in shown) > _CLASSES:
            shown = {name: value for name, value in shown.items() if not name.endswith("]")}
        if self._view is not None and (shown or not scalars):
            self._view.show(step, shown)

    def progress(self, split: str, done: int, total: int) -> None:
        """Show how far an evaluation is, if it takes long."""
        if self._evaluation is None or self._evaluation.total != total or done <= self._judged:
            self._evaluation = _Pace(total, 0)
        self._judged = done
        if self._view is not None and done < total:
            self._view.between(f"{split} {done}/{total}  {self._evaluation.times(done)}")

    def image(self, step: int, name: str, image: Any) -> None:
        """Nothing: a console shows no images."""

    def artifact(self, path: Path) -> None:
        """Nothing: files lie in the run folder, which `start` has named."""

    def close(self, status: str) -> None:
        """End the bar and say how a run ended that didn't come to its end. Closing twice is closing once."""
        view, self._view = self._view, None
        if view is not None:
            view.close()
        if view is not None and status != "done":
            used = _clock(time.monotonic() - self._pace.started)
            # a failure comes between two log points, and the error that follows says at which step
            after = f" after {_steps(self._last)}" if status == "interrupted" else ""
            view.write(f"{self._run.name} {status}{after}, {used}  {self._run.folder}")


def _draws(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}


def _results(scalars: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in scalars.items() if not name.startswith(_ROUTINE)}


def _format(scalars: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())


def _steps(number: int) -> str:
    return f"{number} step{'s' * (number != 1)}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
