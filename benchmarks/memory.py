"""Peaks of memory. rusage won't do for them: a process begins with the peak of the one that started it."""

from __future__ import annotations

from pathlib import Path


def peak_mb() -> float:
    """The most memory that this process has had resident since it began or since `begin_peak`, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def begin_peak() -> float:
    """Forget the peak so far; the memory that is resident now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()
