"""The two logs of a run, as files of JSON lines.

`journal.jsonl` holds only functions of the record, so it is bit-equal between equal runs; `clock.jsonl` holds times and
speeds. A checkpoint stores the journal's length and digest. What a killed run had written beyond that is moved aside at
resume and written again, the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from calotype.errors import CheckpointError, RunFolderError

JOURNAL, CLOCK = "journal.jsonl", "clock.jsonl"


class JsonLines:
    """A file of JSON lines that is appended to. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self._digest = hashlib.sha256(path.read_bytes())
        self._length = path.stat().st_size

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; it reaches the disk at the next mark at the latest."""
        self.append(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")

    def append(self, lines: str) -> None:
        """Append lines that are JSON already, each with its end."""
        data = lines.encode()
        self._file.write(data)
        self._digest.update(data)
        self._length += len(data)

    def flush(self) -> None:
        """Hand what was written to the system, so that others can read it."""
        self._file.flush()

    def mark(self) -> dict[str, Any]:
        """Sync the file; its length in bytes and sha256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"length": self._length, "digest": self._digest.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_mark(path: Path, mark: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the journal begins with what `mark` says."""
    data = path.read_bytes()[: int(mark["length"])] if path.is_file() else b""
    if len(data) < int(mark["length"]) or hashlib.sha256(data).hexdigest() != mark["digest"]:
        raise CheckpointError(f"{path} doesn't begin with the {mark['length']} bytes that the checkpoint was taken at")


def cut(path: Path, length: int) -> Path | None:
    """Shorten a log to `length` bytes; what was beyond goes to a file beside it, which is returned."""
    data = path.read_bytes() if path.is_file() else b""
    if len(data) <= length:
        return None
    number = len(list(path.parent.glob(f"{path.stem}.aside-*")))
    aside = path.with_name(f"{path.stem}.aside-{number}{path.suffix}")
    aside.write_bytes(data[length:])
    os.truncate(path, length)
    return aside


def end_line(path: Path) -> None:
    """End the last line of a log that a kill cut off in the middle."""
    if path.is_file() and (data := path.read_bytes()) and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def read(path: Path, size: int | None = None) -> Iterator[dict[str, Any]]:
    """The whole lines of a log, or of its first `size` bytes; a torn last one is left out."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") or (size is not None and file.tell() > size):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise RunFolderError(f"{path}:{number} is no line of JSON: {error}") from error
