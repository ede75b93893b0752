"""A run's folder: who may write in it, how far the run is, where its files are.

    runs/<experiment>/<id>/
      record.json  config.yaml  code.patch  data-lock.safetensors     what the run is, before its first step
      data-lock-0.safetensors                                         the lock before a resume with changed data
      status.json                                                     how far it is, and its exit code
      journal.jsonl  clock.jsonl  train.log                           what it did
      checkpoints/  tensorboard/  images/  tracking/                  images/ and tracking/ where it is mirrored

One process at a time holds the folder's lock, which the system takes back when the process dies.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from calotype.errors import RunFolderError, UsageError
from calotype.files import replace_file, replace_json, sweep

KILLED = 75
NEEDED = {
    "config_digest": str, "seed": int, "code": dict, "packages": dict, "machine": dict, "frozen": dict, "lineage": list
}  # fmt: skip
POSSIBLE = {"data": dict, "weights": dict, "input": dict, "classes": list, "command": list, "search": list, "cwd": str}
"""Parts of a record and what they are; those that are possible may be absent or null."""

_held: set[int] = set()


def _let_go() -> None:
    """Close inherited handles of locks: a loader worker outlives a killed run by seconds and would still hold its
    folder.
    """
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class RunFolder:
    """A run folder that exists. `name` is experiment/id."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """Experiment and id."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.path / "checkpoints"

    @classmethod
    def create(cls, runs: Path, experiment: str) -> RunFolder:
        """A new folder under `runs`. Raises RunFolderError where nothing can be written, before any data is read."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        path = runs / experiment / f"{now}-{secrets.token_hex(3)}"
        try:
            path.mkdir(parents=True, exist_ok=False)
            replace_file(path / "status.json", "{}\n")
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise RunFolderError(f"can't write in {path}: {error.strerror or error}; set paths.runs") from error
        return cls(path)

    @classmethod
    def find(cls, run: str | Path, runs: str | Path) -> RunFolder:
        """The run that a path, an id or the word `last` names. Raises UsageError naming the nearest."""
        path, runs = Path(run), Path(runs)
        if (path / "record.json").is_file():
            return cls(path.resolve())
        found = sorted(runs.glob("*/*/record.json"), key=lambda file: file.parent.name)
        if str(run) == "last" and found:
            return cls(found[-1].parent.resolve())
        named = [file.parent for file in found if str(run) in {file.parent.name, f"{file.parts[-3]}/{file.parts[-2]}"}]
        if len(named) == 1:
            return cls(named[0].resolve())
        newest = ", ".join(f"{file.parts[-3]}/{file.parts[-2]}" for file in found[-3:]) or "none"
        raise UsageError(f"no run {run}: neither a run folder nor an id under {runs} (the newest: {newest})")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. Raises RunFolderError naming the process that holds it already."""
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        _held.add(handle)
        try:
            try:
                _take(handle)
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
                raise RunFolderError(f"{self.path} is in use by {holder}; wait for it or stop it") from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            sweep(self.path)
            yield
        finally:
            _held.discard(handle)
            os.close(handle)

    def in_use(self) -> bool:
        """Whether a live process holds the folder."""
        try:
            handle = os.open(self.path / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def record(self) -> dict[str, Any]:
        """The record. Raises RunFolderError if it can't be read, lacks a part or has one of another kind."""
        record, fault = self._json("record.json"), f"{self.path / 'record.json'} is no record"
        if missing := [name for name in NEEDED if name not in record]:
            raise RunFolderError(f"{fault}: {', '.join(missing)} missing")
        there = {name: record[name] for name in POSSIBLE if record.get(name) is not None}
        there |= {name: record[name] for name in NEEDED}
        for name, value in there.items():
            if not isinstance(value, kind := (NEEDED | POSSIBLE)[name]):
                raise RunFolderError(f"{fault}: {name} is a {type(value).__name__}, not a {kind.__name__}")
        return record

    def status(self) -> dict[str, Any]:
        """The status; a run whose process died without a word is `killed` with exit code 75."""
        status = self._json("status.json")
        if status.get("state") == "running" and not self.in_use():
            status |= {"state": "killed", "exit_code": KILLED}
        return status

    def standing(self) -> str:
        """How the run stands and what to do, for a message about what it lacks."""
        status = self.status()
        state, step = status.get("state"), status.get("step", 0)
        if state == "running":
            return f"it is running, at step {step}; wait for it"
        if state in ("killed", "interrupted"):
            return f"it was {state} at step {step}; go on with it by `calotype train --resume {self.path}`"
        message = f" ({status['message']})" if status.get("message") else ""
        return f"its state is {state or 'unknown'}, at step {step}{message}; start a new run with `calotype train`"

    def set_status(self, state: str, **values: Any) -> None:
        """Write the status; values that are not given stay."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        replace_json(self.path / "status.json", self._json("status.json") | {"state": state, "updated": now} | values)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / name).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise RunFolderError(f"{self.path / name} can't be read: {error}") from error


def _take(handle: int) -> None:
    """Take the lock; who only asks whether it is taken has it for an instant, so once is not enough."""
    for _ in range(4):
        with suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
