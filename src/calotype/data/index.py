"""A packed index of a folder of files: a million names in a handful of arrays, scanned once and then mapped.

No Python object is kept per file: names lie end to end in one buffer, so loader workers share them, and a list of a
million strings, each of whose reference counts a worker would touch and thereby copy, never exists. An index is kept
under CALOTYPE_CACHE (by default ~/.cache/calotype) and mapped into memory when it is needed again; a worker that is
spawned maps the same file.

A file's id is 63 bits of XXH3 over its path below the root, so it stays its own when others come and go.

A kept index holds while no folder in the tree has another modification time. That sees files that came, went or were
renamed. It can't see a file that was rewritten in place, which changes nothing of the index: no size or time is kept in
it, the data lock asks for those anew. Folders changed within the last two seconds are not trusted to have settled, so
an index of them is not kept.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import safetensors.numpy
import xxhash

from calotype.errors import DataError
from calotype.files import cache_folder, replace_file

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import IntArray

VERSION = 1
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
SETTLED = 2.0
"""Seconds after which a folder's modification time tells a later change; file systems' clocks tick coarsely."""

PROGRESS_EVERY = 200_000
AT_ONCE = 10_000
"""Names that are unpacked together when all are gone through."""
NAMED = 10
"""Files that a message names."""
DTYPES = {"U8": np.uint8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64}
"""Types of what is kept, as safetensors calls them."""


@dataclass(frozen=True, eq=False)
class FileIndex:
    """Files below `root` by ascending `ids`; row r's name is `names[spans[r, 0]:spans[r, 1]]`, bytes as on disk.

    `labels` is the position in `classes` of each file's class. `ignored` counts by kind what was passed over.
    `cache` and `token` are the file it is mapped from, if there is one, and what tells that file from another.
    """

    root: Path
    classes: tuple[str, ...]
    names: npt.NDArray[np.uint8]
    spans: IntArray
    ids: IntArray
    labels: IntArray
    ignored: Mapping[str, int] = field(default_factory=dict)
    cache: Path | None = None
    token: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, row: int) -> str:
        """A file's path below the root; bytes that are no text as surrogates."""
        start, stop = self.spans[row].tolist()
        return os.fsdecode(self.names[start:stop].tobytes())

    def path(self, row: int) -> Path:
        """A file's path."""
        return self.root / self.name(row)

    def __reduce__(self) -> tuple[Callable[..., FileIndex], tuple[Any, ...]]:
        if self.cache is not None:
            return _mapped_again, (self.cache, self.root, self.token)
        values = (self.root, self.classes, self.names, self.spans, self.ids, self.labels, dict(self.ignored))
        return FileIndex, values


class Paths(Sequence[Path]):
    """Paths of rows of an index, each made when it is asked for; `more` are files beside them."""

    def __init__(self, index: FileIndex, rows: IntArray | None = None, more: Sequence[Path] = ()) -> None:
        self._files, self.rows, self.more = index, rows, tuple(more)

    def __len__(self) -> int:
        return len(self.more) + len(self._files if self.rows is None else self.rows)

    @overload
    def __getitem__(self, position: int) -> Path: ...
    @overload
    def __getitem__(self, position: slice) -> list[Path]: ...
    def __getitem__(self, position: int | slice) -> Path | list[Path]:
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(len(self)))]
        place = range(len(self))[position]
        if place < len(self.more):
            return self.more[place]
        place -= len(self.more)
        return self._files.path(place if self.rows is None else int(self.rows[place]))

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self.texts())

    def texts(self) -> Iterator[str]:
        """The paths as text, which costs a tenth: what goes through a million of them takes these."""
        yield from map(str, self.more)
        files, root = self._files, os.fspath(self._files.root)
        names: npt.NDArray[np.uint8] = files.names
        for begin in range(0, len(self) - len(self.more), AT_ONCE):
            rows = slice(begin, begin + AT_ONCE) if self.rows is None else self.rows[begin : begin + AT_ONCE]
            for start, stop in files.spans[rows].tolist():
                yield f"{root}/{os.fsdecode(names[start:stop].tobytes())}"


class Packer:
    """Collects names and labels without an object for each; `index` sorts them by id."""

    def __init__(self) -> None:
        self.buffer, self.ends = bytearray(), array("q", [0])
        self.ids, self.labels = array("q"), array("q")

    def add(self, name: bytes, label: int = 0) -> None:
        """Add a file by its path below the root."""
        self.buffer += name
        self.ends.append(len(self.buffer))
        self.ids.append(file_id(name))
        self.labels.append(label)

    def index(self, root: Path, classes: Iterable[str], ignored: Mapping[str, int] | None = None) -> FileIndex:
        """The index of all that was added. Raises DataError naming two files whose ids are the same."""
        ends, ids = np.array(self.ends, np.int64), np.array(self.ids, np.int64)
        order = np.argsort(ids, kind="stable")
        spans = np.stack([ends[:-1], ends[1:]], 1)[order]
        names = np.frombuffer(bytes(self.buffer), np.uint8)
        labels = np.array(self.labels, np.int64)[order]
        found = FileIndex(root, tuple(classes), names, spans, ids[order], labels, dict(ignored or {}))
        same = np.flatnonzero(found.ids[1:] == found.ids[:-1])
        if len(same):
            row = int(same[0])
            raise DataError(f"{root}: {found.name(row)!r} and {found.name(row + 1)!r} have one id; rename one of them")
        return found


def file_id(name: bytes) -> int:
    """The id of a file from its path below the root: 63 bits of XXH3."""
    return xxhash.xxh3_64_intdigest(name) >> 1


def folder_index(root: Path, below: str = "", *, keep: bool = True, by_class: bool = True) -> FileIndex:
    """The index of `root`/`below`/<class>/**, ids over the path below `root`; `keep` keeps it for the next time.
    Without `by_class` that of `root`/`below`/**, all under label 0 and without classes.

    Raises DataError for a folder that can't be read, an image that is no regular file, and two files of one id.
    """
    top = root.resolve()
    cache = cache_path(top, below, by_class)
    if keep and (kept := _kept(cache, top, below)) is not None:
        return kept
    scan = _Scan(top, below, by_class)
    index = scan.run()
    if not keep or scan.newest > scan.started - SETTLED:
        return index
    with suppress(OSError):  # an index that can't be kept is made again the next time
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, packed(index, below, scan.folders))
        return _mapped(cache, top) or index
    return index


class _Scan:
    """Walks a tree of class folders. `folders` are those that were read, with their modification times."""

    def __init__(self, top: Path, below: str, by_class: bool) -> None:
        self.top, self.below, self.by_class = top, below, by_class
        self.packer, self.ignored = Packer(), dict[str, int]()
        self.folders, self.irregular = list[tuple[bytes, int]](), list[str]()
        self.started, self.newest = time.time(), 0.0

    def run(self) -> FileIndex:
        below = (os.fsencode(self.below), frozenset[tuple[int, int]]())
        classes = sorted(self._read(*below, None)) if self.by_class else [below]
        for label, (name, ancestors) in enumerate(classes):
            stack = [(name, ancestors)]
            while stack:
                stack += self._read(*stack.pop(), label)
        if self.irregular:
            first, *more = self.irregular
            others = f" (and {len(more)} more: {', '.join(more[:NAMED])})" if more else ""
            raise DataError(f"{first}: is a broken link or no regular file{others}; remove it")
        names = (os.fsdecode(name.rpartition(b"/")[2]) for name, _ in classes if self.by_class)
        return self.packer.index(self.top, names, self.ignored)

    def _read(
        self, name: bytes, ancestors: frozenset[tuple[int, int]], label: int | None
    ) -> list[tuple[bytes, frozenset[tuple[int, int]]]]:
        """Add a folder's files under `label`; its folders, each with the folders it lies in. No link leads back."""
        path = os.path.join(os.fsencode(self.top), name) if name else os.fsencode(self.top)  # noqa: PTH118 - of bytes
        try:
            about = os.stat(path)  # noqa: PTH116 - of bytes
            here = (about.st_dev, about.st_ino)
            if here in ancestors:
                self._ignore("link to a folder above")
                return []
            self.folders.append((name, about.st_mtime_ns))
            self.newest = max(self.newest, about.st_mtime)
            with os.scandir(path) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{os.fsdecode(path)}: can't be read: {error.strerror}") from error
        prefix = name + b"/" if name else b""
        within = ancestors | {here}
        return [(prefix + entry.name, within) for entry in found if self._take(entry, prefix, label)]

    def _take(self, entry: os.DirEntry[bytes], prefix: bytes, label: int | None) -> bool:
        """Add a file; whether the entry is a folder to look into."""
        if entry.name.startswith(b"."):
            self._ignore("hidden")
            return False
        if entry.is_dir():
            return True
        suffix = os.fsdecode(os.path.splitext(entry.name)[1]).lower()  # noqa: PTH122 - of bytes
        if suffix not in SUFFIXES:
            self._ignore(suffix or "no suffix")
        elif label is None:
            self._ignore("image outside a class folder")
        elif not entry.is_file():
            self.irregular.append(os.fsdecode(entry.path))
        else:
            self.packer.add(prefix + entry.name, label)
            self._tell()
        return False

    def _ignore(self, kind: str) -> None:
        self.ignored[kind] = self.ignored.get(kind, 0) + 1

    def _tell(self) -> None:
        count = len(self.packer.ids)
        if count % PROGRESS_EVERY == 0:
            rate = count / max(time.time() - self.started, 1e-9)
            sys.stderr.write(f"scanning {self.top / self.below}: {count} images so far, {rate:.0f}/s\n")


def cache_path(root: Path, below: str = "", by_class: bool = True) -> Path:
    """Where the index of `root`/`below` is kept."""
    kind = b"" if by_class else b"\0all"
    key = xxhash.xxh3_64_hexdigest(os.fsencode(root.resolve() / below) + b"\0" + os.fsencode(below) + kind)
    return cache_folder() / "index" / f"{key}.safetensors"


def packed(index: FileIndex, below: str, folders: Sequence[tuple[bytes, int]]) -> bytes:
    """An index as the file that keeps it; `folders` are all that were read, with their modification times in ns."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "names": index.names,
        "spans": index.spans,
        "ids": index.ids,
        "labels": index.labels,
        "folders": np.frombuffer(b"\0".join(name for name, _ in folders), np.uint8),
        "times": np.array([time for _, time in folders], np.int64),
    }
    about = {"version": VERSION, "root": str(index.root), "below": below, "classes": index.classes}
    told = json.dumps(about | {"ignored": dict(index.ignored), "token": uuid.uuid4().hex})
    return safetensors.numpy.save(arrays, {"calotype": told})


def read_mapped(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The arrays of a safetensors file of ours, mapped and not read, and our part of its header."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, np.uint8, "r", offset=0)
    about = json.loads(header.pop("__metadata__")["calotype"])
    arrays = {}
    for name, entry in header.items():
        start, stop = (8 + size + place for place in entry["data_offsets"])
        dtype = DTYPES[entry["dtype"]]
        arrays[name] = np.asarray(data[start:stop]).view(dtype).reshape(entry["shape"])
    return arrays, about


def _open(cache: Path, top: Path) -> tuple[FileIndex, dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
    """A kept index and all that the file holds; None for one that isn't there, isn't ours or is damaged."""
    try:
        arrays, about = read_mapped(cache)
        if about["version"] != VERSION or about["root"] != str(top):
            return None
        names, spans, ids, labels = (arrays[name] for name in ("names", "spans", "ids", "labels"))
        classes, ignored = tuple(about["classes"]), about["ignored"]
        found = FileIndex(top, classes, names, spans, ids, labels, ignored, cache, about["token"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return None
    return found, arrays, about


def _mapped(cache: Path, top: Path) -> FileIndex | None:
    found = _open(cache, top)
    return found[0] if found else None


def _mapped_again(cache: Path, top: Path, token: str) -> FileIndex:
    """The index as another process has it. Raises DataError when the file is another one by now."""
    found = _mapped(cache, top)
    if found is None or found.token != token:
        raise DataError(f"{cache}: the index of {top} was replaced while it was in use; start again")
    return found


def _kept(cache: Path, top: Path, below: str) -> FileIndex | None:
    """The index kept for a tree, if every folder of it is as it was."""
    found = _open(cache, top)
    if found is None:
        return None
    index, arrays, about = found
    if about.get("below") != below or not {"folders", "times"} <= arrays.keys():
        return None
    folders, times = arrays["folders"].tobytes().split(b"\0"), arrays["times"].tolist()
    unchanged = len(folders) == len(times) and all(map(_is_as_it_was, _under(top, folders), times))
    return index if unchanged else None


def _under(top: Path, names: Iterable[bytes]) -> Iterable[bytes]:
    start = os.fsencode(top)
    return (os.path.join(start, name) for name in names)  # noqa: PTH118 - of bytes


def _is_as_it_was(path: bytes, time_ns: int) -> bool:
    try:
        about = os.stat(path)  # noqa: PTH116 - of bytes
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_mtime_ns == time_ns
