"""Writing files so that a kill or a power cut at any instant leaves the old content or the new, never half of one.

A file is written beside its place, flushed and synced, then renamed over it, then its folder is synced. A folder of
files is the same with one rename for all of them. The fault points stand between these steps so that tests can stop
at each.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calotype.faults import fault

TEMPORARY = ".tmp-"


def cache_folder() -> Path:
    """Where things are kept that can be made or fetched again: CALOTYPE_CACHE, by default ~/.cache/calotype."""
    return Path(os.environ.get("CALOTYPE_CACHE") or "~/.cache/calotype").expanduser()


def sync_folder(folder: Path) -> None:
    """Make the renames within a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a new file and sync its bytes to the disk. Raises OSError; a partial file may be left."""
    with path.open("xb") as file:
        half = len(data) // 2
        file.write(data[:half])
        fault("mid_write")
        file.write(data[half:])
        file.flush()
        fault("before_fsync")
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes | str) -> None:
    """Put `data` at `path` in one instant. Raises OSError and then leaves what was there."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        write_synced(temporary, data.encode() if isinstance(data, str) else data)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def replace_json(path: Path, value: Any) -> None:
    """Put `value` as readable JSON at `path` in one instant."""
    replace_file(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_folder(path: Path, files: Mapping[str, bytes | Callable[[Mapping[str, str]], bytes]]) -> dict[str, str]:
    """Write a folder of files in one instant and return each file's sha256.

    A callable is called after the files before it are on disk, with their digests: that is how a manifest is made.
    Raises OSError when the disk is full or `path` exists; the partial folder is removed.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    digests: dict[str, str] = {}
    try:
        for name, data in files.items():
            content = data(digests) if callable(data) else data
            write_synced(temporary / name, content)
            digests[name] = hashlib.sha256(content).hexdigest()
        sync_folder(temporary)
        fault("before_rename")
        temporary.rename(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fault("after_rename")
    sync_folder(path.parent)
    return digests


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in sorted(folder.glob(f"{TEMPORARY}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """The sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
