"""Processes as a user's commands start them, and who is left: agents of torchrun, their ranks, loader workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import harness

ROOT = Path(__file__).parents[1]
CALOTYPE = [sys.executable, "-m", "calotype"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@contextmanager
def started(
    command: Sequence[str], env: dict[str, str] | None = None, *, group: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """A command, in a process group of its own if asked; it is killed afterwards, and with it its ranks."""
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=group,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def processes_of(folder: Path) -> list[int]:
    """The live processes whose command names a folder, loader workers among them."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (place / "cmdline").read_bytes() and harness.alive(int(place.name)):
                found.append(int(place.name))
    return [pid for pid in found if pid != os.getpid()]


def ranks_of(folder: Path, rank: int) -> list[int]:
    """The process of that number, without its loader workers, which have its environment."""
    found = []
    for pid in processes_of(folder):
        with suppress(OSError):
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return [pid for pid in found if parent_of(pid) not in found]


def parent_of(pid: int) -> int:
    """The process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def all_gone(folder: Path, seconds: float) -> bool:
    """Whether within so many seconds no process of a folder is left."""
    return harness.until(lambda: not processes_of(folder), seconds)


def under_way(runs: Path, steps: int = 1, seconds: float = 90) -> bool:
    """Whether a run has a checkpoint of so many steps within some time."""

    def there() -> bool:
        with suppress(OSError):
            return any(harness.newest(found.parent) >= steps for found in runs.glob("*/*/record.json"))
        return False

    return harness.until(there, seconds)
