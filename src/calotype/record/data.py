"""The data lock: which data a run was trained on, in two stages.

Before the first step: names, sizes and times of the files, the sample ids, and the sha256 of files that are read
whole. As the loader reads samples: a digest of each one's stored content and of its stored target; the training
samples that the first epoch left over are read once at its end, so that from then on all are known, and those of the
other splits once they were measured. A sample that comes back different, later in the run or at a resume, is named
before anything is computed from it.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from calotype.digest import Digest
from calotype.errors import DataError, RunFolderError
from calotype.files import replace_file
from calotype.record.file_table import FileTable, Relative, Rows
from calotype.types import Shard, Source

if TYPE_CHECKING:
    from calotype.types import DigestArray, IntArray

FILE = "data-lock.safetensors"
SHOWN = 5
MOST = 100
"""Files of another size that are named at most."""


@dataclass(slots=True)
class SplitLock:
    """What is known of a split. `contents` (n, 2) uint64 holds content and target digest of the samples marked
    `seen`.
    """

    ids: IntArray
    contents: DigestArray
    seen: np.ndarray[Any, np.dtype[np.bool_]]
    files: FileTable
    containers: dict[str, str]

    @classmethod
    def of(cls, source: Source, root: Path) -> SplitLock:
        """The first stage: ids, files with size and time, digests of files that were read whole."""
        files, relative = FileTable.of(source.files, root), Relative(root)
        containers = {os.fsdecode(relative(str(file))): digest for file, digest in source.containers.items()}
        empty = np.zeros((len(source), 2), np.uint64)
        # safetensors writes an array's memory as it lies: a slice with a step would be saved as other numbers
        return cls(np.ascontiguousarray(source.ids), empty, np.zeros(len(source), bool), files, containers)

    def take(self, ids: IntArray, contents: DigestArray) -> IntArray:
        """Note the digests of samples; the ids of those that were known and differ."""
        rows = np.searchsorted(self.ids, ids)
        known = self.seen[rows]
        differ = known & (self.contents[rows] != contents).any(1)
        self.contents[rows[~known]] = contents[~known]
        self.seen[rows] = True
        return np.asarray(ids[differ])

    def complete(self, digests: Callable[[IntArray], DigestArray]) -> None:
        """Digest the samples that were not read yet; `digests` takes their positions."""
        rows = np.flatnonzero(~self.seen)
        if len(rows):
            self.contents[rows] = digests(rows)
            self.seen[rows] = True

    def summary(self) -> dict[str, Any]:
        """For the record: counts, and one digest of all that is known."""
        digest = Digest(128).add(np.ascontiguousarray(self.ids)).add(np.ascontiguousarray(self.contents[self.seen]))
        return {"samples": len(self.ids), "digested": int(self.seen.sum()), "digest": digest.hex()}


class DataLock:
    """The locks of a run's splits."""

    def __init__(self, splits: dict[str, SplitLock]) -> None:
        self.splits = splits
        self._settled: set[str] = set()

    def see(self, split: str, shard: Shard) -> None:
        """Note a shard's samples. Raises DataError naming samples that changed since they were first read."""
        if split not in self.splits or shard.contents is None:
            return
        changed = self.splits[split].take(shard.ids, shard.contents)
        if len(changed):
            raise DataError(
                f"{split}: {_listed(changed)} changed on disk since the run first read them; "
                "restore the data, or start a new run"
            )

    def save(self, folder: Path) -> None:
        """Write the lock into a run folder, if it has news."""
        news = {name for name, lock in self.splits.items() if not (name in self._settled and lock.seen.all())}
        if not news:
            return
        arrays: dict[str, Any] = {}
        for name, lock in self.splits.items():
            arrays |= {f"{name}.ids": lock.ids, f"{name}.contents": lock.contents, f"{name}.seen": lock.seen}
            files, pairs = lock.files, (f"{digest} {file}" for file, digest in lock.containers.items())
            arrays |= {f"{name}.names": files.names, f"{name}.ends": files.ends, f"{name}.stats": files.stats}
            arrays[f"{name}.containers"] = np.frombuffer(os.fsencode("\0".join(pairs)), np.uint8)
        replace_file(folder / FILE, safetensors.numpy.save(arrays))
        self._settled |= {name for name, lock in self.splits.items() if lock.seen.all()}

    @classmethod
    def load(cls, folder: Path, *, first: bool = False) -> DataLock:
        """Read a run's lock; `first`: the one it began with, if it went on with changed data since. Raises
        RunFolderError naming a file that can't be read.
        """
        kept = sorted(folder.glob("data-lock-*.safetensors"), key=lambda file: (len(file.name), file.name))
        file = kept[0] if first and kept else folder / FILE
        try:
            arrays = safetensors.numpy.load_file(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise RunFolderError(f"{file} can't be read: {error}") from error
        splits = {}
        for name in sorted({key.partition(".")[0] for key in arrays}):
            stats, packed = arrays[f"{name}.stats"], f"{name}.names" in arrays
            if packed:
                files = FileTable(arrays[f"{name}.names"], arrays[f"{name}.ends"], stats)
            else:  # a lock of version 0.1
                files = FileTable.listed(_lines(arrays[f"{name}.files"], b"\n"), stats)
            pairs = (line.split(" ", 1) for line in _lines(arrays[f"{name}.containers"], b"\0" if packed else b"\n"))
            containers = {file: digest for digest, file in pairs}
            ids, contents, seen = (arrays[f"{name}.{part}"] for part in ("ids", "contents", "seen"))
            splits[name] = SplitLock(ids, contents, seen, files, containers)
        return cls(splits)

    def inherit(self, old: DataLock) -> None:
        """Go on with the digests that `old` has of the same samples."""
        for name, lock in self.splits.items():
            before = old.splits.get(name)
            if before is not None and np.array_equal(before.ids, lock.ids):
                lock.contents, lock.seen = before.contents.copy(), before.seen.copy()


def keep_lock(folder: Path, number: int) -> None:
    """Keep a run's lock beside the one that will replace it."""
    replace_file(folder / f"data-lock-{number}.safetensors", (folder / FILE).read_bytes())


def touched(old: DataLock, new: DataLock) -> bool:
    """Whether a file that is not read whole has another size or time, so that only its content can tell."""
    return any(_touched(old.splits[name], new.splits[name]) for name in old.splits.keys() & new.splits)


def _touched(old: SplitLock, new: SplitLock) -> bool:
    if not old.files.same_names(new.files) or old.containers.keys() != new.containers.keys():
        return True
    other = (old.files.stats != new.files.stats).any(1)
    whole = [row for row in map(old.files.row, old.containers) if row is not None]
    other[whole] = False
    return bool(other.any())


def differences(old: DataLock, new: DataLock, contents: Mapping[str, DigestArray] | None = None) -> list[str]:
    """What of the data changed: samples added, removed, changed and relabelled, files by name.

    `contents` gives the digests of a split's samples today, where they were read; without it only files and ids are
    compared.
    """
    found = []
    for name in sorted({*old.splits, *new.splits}):
        before, now = old.splits.get(name), new.splits.get(name)
        if before is None or now is None:
            found.append(f"{name}: the split is {'new' if before is None else 'gone'}")
            continue
        found += [f"{name}: {text}" for text in _split_differences(before, now, (contents or {}).get(name))]
    return found


def _split_differences(old: SplitLock, new: SplitLock, contents: DigestArray | None) -> list[str]:
    found = []
    for what, here, there in (("added", new, old), ("removed", old, new)):
        ids = np.setdiff1d(here.ids, there.ids, assume_unique=True)  # NumPy's unique takes seconds for a million
        if len(ids):
            found.append(f"{what} {_listed(ids)}")
    before, now = old.files.common(new.files)
    for what, files, rows in (("added", new.files, now), ("removed", old.files, before)):
        others = np.setdiff1d(np.arange(len(files)), rows, assume_unique=True)
        found += [f"{what} file {name}" for name in heapq.nsmallest(SHOWN, map(files.name, others.tolist()))]
    changed = _changed_files(old, new, before, now)
    found += [changed[name] for name in sorted(changed)]
    return found + _content_differences(old, new, contents)


def _changed_files(old: SplitLock, new: SplitLock, before: Rows, now: Rows) -> dict[str, str]:
    """What to say of files that both have, whose size or, where they are read whole, digest differs."""
    sizes = old.files.stats[before, 0], new.files.stats[now, 0]
    changed = {}
    other = np.flatnonzero(sizes[0] != sizes[1]).tolist()
    named = ((old.files.name(int(before[place])), place) for place in other)
    for name, place in heapq.nsmallest(MOST, named):
        changed[name] = f"file {name} changed from {sizes[0][place]} to {sizes[1][place]} bytes"
    for name in {*old.containers, *new.containers}:
        both = name in old.files and name in new.files
        if both and name not in changed and old.containers.get(name) != new.containers.get(name):
            changed[name] = f"file {name} changed: its sha256 is not the recorded one"
    return changed


def _content_differences(old: SplitLock, new: SplitLock, contents: DigestArray | None) -> list[str]:
    if contents is None:
        return []
    common, before, now = np.intersect1d(old.ids, new.ids, assume_unique=True, return_indices=True)
    differ = (old.contents[before] != contents[now]) & old.seen[before, None]
    found = []
    for what, ids in (("changed", common[differ[:, 0]]), ("relabelled", common[differ[:, 1] & ~differ[:, 0]])):
        if len(ids):
            found.append(f"{what} {_listed(ids)}")
    return found


def _listed(ids: IntArray) -> str:
    shown = ", ".join(str(int(number)) for number in ids[:SHOWN])
    return f"{len(ids)} sample{'s' if len(ids) > 1 else ''} ({shown}{', ...' if len(ids) > SHOWN else ''})"


def _lines(value: Any, end: bytes) -> list[str]:
    return [os.fsdecode(line) for line in bytes(value).split(end)] if len(value) else []
