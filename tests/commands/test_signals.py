"""What a signal asks of a run, and what is left of its handlers afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from calotype.commands import _signals
from calotype.commands._signals import Signals
from calotype.engine.plan import Reached
from calotype.errors import DataError, Interrupted


def send(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_the_first_asks_and_its_echo_is_the_same() -> None:
    signals = Signals()
    with signals.caught():
        send(signal.SIGUSR1, signal.SIGTERM)
        assert signals.asked() == "SIGUSR1"


def test_a_second_one_later_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_signals, "ECHO", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped at once by a second signal"), Signals().caught():
        send(signal.SIGTERM, signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_is_one() -> None:
    with pytest.raises(KeyboardInterrupt), Signals().caught():
        send(signal.SIGINT, signal.SIGINT)


@pytest.mark.parametrize(("error", "stay"), [(DataError("x"), True), (Reached("y"), False)])
def test_who_leaves_is_not_stopped_before_it_has_spoken(error: Exception, stay: bool) -> None:
    before = {number: signal.getsignal(number) for number in _signals.STOPPING}
    try:
        with pytest.raises(type(error)), Signals().caught(leaving=True):
            raise error
        assert (signal.getsignal(signal.SIGTERM) is not before[signal.SIGTERM]) is stay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
