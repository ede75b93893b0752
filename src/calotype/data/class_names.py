"""The names of classes, of boxes or masks: each once, no more than targets can tell apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from calotype.errors import ConfigError, DataError

MOST = 30_000
"""Classes whose numbers an array of labels can hold."""


def given(names: Sequence[str], most: int = MOST) -> tuple[str, ...]:
    """The classes that a config names. Raises ConfigError for none, more than `most`, and one that is named twice."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"{names!r} is no list of names", key="data.classes")
    found = tuple(str(name) for name in names)
    if reason := _wrong(found, most):
        raise ConfigError(reason, key="data.classes")
    return found


def told(names: Sequence[str], where: str, most: int = MOST) -> tuple[str, ...]:
    """The classes that a file tells. Raises DataError as `given`."""
    if reason := _wrong(names, most):
        raise DataError(f"{where} {reason}")
    return tuple(names)


def lines(path: Path, most: int = MOST) -> tuple[str, ...]:
    """The lines of a file, a class each. Raises DataError."""
    try:
        found = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error
    return told(_lines(found), str(path), most)


def is_line(name: str) -> bool:
    """Whether a name is read back from a line of a file, and is text for XML and CSV."""
    return _lines(name) == [name] and min(name) >= " " and not name.startswith("\ufeff")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _wrong(names: Sequence[str], most: int) -> str | None:
    if not names:
        return "names no class"
    if len(names) > most:
        return f"has {len(names)} classes, more than the {most} that can be told apart"
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    return None if twice is None else f"names the class {twice!r} twice"
