"""Compares two journals line by line and names the first thing that differs.

The order of looking is the order of cause: sample ids, then input, loss, gradient norm, learning rate of a step; an
evaluation's metrics; the digests of the state. After a difference the tensors are named at the next digest point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from calotype.record.journal import read

LOOKED_AT = ("ids", "input", "loss", "norm", "lr", "epoch")
NAMES = {"ids": "sample ids", "input": "input digest", "norm": "gradient norm", "lr": "learning rate"}


@dataclass(slots=True)
class Difference:
    """Where two journals part: the step, what differs there, both values; tensors that differ at step `at`."""

    step: int
    what: str
    recorded: str
    now: str
    tensors: list[str] = field(default_factory=list)
    at: int = 0


@dataclass(frozen=True, slots=True)
class Length:
    """How far a journal goes; `ended_by_time` is the step at which a time limit ended the run, `splits` gives by step
    into how many pieces shards were cut there for want of memory.
    """

    steps: int
    ended: bool
    ended_by_time: int | None
    splits: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Comparison:
    """How much was equal, and the first difference."""

    steps: int = 0
    events: int = 0
    difference: Difference | None = None


def length(path: Path, size: int | None = None) -> Length:
    """How far a journal, or its first `size` bytes, goes."""
    steps, ended, by_time, splits = 0, False, None, dict[int, tuple[int, ...]]()
    for line in read(path, size):
        if "event" not in line:
            steps = line["step"] + 1
        elif line["event"] == "end":
            ended, by_time = True, line["step"] if line["reason"] == "time" else None
        elif line["event"] == "split":
            splits[line["step"]] = (*splits.get(line["step"], ()), line["pieces"])
    return Length(steps, ended, by_time, splits)


def compare(recorded: Path, now: Path, *, whole: bool, size: int | None = None) -> Comparison:
    """Compare two journals; without `whole` the second may be shorter. With `size` only so many bytes of the first."""
    result = Comparison()
    lines = zip_longest(read(recorded, size), read(now))
    for old, new in lines:
        if (new is None and not whole) or (old is None and size is not None):
            break
        found = _line_difference(old, new)
        if found is not None:
            result.difference = found
            _name_tensors(found, old, new, lines)
            break
        if "event" in (old or {}):
            result.events += 1
        else:
            result.steps += 1
    return result


def _line_difference(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Difference | None:
    if old == new:
        return None
    if old is None or new is None:
        present: Mapping[str, Any] = old or new or {}
        told = present.get("event", "a step")
        return Difference(
            int(present["step"]), "the journal's length", *(["nothing", told] if old is None else [told, "nothing"])
        )
    step = int(old["step"])
    if old.get("event") != new.get("event") or old["step"] != new["step"]:
        return Difference(step, "the order of events", _title(old), _title(new))
    if old.get("event") == "digests":
        names = _differing(old, new)
        return Difference(
            step, "the state", f"{len(old['tensors'])} digests", f"{len(names)} of them others", names, step
        )
    for name in [*LOOKED_AT, *sorted(set(old) | set(new))]:
        if old.get(name) != new.get(name):
            return _value_difference(step, name, old, new)
    return None


def _value_difference(step: int, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference:
    before, after = old.get(name), new.get(name)
    what = NAMES.get(name, name)
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        inner = next(key for key in sorted({*before, *after}) if before.get(key) != after.get(key))
        what, before, after = f"{old.get('split', name)}/{inner}", before.get(inner), after.get(inner)
    return Difference(step, what, _readable(before), _readable(after))


def _readable(value: Any) -> str:
    if isinstance(value, str) and value.lower().lstrip("-").startswith("0x"):
        return f"{float.fromhex(value):.9g} ({value})"
    return str(value)


def _title(line: Mapping[str, Any]) -> str:
    return f"{line.get('event', 'training')} of step {line['step']}"


def _name_tensors(found: Difference, old: Any, new: Any, lines: Iterator[Any]) -> None:
    """Name the tensors that differ at the next point where both journals have digests."""
    while not found.tensors and old and new:
        if old.get("event") == "digests" and new.get("event") == "digests":
            found.tensors, found.at = _differing(old, new), int(old["step"])
            return
        old, new = next(lines, (None, None))


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = old["tensors"], new["tensors"]
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
