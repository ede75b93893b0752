"""The two logs of a run, as files of JSON lines.

`journal.jsonl` holds only functions of the record, so it is bit-equal between equal runs; `clock.jsonl` holds times and
speeds, and every scalar that trackers are told. A checkpoint stores the journal's length and digest. What a killed run
had written beyond that is moved aside at resume and written again, the same; the clock just goes on, so that steps come
twice in it.

A journal may have millions of lines, so none is ever held whole: what goes through it does so in pieces or by lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from calotype.errors import CheckpointError, RunFolderError

JOURNAL, CLOCK = "journal.jsonl", "clock.jsonl"
PIECE = 2**20

_decode = json.JSONDecoder().raw_decode


class JsonLines:
    """A file of JSON lines that is appended to. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        with path.open("rb") as file:
            self._digest = hashlib.file_digest(file, "sha256")
            self._length = file.tell()

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
    left, digest = int(mark["length"]), hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while piece := file.read(min(left, PIECE)):
                digest.update(piece)
                left -= len(piece)
    if left or digest.hexdigest() != mark["digest"]:
        raise CheckpointError(f"{path} doesn't begin with the {mark['length']} bytes that the checkpoint was taken at")


def cut(path: Path, length: int) -> Path | None:
    """Shorten a log to `length` bytes; what was beyond goes to a file beside it, which is returned."""
    if not path.is_file() or path.stat().st_size <= length:
        return None
    number = len(list(path.parent.glob(f"{path.stem}.aside-*")))
    aside = path.with_name(f"{path.stem}.aside-{number}{path.suffix}")
    with path.open("rb") as file, aside.open("wb") as beyond:
        file.seek(length)
        shutil.copyfileobj(file, beyond, PIECE)
    os.truncate(path, length)
    return aside


def end_line(path: Path) -> None:
    """End the last line of a log that a kill cut off in the middle: what there is of that line goes."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - PIECE)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            end = start
            if place >= 0:
                end = start + place + 1
                break
        file.truncate(end)


def read(path: Path, size: int | None = None) -> Iterator[dict[str, Any]]:
    """The whole lines of a log, or of its first `size` bytes; a torn last one is left out."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") or (size is not None and file.tell() > size):
                return
            try:
                yield _parsed(line)
            except ValueError as error:
                raise RunFolderError(f"{path}:{number} is no line of JSON: {error}") from error


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's object, at less than half the cost of json.loads, which looks for other encodings and for blanks."""
    text = line.decode()
    value, end = _decode(text)
    return value if end == len(text) - 1 else json.loads(text)  # type: ignore[no-any-return]
