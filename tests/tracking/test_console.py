"""Plain lines where nobody watches, a bar on a terminal, and never more of either than is useful."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from calotype.tracking import console
from calotype.tracking.console import Console
from tests.contracts.tracker import FakeRun, live


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return FakeRun(tmp_path)


def test_header_comes_first_and_the_end_is_told(run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Console()
    tracker.start(run)
    tracker.close("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"digits  {run.folder}"
    assert lines[1:3] == ["  device     cpu", "  precision  32"]
    assert lines[3] == f"digits failed, 0:00:00  {run.folder}"


@pytest.mark.parametrize(("status", "after"), [("failed", ""), ("interrupted", " after 1 step")])
def test_a_run_that_did_not_come_to_its_end_is_told_once(
    run: FakeRun, capsys: pytest.CaptureFixture[str], status: str, after: str
) -> None:
    tracker = Console()
    tracker.start(run)
    tracker.log(1, {"train/loss": 0.5})
    tracker.close(status)
    tracker.close(status)
    text = capsys.readouterr().err
    assert text.count(status) == 1
    assert text.endswith(f"digits {status}{after}, 0:00:00  {run.folder}\n")


def test_the_end_of_a_run_that_is_done_is_left_to_its_summary(run: FakeRun) -> None:
    stream = io.StringIO()
    tracker = Console(stream=stream)
    tracker.start(run)
    tracker.log(40, {"val/accuracy": 0.9})
    before = stream.getvalue()
    tracker.log(40, {"test/accuracy": 0.8})
    tracker.close("done")
    assert "val/accuracy 0.9" in before
    assert stream.getvalue() == before


def test_lines_are_rate_limited_but_epochs_and_results_always_come(run: FakeRun, clock: Clock) -> None:
    stream = io.StringIO()
    tracker = Console(interval=10.0, stream=stream)
    tracker.start(run)
    stream.truncate(0)
    stream.seek(0)
    for step in range(1, 21):
        clock.now += 1.0
        tracker.log(step, {"train/loss": 0.5})
    tracker.log(20, {"val/accuracy": 0.987654})
    lines = stream.getvalue().splitlines()
    assert [re.findall(r"step (\d+)/40", line)[0] for line in lines] == ["1", "10", "20", "20"]
    assert lines[0] == "epoch 1/4  step 1/40  0:00:01  train/loss 0.5"
    assert lines[3].startswith("epoch 2/4  step 20/40  ")
    assert lines[3].endswith("val/accuracy 0.9877")


def test_time_left_counts_from_the_first_point_of_this_process(run: FakeRun, clock: Clock) -> None:
    stream = io.StringIO()
    tracker = Console(interval=0.0, stream=stream)
    tracker.start(run)
    clock.now += 60.0
    tracker.log(20, {"train/loss": 0.5})
    clock.now += 10.0
    tracker.log(30, {"train/loss": 0.5})
    clock.now += 10.0
    tracker.log(40, {"train/loss": 0.5})
    times = re.findall(r"step \d+/40  (.*)  train", stream.getvalue())
    assert times == ["0:01:00", "0:01:10, 0:00:10 left", "0:01:20"]


def test_a_long_evaluation_tells_how_far_it_is(run: FakeRun, clock: Clock) -> None:
    stream = io.StringIO()
    tracker = Console(interval=10.0, stream=stream)
    tracker.start(run)
    tracker.log(20, {"train/loss": 0.5})
    stream.truncate(0)
    stream.seek(0)
    for done in (*range(1, 31), *range(1, 13)):
        clock.now += 1.0
        tracker.progress("val", done, 30)
    assert stream.getvalue().splitlines() == [
        "val 10/30  0:00:09, 0:00:20 left",
        "val 20/30  0:00:19, 0:00:10 left",
        "val 1/30  0:00:00",
        "val 11/30  0:00:10, 0:00:19 left",
    ]


def test_the_bar_tells_how_far_an_evaluation_is(run: FakeRun, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    tracker = Console(stream=stream)
    tracker.start(run)
    tracker.log(20, {"train/loss": 0.5})
    tracker.progress("val", 8, 30)
    tracker.progress("val", 9, 30)
    clock.now += 1.0
    tracker.progress("val", 10, 30)
    drawn = stream.getvalue()
    assert "val 8/30" in drawn and "val 9/30" not in drawn and "val 10/30  0:00:01, 0:00:10 left" in drawn
    tracker.log(21, {"train/loss": 0.25})
    tracker.close("done")
    assert stream.getvalue().rindex("val 10/30") < stream.getvalue().rindex("train/loss 0.25")


def test_a_terminal_gets_a_bar_with_the_latest_scalars(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    live(Console(stream=stream), run)
    drawn = stream.getvalue()
    assert "40/40" in drawn
    assert "\x1b[2K" in drawn, "the bar is redrawn in place"
    assert "epoch 2/4  step 20  val/loss 0.5  val/accuracy 0.9  val/recall[cat/dog] 1" in drawn
    assert "train/loss 0.025" in drawn


def test_no_color_is_honoured(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*m")
    monkeypatch.setenv("TERM", "xterm-256color")
    drawn = {}
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        stream = Terminal()
        live(Console(stream=stream), run)
        drawn[value] = {code for code in colour.findall(stream.getvalue()) if re.search(r"\b[349]\d", code)}
    assert drawn[""]
    assert not drawn["1"]


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.setenv("TERM", term)
    stream = Terminal()
    live(Console(stream=stream), run)
    assert "\x1b" not in stream.getvalue()
    assert "step 40/40" in stream.getvalue()


def test_a_log_file_stays_plain_even_under_force_color(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    live(Console(stream=stream), run)
    assert "\x1b" not in stream.getvalue()


def test_metrics_of_many_single_classes_are_left_to_others(run: FakeRun) -> None:
    stream = io.StringIO()
    tracker = Console(stream=stream)
    tracker.start(run)
    tracker.log(10, {"val/f1": 0.5} | {f"val/f1[{number}]": 1.0 for number in range(8)})
    tracker.log(20, {"val/f1": 0.5} | {f"val/f1[{number}]": 1.0 for number in range(9)})
    few, many = stream.getvalue().splitlines()[-2:]
    assert "val/f1[7] 1" in few
    assert many.endswith("val/f1 0.5")
