"""The names of the classes of boxes: each once, as many as there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from calotype.errors import ConfigError, DataError

MOST = 30_000
"""Classes whose numbers an array of labels can hold."""


def given(names: Sequence[str]) -> tuple[str, ...]:
    """The classes that a config names. Raises ConfigError for none, and for one that is named twice."""
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ConfigError(f"{names!r} is no list of names", key="data.classes")
    found = tuple(str(name) for name in names)
    if reason := _wrong(found):
        raise ConfigError(reason, key="data.classes")
    return found


def told(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The classes that a file tells. Raises DataError as `given`."""
    if reason := _wrong(names):
        raise DataError(f"{where} {reason}")
    return tuple(names)


def lines(path: Path) -> tuple[str, ...]:
    """The lines of a file, a class each. Raises DataError."""
    try:
        found = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from error
    return told([line.strip() for line in found if line.strip()], str(path))


def _wrong(names: Sequence[str]) -> str | None:
    if not names:
        return "names no class"
    if len(names) > MOST:
        return f"has {len(names)} classes, more than {MOST}"
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    return None if twice is None else f"names the class {twice!r} twice"
