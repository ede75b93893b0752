"""Before a fork a process of several waits for its other threads, which may be where a forked one would be stuck."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from calotype.engine import distributed
from calotype.engine.distributed import _rest


def busy(rounds: int, ended: list[float]) -> threading.Thread:
    """A thread that computes without the interpreter's lock."""
    begun = threading.Event()

    def compute() -> None:
        begun.set()
        hashlib.pbkdf2_hmac("sha512", b"word", b"salt", rounds)
        ended.append(time.monotonic())

    thread = threading.Thread(target=compute)
    thread.start()
    begun.wait()
    time.sleep(0.02)
    return thread


@pytest.fixture(autouse=True)
def on_linux() -> None:
    if not Path(distributed.THREADS).is_dir():
        pytest.skip("not installable: the threads of a process are told by Linux")


def test_it_waits_until_no_other_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "AT_REST", 30.0)
    ended: list[float] = []
    thread, began = busy(500_000, ended), time.monotonic()
    _rest()
    rested = time.monotonic()
    thread.join()
    assert rested >= ended[0] - 0.05 > began + 0.05


def test_it_waits_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "AT_REST", 0.05)
    ended: list[float] = []
    thread = busy(1_000_000, ended)
    _rest()
    rested = time.monotonic()
    thread.join()
    assert rested < ended[0]
