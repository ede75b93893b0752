"""Named points at which a test makes a run fail. In ordinary use `fault` does nothing.

A test sets `hook`, or the environment names one point: `CALOTYPE_FAULT=before_rename@3` kills the process the third
time that it passes `before_rename`; `CALOTYPE_FAULT=before_rename@3:disk` raises the error of a full disk there
instead.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

hook: Callable[[str], None] | None = None


def fault(point: str) -> None:
    """Pass a fault point."""
    if hook is not None:
        hook(point)


def planned(plan: str) -> Callable[[str], None]:
    """The hook that a plan `point@n[:kill|disk]` describes; n counts from 1."""
    where, _, action = plan.partition(":")
    name, _, count = where.partition("@")
    left = int(count or 1)

    def passing(point: str) -> None:
        nonlocal left
        if point != name:
            return
        left -= 1
        if left == 0 and action == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return passing


if "CALOTYPE_FAULT" in os.environ:
    hook = planned(os.environ["CALOTYPE_FAULT"])
