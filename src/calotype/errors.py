"""The errors Calotype raises, as one tree. Each class carries the exit code the command line ends with.

    CalotypeError                 1   failure at run time
    ├── UsageError                2   a wrong command line
    │   ├── ConfigError           2   a config that can't be composed, checked or built
    │   └── RefusedError          2   refused by policy: an untrusted target, a changed input at resume
    ├── DataError                 3   a missing, damaged or inconsistent data set
    ├── CheckpointError           4   a missing, damaged or unfitting checkpoint or model file
    ├── DiffersError              5   verify found a difference; a target was not met
    ├── NonFiniteError            1   the loss or a gradient stopped being finite
    ├── RunFolderError            1   the run folder is busy, read-only or full
    └── Interrupted              75   stopped by a signal or a limit of the machine; `--resume` continues
        └── PeerLost             75   another process of the run died, hangs or can't be reached

A message names the file, key or sample and says what to do. `key` is the config path at fault where there is one; it is
put in front of the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

CONTINUE = "`--resume` continues from the last checkpoint"
"""What to do after a run that ended before its time."""
CTRL_C = 130
"""The exit code of a Ctrl-C."""


class CalotypeError(Exception):
    """Root of the tree: a failure at run time that has a message for the user."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.key)


def _rebuild(cls: type[CalotypeError], message: str, key: str | None) -> CalotypeError:
    return cls(message, key=key)


class UsageError(CalotypeError):
    """A command line that means nothing."""

    exit_code = 2


class ConfigError(UsageError):
    """A config that can't be composed, checked or built."""


class RefusedError(UsageError):
    """Something a policy forbids: an untrusted target, or an input that changed since the run was recorded."""


class DataError(CalotypeError):
    """A missing, damaged or inconsistent data set."""

    exit_code = 3


class CheckpointError(CalotypeError):
    """A missing, damaged or unfitting checkpoint or model file."""

    exit_code = 4


class DiffersError(CalotypeError):
    """A run that is not what its record says, or a result below its target."""

    exit_code = 5


class NonFiniteError(CalotypeError):
    """A loss or gradient that is NaN or infinite; nothing was updated after it."""


class RunFolderError(CalotypeError):
    """A run folder that is in use, can't be written, or whose disk is full."""


class Interrupted(CalotypeError):  # noqa: N818 - not an error of anybody's: the run goes on with --resume
    """A run stopped by a signal with its state saved."""

    exit_code = 75


class PeerLost(Interrupted):
    """Another process of the run died, hangs or can't be reached."""


def told(error: BaseException) -> dict[str, Any]:
    """An error as plain values, for another process. A Ctrl-C is a stop like others there."""
    if isinstance(error, KeyboardInterrupt):
        return told(Interrupted("stopped by Ctrl-C"))
    message = error.message if isinstance(error, CalotypeError) else f"{type(error).__name__}: {error}"
    return {"type": type(error).__name__, "message": message, "key": getattr(error, "key", None)}


def retold(found: Mapping[str, Any], before: str = "") -> CalotypeError:
    """The error that `told` was given, with `before` in front of its message; a CalotypeError where it was none."""
    kind = globals().get(found["type"])
    if isinstance(kind, type) and issubclass(kind, CalotypeError):
        return kind(before + found["message"], key=found["key"])
    return CalotypeError(before + found["message"])
