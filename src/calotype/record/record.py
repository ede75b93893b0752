"""The record: what a run is a function of, written before its first step, and how today differs from it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calotype
from calotype.errors import RunFolderError
from calotype.files import replace_file, replace_json
from calotype.record.data import DataLock, keep_lock
from calotype.record.environment import code, machine, packages, repository
from calotype.record.folder import RunFolder
from calotype.record.journal import JOURNAL
from calotype.settings import NEUTRAL

VERSION = 1
PARTS = ("config", "data", "code", "packages", "machine")
"""What can differ from a record, by the names that `--allow-changed` takes."""

_ABSENT = object()


def surroundings() -> dict[str, Any]:
    """Code, packages and machine of this process."""
    return {"code": code(), "packages": packages(), "machine": machine()}


def write(folder: RunFolder, config: Mapping[str, Any], lock: DataLock, **values: Any) -> dict[str, Any]:
    """Write record.json, config.yaml, code.patch and the data lock of a new run; the record.

    `config` is {"yaml", "digest", "tree"}. What the record says of the code is the commit and a patch of what differs
    from it, and the digest of every file that was loaded. `skipped`, what was left out of the data, goes with the data.
    """
    skipped = {"skipped": found} if (found := values.pop("skipped", None)) is not None else {}
    state, patch = repository(Path(calotype.__file__).parent)
    project, project_patch = repository(Path.cwd())
    if project_patch != patch:
        patch += project_patch
    record = {
        "version": VERSION,
        "calotype": calotype.__version__,
        "run": folder.name,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config_digest": config["digest"],
        "seed": config["tree"]["seed"],
        "repository": {"calotype": state, "project": project},
        **surroundings(),
        "data": {name: split.summary() for name, split in lock.splits.items()} | skipped,
        **values,
        "cwd": str(Path.cwd()),
        "lineage": [],
    }
    try:
        lock.save(folder.path)
        replace_file(folder.path / "config.yaml", config["yaml"])
        if patch:
            replace_file(folder.path / "code.patch", patch)
        replace_json(folder.path / "record.json", record)
    except OSError as error:
        raise RunFolderError(f"the record can't be written in {folder.path}: {error}") from error
    return record


def complete(folder: RunFolder) -> None:
    """Add code and packages that were loaded only after the record was written; what it has stays."""
    record = folder.record()
    loaded = {"code": code(), "packages": packages()}
    news = {part: {**found, **record[part]} for part, found in loaded.items()}
    if any(news[part] != record[part] for part in news):
        replace_json(folder.path / "record.json", record | news)


def extend(folder: RunFolder, *, resumed_at: int, changed: Mapping[str, list[str]], **values: Any) -> None:
    """Add a resume to the record's lineage, before anything was written in it. `changed` is what differs, by part.

    The length of the journal goes with it, since a later resume may cut off what this one adds; a lock of data that
    changed is kept, since the new data's will take its place.
    """
    record, journal = folder.record(), folder.path / JOURNAL
    if "data" in changed:
        keep_lock(folder.path, len(record["lineage"]))
    size = journal.stat().st_size if journal.is_file() else 0
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    entry = {"time": now, "resumed_at": resumed_at, "journal": size, "changed": dict(changed), **values}
    replace_json(folder.path / "record.json", record | {"lineage": [*record["lineage"], entry]})


@dataclass(frozen=True, slots=True)
class Departure:
    """Where a run left its record: a resume at `step`, after `size` bytes of the journal, with changed inputs."""

    step: int
    size: int
    changed: Mapping[str, list[str]]

    def __str__(self) -> str:
        parts = (f"{part} ({'; '.join(texts)})" for part, texts in self.changed.items())
        return f"the run was resumed at step {self.step} with changed {', '.join(parts)}"


def departure(record: Mapping[str, Any]) -> Departure | None:
    """The first resume with changed inputs of which the journal still holds what followed; None if there is none."""
    found: list[Departure] = []
    for entry in record["lineage"]:
        size = int(entry.get("journal", 0))
        found = [before for before in found if before.size < size]
        if entry.get("changed"):
            found.append(Departure(int(entry["resumed_at"]), size, entry["changed"]))
    return found[0] if found else None


def changed_surroundings(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """What of code, packages and machine is not as recorded, by part."""
    today = {"code": code(record["code"]), "packages": packages(record["packages"]), "machine": machine()}
    return {part: [_told(*leaf) for leaf in leaf_differences(record[part], now)] for part, now in today.items()}


def changed_config(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two config trees, keys that change no bit of a run aside."""
    return [_told(*leaf) for leaf in leaf_differences(old, new) if not leaf[0].startswith(NEUTRAL)]


def leaf_differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, old, new) for every leaf in which two trees differ; an absent one is a value of its own."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}, key=str):
            place = f"{key}.{name}" if key else str(name)
            yield from leaf_differences(old.get(name, _ABSENT), new.get(name, _ABSENT), place)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from leaf_differences(before, after, f"{key}.{index}")
    elif type(old) is not type(new) or old != new:
        yield key, old, new


def _told(name: str, old: Any, new: Any) -> str:
    if old is _ABSENT:
        return f"{name}: {_short(new)} is new"
    if new is _ABSENT:
        return f"{name}: {_short(old)} is gone"
    return f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"sha256 {text[:12]}" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text
