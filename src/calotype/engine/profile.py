"""Where the time of a run goes: `simple` adds it up by what was done, `pytorch` traces steps 10..15 of the process.

The loop says what the time since it last said something was spent on, so every moment counts once and under one name.
Neither kind changes a bit of the run. Unusual: on a CUDA device `simple` waits for the device each time, or the time
of the kernels would be charged to whoever waits next; a run under it is slower than without.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from calotype.files import replace_json

FIRST, LAST = 10, 15
"""The steps of a process, from 0, that are traced; the first ones warm up."""


class Profiler:
    """Measures nothing, and need not be told of the steps."""

    measures = False

    def spent(self, name: str) -> None:
        """The time since the last call was spent on `name`."""

    def step(self) -> None:
        """A step is done."""

    def close(self) -> str | None:
        """Write what was measured to the run's folder; what to tell people, if anything."""


class SimpleProfiler(Profiler):
    """Seconds and calls by name, in `profile.json` of the run's folder."""

    measures = True

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.path, self.device = folder / "profile.json", device
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._last = time.perf_counter()

    def spent(self, name: str) -> None:
        """The time since the last call was spent on `name`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self.calls[name] = self.calls.get(name, 0) + 1
        self._last = now

    def close(self) -> str | None:
        """Write the file; the table, most time first."""
        total = sum(self.seconds.values()) or 1.0
        names = sorted(self.seconds, key=lambda name: -self.seconds[name])
        rows = {name: {"seconds": self.seconds[name], "calls": self.calls[name]} for name in names}
        replace_json(self.path, {"total_seconds": sum(self.seconds.values()), "spent": rows})
        lines = [f"{'spent on':24}{'seconds':>10}{'share':>8}{'calls':>9}{'ms a call':>11}"]
        for name in names:
            seconds, calls = self.seconds[name], self.calls[name]
            lines.append(f"{name:24}{seconds:10.2f}{seconds / total:8.1%}{calls:9}{1e3 * seconds / calls:11.2f}")
        return "\n".join(lines)


class TraceProfiler(Profiler):
    """torch.profiler's trace of some steps, in `trace.json` of the run's folder; chrome://tracing and Perfetto read it.

    A process that does fewer steps than `LAST` traces what there is, one of fewer than `FIRST` nothing.
    """

    measures = True

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.path, self.done = folder / "trace.json", 0
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells the machine's state on stderr, as errors
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._trace: Any = torch.profiler.profile(activities=activities, acc_events=True)
        self._on = False

    def step(self) -> None:
        """Start before step `FIRST`, stop after step `LAST`."""
        self.done += 1
        if self.done == FIRST:
            self._trace.start()
            self._on = True
        elif self.done == LAST + 1:
            self._stop()

    def close(self) -> str | None:
        """Write the file; where it is."""
        if self._on:
            self._stop()
        if self.done <= FIRST:
            return f"no trace: the process did {self.done} steps, and the first {FIRST} warm up"
        return f"trace of steps {FIRST}..{min(LAST, self.done - 1)} of this process: {self.path.name}"

    def _stop(self) -> None:
        self._on = False
        self._trace.stop()
        self._trace.export_chrome_trace(str(self.path))


KINDS: dict[str | None, type[Any]] = {"simple": SimpleProfiler, "pytorch": TraceProfiler}


def profiler(kind: str | None, folder: Path, device: torch.device) -> Profiler:
    """The profiler that `trainer.profiler` names."""
    return KINDS[kind](folder, device) if kind else Profiler()
