"""Lines for people: to stderr and to the run's train.log, warnings among them.

A warning of Python's or PyTorch's becomes one line that names its source, and comes once a run: not once a step, and
not once for each loader worker, for what another process has told is in the log. Which warnings there are is left to
Python's filters (`-W`, PYTHONWARNINGS).
"""

from __future__ import annotations

import datetime
import fcntl
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from calotype.record.folder import RunFolder


class Messages:
    """Lines for people: to stderr and to the run's train.log."""

    def __init__(self, folder: RunFolder, *, quiet: bool = False) -> None:
        self.path, self.quiet = folder.path / "train.log", quiet
        self._warned: set[str] = set()

    def __call__(self, text: str | None) -> None:
        if text:
            self._tell(text, once=False)

    def warn(self, text: str) -> None:
        """A line that asks for attention."""
        self(f"warning: {text}")

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Within the context warnings come as lines, each of them once."""
        with warnings.catch_warnings():
            warnings.showwarning = self._show
            yield

    def _show(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
    ) -> None:
        text = f"warning: {category.__name__} from {_source(filename)}:{lineno}: {' '.join(str(message).split())}"
        if text not in self._warned:
            self._warned.add(text)
            self._tell(text, once=True)

    def _tell(self, text: str, *, once: bool) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with suppress(OSError), self.path.open("a+") as file:
            if once:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                if any(line.rstrip("\n").endswith(text) for line in file):
                    return
            file.write(f"{now} {text}\n")
        if not self.quiet:
            sys.stderr.write(f"{text}\n")


def _source(filename: str) -> str:
    """A source file by its place in what Python imports from: `torch/optim/sgd.py`."""
    places = [Path(entry).resolve() for entry in sys.path if entry]
    path = Path(filename).resolve()
    inside = [path.relative_to(place) for place in places if path.is_relative_to(place)]
    return str(min(inside, key=lambda found: len(found.parts), default=Path(path.name)))
