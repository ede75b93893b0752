"""What the system must allow before loader workers are started: open files, and memory that processes share.

Each tensor on its way from a worker is a piece of shared memory, which the training process holds by an open file. Too
few of them, or a /dev/shm of 64 MiB as containers have it, would end the run in its middle with an error that names
neither.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Sequence
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

from torch import multiprocessing

from calotype.errors import ConfigError

SHARED = Path("/dev/shm")  # noqa: S108 - looked at, never written to
SOCKET = 107 - len("/listener-12345678")
"""Letters that the folder of a worker's sockets may have: a socket's path has room for 107."""
SPARE = 64
"""Open files left for everything else that is opened while a run goes on."""


def prepare(train: Any, held_out: Sequence[Any]) -> list[str]:
    """Raise the limit of open files to what the loaders need; where the system forbids it, share memory by name. What
    is to be said about it.

    While one of `held_out` is read, the workers of `train` read ahead. A loader without `in_flight` is left alone.
    Raises ConfigError for more shared memory than there is, and a temporary folder that workers can't talk through.
    """
    needs = [_need(train), max(map(_need, held_out), default=(0, 0))]
    files, size = (sum(need[kind] for need in needs) for kind in (0, 1))
    if not size:
        return []
    if len(get_temp_dir()) > SOCKET:
        raise ConfigError(
            f"loader workers talk through sockets in {tempfile.gettempdir()}, whose path is too long for it; set "
            "TMPDIR to a shorter one, or set this to 0",
            key="data.workers",
        )
    free = shutil.disk_usage(SHARED).free if SHARED.is_dir() else size
    if free < size:
        raise ConfigError(
            f"what workers have ready takes up to {_mib(size)} of shared memory, and {SHARED} has {_mib(free)} left; "
            f"lower this, data.prefetch or a batch size, or enlarge {SHARED} (docker run --shm-size)",
            key="data.workers",
        )
    return _allow_files(files)


def _need(loader: Any) -> tuple[int, int]:
    found: tuple[int, int] = loader.in_flight() if hasattr(loader, "in_flight") else (0, 0)
    return found


def _allow_files(files: int) -> list[str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files + SPARE + len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else files
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return []
    if hard == resource.RLIM_INFINITY or needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return []
    multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
    return [
        f"what workers have ready needs {needed} open files, and the system allows {hard} (ulimit -Hn): memory is "
        "shared by name instead, and a run that is killed may leave some of it in /dev/shm; fewer data.workers or a "
        "lower data.prefetch need fewer"
    ]


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
