"""Names, sizes and modification times of a split's files, a million of them in three arrays.

Reads like a mapping from a name to (size, time in ns). Names count from the data's folder; a file that lies elsewhere,
in a package, goes by the end of its path. A name is bytes as the file system has it, so any name can be written down.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from calotype.errors import DataError

if TYPE_CHECKING:
    from calotype.types import DigestArray, IntArray

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]


class FileTable(Mapping[str, tuple[int, int]]):
    """`names` are the names end to end, `ends` (n + 1,) where each begins and the last ends, `stats` (n, 2)."""

    def __init__(self, names: Bytes, ends: IntArray, stats: IntArray) -> None:
        self.names, self.ends, self.stats = names, ends, stats

    @classmethod
    def of(cls, files: Iterable[Path], root: Path) -> FileTable:
        """Ask the file system about each file; where `files` have `texts`, those are taken, as they cost less.

        Raises DataError naming one that is gone.
        """
        names, ends, stats, relative = bytearray(), array("q", [0]), array("q"), Relative(root)
        texts: Callable[[], Iterable[str]] = getattr(files, "texts", lambda: map(os.fspath, files))
        for path in texts():
            try:
                about = os.stat(path)  # noqa: PTH116 - plain text for a million files
            except OSError as error:
                raise DataError(f"{path}: can't be read ({error.strerror})") from error
            names += relative(path)
            ends.append(len(names))
            stats.extend((about.st_size, about.st_mtime_ns))
        return cls(
            np.frombuffer(bytes(names), np.uint8),
            np.array(ends, np.int64),
            np.array(stats, np.int64).reshape(-1, 2),
        )

    @classmethod
    def listed(cls, names: Iterable[str], stats: npt.NDArray[Any]) -> FileTable:
        """Of names and their (size, time) as earlier locks hold them."""
        parts = [os.fsencode(name) for name in names]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends, stats.astype(np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.stats)

    def __iter__(self) -> Iterator[str]:
        return map(self.name, range(len(self)))

    def __getitem__(self, name: str) -> tuple[int, int]:
        row = self.row(name)
        if row is None:
            raise KeyError(name)
        size, time = self.stats[row].tolist()
        return size, time

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileTable):
            return NotImplemented
        return self.same_names(other) and np.array_equal(self.stats, other.stats)

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    def name(self, row: int) -> str:
        """The name in a row; bytes that are no text as surrogates."""
        start, stop = self.ends[row : row + 2].tolist()
        return os.fsdecode(self.names[start:stop].tobytes())

    def row(self, name: str) -> int | None:
        """The row of a name; None where it isn't here."""
        place = np.searchsorted(self._sorted[0], np.uint64(xxhash.xxh3_64_intdigest(os.fsencode(name))))
        row = int(self._sorted[1][place]) if place < len(self) else None
        return row if row is not None and self.name(row) == name else None

    def same_names(self, other: FileTable) -> bool:
        """Whether both hold the same names in the same order."""
        return np.array_equal(self.ends, other.ends) and np.array_equal(self.names, other.names)

    def common(self, other: FileTable) -> tuple[Rows, Rows]:
        """The rows of both that have one name, here and there, in the order of the names' digests."""
        if self.same_names(other):
            return np.arange(len(self)), np.arange(len(self))
        _, here, there = np.intersect1d(self._digests, other._digests, return_indices=True)
        return here, there

    @cached_property
    def _digests(self) -> DigestArray:
        ends, names = self.ends.tolist(), self.names.tobytes()
        every = (xxhash.xxh3_64_intdigest(names[ends[row] : ends[row + 1]]) for row in range(len(self)))
        return np.fromiter(every, np.uint64, len(self))

    @cached_property
    def _sorted(self) -> tuple[DigestArray, Rows]:
        order = np.argsort(self._digests)
        return self._digests[order], order


class Relative:
    """Names files as they lie below a root, as bytes. Each folder is resolved once, its files are not."""

    def __init__(self, root: Path) -> None:
        self.root, self._folders = root.resolve(), dict[str, bytes]()

    def __call__(self, path: str) -> bytes:
        """The name of a file: below the root, or `...` and the last three parts of its path."""
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.fsencode(self._folder(Path(folder).resolve()))
        return self._folders[folder] + os.fsencode(name)

    def _folder(self, folder: Path) -> str:
        if not folder.is_relative_to(self.root):
            return "/".join(("...", *folder.parts[-2:], ""))
        return "".join(f"{part}/" for part in folder.relative_to(self.root).parts)
