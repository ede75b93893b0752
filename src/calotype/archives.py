"""Reads and extracts tar and zip archives that anybody may have made.

Only plain files and folders come out, under the folder that was asked for and nowhere else. Unusual: a link of any
kind is refused, not followed or checked. Every way out of an extraction folder but a bad name goes through a link that
an earlier member laid (CVE-2007-4559, CVE-2025-4517 and their kin), and archives of pictures have none. So nothing here
rests on tarfile's filters. Members are written into a new folder beside the place and renamed when all is well: an
archive that is refused or cut leaves nothing. Sizes are counted as bytes come out of the decompressor, so what an
archive says of itself is never believed.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from calotype.errors import DataError
from calotype.files import TEMPORARY, sync_folder

CHUNK = 1 << 20
_MOST_AT_ONCE = 16 * CHUNK
_MOST_NAME = 1024
_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_FAULTS = (*_BROKEN, NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that comes out of an archive: bytes of all files together, and members."""

    bytes: int = 1 << 36
    members: int = 10_000_000


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    is_folder: bool
    size: int
    open: Any


def extract(archive: Path, folder: Path, *, only: str | None = None, limits: Limits | None = None) -> None:
    """Put the files of an archive into `folder`, which may exist; none of its top-level names may.

    With `only` the archive may hold nothing but that one top-level folder. Raises DataError naming archive and member.
    """
    temporary = folder / f"{TEMPORARY}{archive.name}-{uuid.uuid4().hex[:8]}"
    try:
        with _named(archive):
            temporary.mkdir(parents=True)
            for member in _members(archive, limits or Limits()):
                _write(member, temporary, only)
        _move(temporary, folder, archive)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def extract_folder(archive: Path, inside: str, place: Path) -> None:
    """Put the folder `inside` of an archive at `place`, which must not exist, in one instant; the rest of the archive
    is left out. Raises DataError naming the archive.
    """
    temporary = place.with_name(f"{TEMPORARY}{place.name}-{uuid.uuid4().hex[:8]}")
    try:
        extract(archive, temporary)
        if not (temporary / inside).is_dir():
            raise DataError(f"{archive}: has no folder {inside}; fetch the archive again")
        (temporary / inside).rename(place)
        sync_folder(place.parent)
    except OSError as error:
        raise DataError(f"{place} can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_members(archive: Path, names: Collection[str], most_bytes: int) -> dict[str, bytes]:
    """The bytes of members by name, without extracting. Raises DataError for one that is missing or too large."""
    found: dict[str, bytes] = {}
    with _named(archive):
        for member in _members(archive, Limits()):
            if member.name not in names or member.is_folder:
                continue
            if member.size > most_bytes:
                raise DataError(f"{archive}: {member.name} has more than {most_bytes} bytes")
            found[member.name] = b"".join(_chunks(member))
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{archive}: has no {missing[0]}; fetch the archive again")
    return found


def check_name(name: str) -> str:
    """A member's name in its plain form. Raises ValueError with the reason where it leads out or means nothing."""
    parts = PurePosixPath(name).parts
    if not parts or len(name) > _MOST_NAME or any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise ValueError("its name is empty or too long")
    if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise ValueError("its name is absolute")
    if ".." in parts:
        raise ValueError("its name leads out of the folder")
    if any(ord(character) < 32 for character in name):
        raise ValueError("its name has a control character")
    return "/".join(parts)


def _members(archive: Path, limits: Limits) -> Iterator[_Member]:
    """Members that are files or folders, their names checked; anything else is refused. Counts as it goes."""
    total, seen = 0, set()
    for number, member in enumerate(_tar(archive, limits) if _is_tar(archive) else _zip(archive)):
        if member is None:
            continue
        if number >= limits.members:
            raise DataError(f"{archive}: holds more than {limits.members} members")
        total += member.size
        if member.size < 0 or total > limits.bytes:
            raise DataError(f"{archive}: holds more than {limits.bytes} bytes, at {member.name!r}")
        if member.name in seen and not member.is_folder:
            raise DataError(f"{archive}: holds {member.name!r} twice")
        seen.add(member.name)
        yield member


def _is_tar(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06")


def _tar(archive: Path, limits: Limits) -> Iterator[_Member | None]:
    with archive.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        unpack: Any = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), None)
        raw = _Bounded(file if unpack is None else unpack(file), limits.bytes + limits.members * 2048, archive)
        with tarfile.open(fileobj=cast(IO[bytes], raw), mode="r:") as tar:
            while (item := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep a million objects
                yield _tar_member(archive, tar, item)
        if not raw.last or raw.last.strip(b"\0"):  # tarfile takes a damaged header for the end
            raise DataError(f"{archive}: is cut off or damaged; fetch it again")
        while raw.read(CHUNK):
            pass  # to the checksum of what was packed


def _tar_member(archive: Path, tar: tarfile.TarFile, item: tarfile.TarInfo) -> _Member | None:
    if PurePosixPath(item.name) == PurePosixPath(".") and item.isdir():
        return None
    if item.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or item.issparse():
        raise DataError(f"{archive}: {item.name!r} is a {_kind(item)}, and only files and folders are extracted")
    return _Member(_checked(archive, item.name), item.isdir(), item.size, lambda: tar.extractfile(item))


def _kind(item: tarfile.TarInfo) -> str:
    if item.issym() or item.islnk():
        return f"link to {item.linkname!r}"
    return "device" if item.isdev() else "special file"


def _zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        for item in packed.infolist():
            kind = stat.S_IFMT(item.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                told = "link" if stat.S_ISLNK(kind) else "special file"
                raise DataError(f"{archive}: {item.filename!r} is a {told}, and only files and folders are extracted")
            name = _checked(archive, item.filename)
            yield _Member(name, item.is_dir(), item.file_size, functools.partial(packed.open, item))


def _checked(archive: Path, name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise DataError(f"{archive}: {name!r} is refused: {error}") from error


class _Bounded:
    """A stream that gives no more than `most` bytes in all, and never many at once: tarfile reads headers whole."""

    def __init__(self, stream: Any, most: int, archive: Path) -> None:
        self._stream, self._most, self._archive = stream, most, archive
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        """As a file's. Raises DataError past the limit."""
        if size < 0 or size > _MOST_AT_ONCE or self._stream.tell() + size > self._most + CHUNK:
            raise DataError(f"{self._archive}: holds a part that is larger than its limit")
        self.last = bytes(self._stream.read(size))
        return self.last

    def seek(self, position: int, whence: int = 0) -> int:
        """As a file's."""
        return int(self._stream.seek(position, whence))

    def tell(self) -> int:
        """As a file's."""
        return int(self._stream.tell())


def _write(member: _Member, folder: Path, only: str | None) -> None:
    parts = PurePosixPath(member.name).parts
    path = folder.joinpath(*parts)
    if only is not None and parts[0] != only:
        raise DataError(f"it holds {member.name!r}, which is not in {only}/")
    if member.is_folder:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for chunk in _chunks(member):
            file.write(chunk)


def _chunks(member: _Member) -> Iterator[bytes]:
    """A file's bytes. Raises DataError if they are not as many as the archive says."""
    left = member.size
    with member.open() as stream:
        while left >= 0 and (chunk := stream.read(CHUNK)):
            left -= len(chunk)
            yield chunk
    if left:
        raise DataError(f"{member.name!r} has another size than the archive says")


def _move(temporary: Path, folder: Path, archive: Path) -> None:
    for path in sorted(temporary.iterdir()):
        if (folder / path.name).exists():
            raise DataError(f"{folder / path.name} is there already; remove it to extract {archive.name} again")
    for path in sorted(temporary.iterdir()):
        path.rename(folder / path.name)
    with suppress(OSError):
        sync_folder(folder)


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Within the context what a broken archive raises becomes a DataError naming it."""
    try:
        yield
    except DataError as error:
        if str(archive) in error.message:
            raise
        raise DataError(f"{archive}: {error.message}") from error
    except OSError as error:
        if error.errno is None:
            raise DataError(f"{archive}: is no sound archive ({error})") from error
        raise DataError(f"{archive}: can't be extracted ({error.strerror}: {error.filename})") from error
    except _FAULTS as error:
        raise DataError(f"{archive}: is no sound archive ({type(error).__name__}: {error})") from error
