"""The line of progress: how far, how fast, how long still; redrawn on a terminal, rare elsewhere."""

from __future__ import annotations

import io

import pytest

from calotype.commands import _progress
from calotype.commands._progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    return now


def test_lines_are_as_rare_as_asked_and_the_last_is_always_there(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(1000, "images", stream=stream) as progress:
        for _ in range(5):
            clock[0] += 4
            progress.advance(150)
    assert stream.getvalue().splitlines() == [
        "450/1000 images  37.5/s  0:00:12, 0:00:15 left",
        "750/1000 images  37.5/s  0:00:20, 0:00:07 left",
    ]


def test_a_terminal_has_one_line_that_is_redrawn(clock: list[float]) -> None:
    stream = Terminal()
    with Progress(2, "files", stream=stream) as progress:
        for _ in range(2):
            clock[0] += 0.001
            progress.advance()
            clock[0] += 0.5
            progress.advance(0)
    text = stream.getvalue()
    assert text.count("\n") == 1 and text.count("\r\x1b[K") == 3
    assert text.rpartition("\x1b[K")[2] == "2/2 files  2/s  0:00:02\n"


def test_what_is_cut_short_still_says_how_far_it_came(clock: list[float]) -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(9, "files", stream=stream) as progress:
        clock[0] += 1
        progress.advance(3)
        raise KeyboardInterrupt
    assert stream.getvalue() == "3/9 files  3/s  0:00:01, 0:00:02 left\n"
