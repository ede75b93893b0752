"""The process that mirrors a run while it trains: `python -m calotype.tracking.follow`, started by `Mirrored.start`.

Its stdin is a pipe from the training process. The first line says what to do; the end of the pipe says that the run is
over, however it ended, and then this process has a bounded time for the rest. It is in a session of its own, so a
Ctrl-C meant for the run doesn't take away the last word about it, and it is nice to the run.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from calotype.files import replace_file
from calotype.tracking.mirror import STATUS, Mirror, alone, quiet_vendors, tried
from calotype.tracking.mirrored import Mirrored, trouble_file
from calotype.tracking.system import Sampler

POLL, SLOWEST = 2.0, 30.0
"""Seconds between two looks at the files, and at most between two tries where the server doesn't answer."""


def follow(mirror: Mirror, pipe: int, pid: int, bound: float) -> int:
    """Mirror a run until its end of the pipe closes, and `bound` seconds longer at most; the exit code."""
    sampler = Sampler(mirror.folder / mirror.system, pid) if mirror.tracker.system_metrics else None
    pause, slow = 0.0, POLL
    while not select.select([pipe], [], [], pause)[0]:
        if sampler:
            sampler.sample()
        more = False
        with tried(mirror) as failed, expecting(mirror):
            more = mirror.pass_on()
        slow = min(slow * 2, SLOWEST) if failed else POLL
        pause = 0.0 if more else slow
    _leave_after(max(bound, 1.0))
    with tried(mirror) as failed:
        with expecting(mirror):
            while mirror.pass_on():
                pass
        mirror.finish(_state_of(mirror.folder))
    return int(bool(failed))


def _leave_after(seconds: float) -> None:
    """End this process then, whatever it does: what is sent is noted as it goes, and the rest comes by a sync."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


@contextmanager
def expecting(mirror: Mirror) -> Iterator[None]:
    """Note as trouble what the server is asked for longer than the tracker expects: the end of a run won't wait."""
    seconds, file = mirror.tracker.answers_within(mirror.folder), trouble_file(mirror.folder, mirror.tracker.name)
    late = [False]

    def note(*_: object) -> None:
        late[0] = True
        with suppress(OSError):
            replace_file(file, f"no answer within {seconds:g} s\n")

    def answered() -> None:
        if late[0]:
            file.unlink(missing_ok=True)
        late[0] = False
        signal.setitimer(signal.ITIMER_REAL, seconds)

    signal.signal(signal.SIGALRM, note)
    mirror.answered = answered
    if mirror.remote:
        answered()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _state_of(folder: Path) -> str:
    """How a run that has ended did: what its status says; `killed` where it still says that it runs."""
    try:
        state = str(json.loads((folder / STATUS).read_text()).get("state"))
    except (OSError, ValueError, AttributeError):
        state = "failed"
    return "killed" if state == "running" else state


def main() -> int:
    """Read from stdin what to mirror, and do so until stdin ends."""
    with suppress(OSError):
        os.nice(5)
    quiet_vendors()
    word = json.loads(_first_line(0))
    module, name = word["kind"]
    tracker: Mirrored = getattr(importlib.import_module(module), name)(**word["settings"])
    folder = Path(word["folder"])
    with alone(folder, tracker.name, wait=True):
        return follow(Mirror(tracker, folder, live=True), 0, word["pid"], tracker.wait)


def _first_line(handle: int) -> bytes:
    """The bytes up to the first end of line, none beyond it: what comes after stays for `select` to see."""
    line = bytearray()
    while (byte := os.read(handle, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main())
