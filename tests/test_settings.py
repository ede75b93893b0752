"""Durations and times are read once, in one vocabulary, and misspelt ones are refused by key."""

from __future__ import annotations

from typing import Any

import pytest

from calotype.errors import ConfigError
from calotype.settings import Duration, seconds


@pytest.mark.parametrize(
    ("text", "unit", "steps"),
    [
        ("10ep", "st", 1000), ("0.5ep", "st", 50), ("500st", "ep", 500), ("5%", "ep", 20), ("12.5%", "ep", 50),
        (3, "ep", 300), (3, "st", 3), (0, "ep", 0), (Duration(2, "ep"), "st", 200),
    ],
)  # fmt: skip
def test_durations_in_steps(text: Any, unit: Any, steps: int) -> None:
    assert Duration.parse(text, unit).steps(100, 400) == steps


@pytest.mark.parametrize(
    "text", ["10", "ep", "10 ep", "-1ep", "1e3st", "5 %", True, -1, 1.5, None, "10epochs", "1,5ep"]
)
def test_what_is_no_duration_is_refused_by_its_key(text: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.x: .* is no duration; write 10ep, 500st, 5% or an integer \(ep\)"):
        Duration.parse(text, "ep", "trainer.x")


def test_a_share_needs_the_run_s_length() -> None:
    with pytest.raises(ConfigError, match="5% is a share of the run, whose length this key defines"):
        Duration.parse("5%", "ep").steps(100)


@pytest.mark.parametrize(
    ("text", "expected"), [("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86400.0), (5, 5.0), (0.5, 0.5)]
)
def test_times_in_seconds(text: Any, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["90", "s", "1h30m", 0, -5, True, None, float("inf"), float("nan"), "2 h"])
def test_what_is_no_time_is_refused_by_its_key(text: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.timeout: .* is no time; write 90s, 30m, 2h, 1d or a number of seconds"
    ):
        seconds(text, "data.timeout")
