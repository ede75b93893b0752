"""Fault points do nothing unless a test plans otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from calotype import faults

CODE = "from calotype.faults import fault\nfor n in range(5): fault('here'); print(n, flush=True)"


def passed(plan: str | None) -> tuple[int, int]:
    """Exit code of a process that passes `here` five times, and how often it did."""
    env = {name: value for name, value in os.environ.items() if name != "CALOTYPE_FAULT"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env=env | ({"CALOTYPE_FAULT": plan} if plan else {}),
        capture_output=True,
        check=False,
    )
    return done.returncode, len(done.stdout.split())


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (None, (0, 5)),
        ("elsewhere@1", (0, 5)),
        ("here", (-signal.SIGKILL, 0)),
        ("here@3", (-signal.SIGKILL, 2)),
        ("here@9", (0, 5)),
        ("here@2:disk", (1, 1)),
    ],
)
def test_the_environment_plans_a_fault(plan: str | None, expected: tuple[int, int]) -> None:
    assert passed(plan) == expected


def test_without_a_plan_there_is_no_hook() -> None:
    assert faults.hook is None
