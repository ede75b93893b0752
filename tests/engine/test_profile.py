"""Every moment is charged once, and the trace is of the steps that are promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from calotype.engine import profile
from calotype.engine.profile import Profiler, SimpleProfiler, TraceProfiler, profiler

CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def perf_counter(self) -> float:
        return self.now


def test_time_is_added_up_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(profile, "time", clock)
    found = profiler("simple", tmp_path, CPU)
    for seconds, name in [(1.0, "waiting for data"), (4.0, "forward and backward"), (2.0, "waiting for data")]:
        clock.now += seconds
        found.spent(name)
    lines = str(found.close()).splitlines()
    assert lines[1].split() == ["forward", "and", "backward", "4.00", "57.1%", "1", "4000.00"]
    assert lines[2].split() == ["waiting", "for", "data", "3.00", "42.9%", "2", "1500.00"]
    saved = json.loads((tmp_path / "profile.json").read_text())
    assert saved["total_seconds"] == 7.0 and saved["spent"]["waiting for data"] == {"seconds": 3.0, "calls": 2}


def test_a_cuda_device_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    SimpleProfiler(tmp_path, torch.device("cuda", 0)).spent("optimizer step")
    SimpleProfiler(tmp_path, CPU).spent("optimizer step")
    assert waits == [torch.device("cuda", 0)]


def test_a_run_of_no_time_has_a_table(tmp_path: Path) -> None:
    assert str(SimpleProfiler(tmp_path, CPU).close()).startswith("spent on")


@pytest.mark.parametrize(
    ("steps", "told"),
    [(9, "no trace: the process did 9 steps"), (13, "trace of steps 10..12"), (30, "trace of steps 10..15")],
)
def test_a_trace_is_of_steps_10_to_15(steps: int, told: str, tmp_path: Path) -> None:
    found = profiler("pytorch", tmp_path, CPU)
    for step in range(steps):
        with torch.profiler.record_function(f"mark {step}"):
            torch.ones(3).sum()
        found.step()
    assert str(found.close()).startswith(told)
    if steps < 10:
        assert not (tmp_path / "trace.json").exists()
        return
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    marks = {event["name"] for event in events if str(event.get("name")).startswith("mark ")}
    assert marks == {f"mark {step}" for step in range(10, min(16, steps))}


def test_without_a_name_nothing_is_measured(tmp_path: Path) -> None:
    found = profiler(None, tmp_path, CPU)
    found.spent("optimizer step")
    found.step()
    assert type(found) is Profiler and found.close() is None
    assert not isinstance(found, TraceProfiler) and list(tmp_path.iterdir()) == []
