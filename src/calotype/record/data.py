"""The data lock: which data a run was trained on, in two stages.

Before the first step: names, sizes and times of the files, the sample ids, and the sha256 of files that are read
whole. As the loader reads samples: a digest of each one's stored content and of its stored target; the training
samples that the first epoch left over are read once at its end, so that from then on all are known, and those of the
other splits once they were measured. A sample that comes back different, later in the run or at a resume, is named
before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from calotype.digest import Digest
from calotype.errors import DataError, RunFolderError
from calotype.files import replace_file
from calotype.types import Shard, Source

if TYPE_CHECKING:
    from calotype.types import DigestArray, IntArray

FILE = "data-lock.safetensors"
SHOWN = 5


@dataclass(slots=True)
class SplitLock:
    """What is known of a split. `contents` (n, 2) uint64 holds content and target digest of the samples marked
    `seen`.
    """

    ids: IntArray
    contents: DigestArray
    seen: np.ndarray[Any, np.dtype[np.bool_]]
    files: dict[str, tuple[int, int]]
    containers: dict[str, str]

    @classmethod
    def of(cls, source: Source, root: Path) -> SplitLock:
        """The first stage: ids, files with size and time, digests of files that were read whole."""
        files = {_relative(file, root): (file.stat().st_size, file.stat().st_mtime_ns) for file in source.files}
        containers = {_relative(file, root): digest for file, digest in source.containers.items()}
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
            arrays[f"{name}.files"] = _text("\n".join(lock.files))
            arrays[f"{name}.stats"] = np.array(list(lock.files.values()), np.int64).reshape(-1, 2)
            arrays[f"{name}.containers"] = _text(
                "\n".join(f"{digest} {file}" for file, digest in lock.containers.items())
            )
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
            files = _lines(arrays[f"{name}.files"])
            stats = [(int(size), int(time)) for size, time in arrays[f"{name}.stats"]]
            pairs = (line.split(" ", 1) for line in _lines(arrays[f"{name}.containers"]))
            containers = {file: digest for digest, file in pairs}
            ids, contents, seen = (arrays[f"{name}.{part}"] for part in ("ids", "contents", "seen"))
            splits[name] = SplitLock(ids, contents, seen, dict(zip(files, stats, strict=True)), containers)
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

    def loose(lock: SplitLock) -> dict[str, tuple[int, int]]:
        return {name: stat for name, stat in lock.files.items() if name not in lock.containers}

    return any(loose(old.splits[name]) != loose(new.splits[name]) for name in old.splits.keys() & new.splits)


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
    for what, ids in (("added", np.setdiff1d(new.ids, old.ids)), ("removed", np.setdiff1d(old.ids, new.ids))):
        if len(ids):
            found.append(f"{what} {_listed(ids)}")
    for what, names in (("added", new.files.keys() - old.files), ("removed", old.files.keys() - new.files)):
        found += [f"{what} file {name}" for name in sorted(names)[:SHOWN]]
    for name in sorted(new.files.keys() & old.files):
        sizes = old.files[name][0], new.files[name][0]
        if sizes[0] != sizes[1]:
            found.append(f"file {name} changed from {sizes[0]} to {sizes[1]} bytes")
        elif old.containers.get(name) != new.containers.get(name):
            found.append(f"file {name} changed: its sha256 is not the recorded one")
    return found + _content_differences(old, new, contents)


def _content_differences(old: SplitLock, new: SplitLock, contents: DigestArray | None) -> list[str]:
    if contents is None:
        return []
    common, before, now = np.intersect1d(old.ids, new.ids, return_indices=True)
    differ = (old.contents[before] != contents[now]) & old.seen[before, None]
    found = []
    for what, ids in (("changed", common[differ[:, 0]]), ("relabelled", common[differ[:, 1] & ~differ[:, 0]])):
        if len(ids):
            found.append(f"{what} {_listed(ids)}")
    return found


def _listed(ids: IntArray) -> str:
    shown = ", ".join(str(int(number)) for number in ids[:SHOWN])
    return f"{len(ids)} sample{'s' if len(ids) > 1 else ''} ({shown}{', ...' if len(ids) > SHOWN else ''})"


def _relative(file: Path, root: Path) -> str:
    """A file's name within the data's folder; one that lies elsewhere, in a package, goes by the end of its path."""
    file = file.resolve()
    inside = file.is_relative_to(root.resolve())
    return str(file.relative_to(root.resolve())) if inside else "/".join(("...", *file.parts[-3:]))


def _text(value: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(value.encode(), np.uint8)


def _lines(value: Any) -> list[str]:
    return bytes(value).decode().split("\n") if len(value) else []
