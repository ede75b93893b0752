"""Fetches published files: from several sources, resumed where it was cut, verified over every byte, then put in place.

A file is written as `NAME.part` and becomes `NAME` only when its size and digest are the published ones, so what lies
at a place is whole. A part is continued where the source can (HTTP ranges), by the next call too. Unusual: a source
that gives other bytes is no error as long as another one gives the right ones, since the digest and not the address is
what is trusted; so plain http is fine, and redirections are followed.
"""

from __future__ import annotations

import fcntl
import hashlib
import http
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

import calotype
from calotype.errors import DataError
from calotype.files import sha256_file, sync_folder

Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Called with a file's name, the bytes that are there, and the bytes there will be (0 where that is not known)."""

CHUNK = 1 << 20
TIMEOUT = 30.0
TRIES = 3
PAUSE = 1.0
MOST_BYTES = 1 << 38
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_AGAIN = (408, 429, 500, 502, 503, 504)


def quiet(_name: str, _done: int, _total: int) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A published file: its name, size in bytes, sha256 in hex, and the addresses that have it, tried in their order.

    `size` 0 is one that is not known. `sha256` may be the first digits alone, where no more was published, or empty
    where that is an `md5`: nobody can make another file of a given md5, only two of one.
    """

    name: str
    size: int
    sha256: str
    sources: tuple[str, ...]
    md5: str = ""


def fetch(remote: Remote, folder: Path, progress: Progress = quiet) -> Path:
    """The file in `folder`, fetched unless it is there; its whole digest is checked in both cases.

    Raises DataError naming each source and what was wrong with it, or a file at the place that is another one.
    """
    if not _NAME.fullmatch(remote.name):
        raise DataError(f"{remote.name!r} is no name for a file")
    path = folder / remote.name
    if path.exists():
        if wrong := _wrong(path, remote):
            raise DataError(f"{path} is there and is not the published file: {wrong}; remove it to fetch it")
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _part(path.with_name(f"{remote.name}.part")) as part:
            _fill(part, remote, progress)
            os.fsync(part.fileno())
            Path(part.name).rename(path)
            sync_folder(folder)
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror or error}") from error
    return path


@contextmanager
def _part(path: Path) -> Iterator[IO[bytes]]:
    """The part as a file that this process alone writes; one that stays empty goes again."""
    with path.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{path} is being written by another process; wait for it") from None
        try:
            yield file
        finally:
            if path.exists() and not _length(file):
                path.unlink()


def _fill(part: IO[bytes], remote: Remote, progress: Progress) -> None:
    """Bring the part to the published bytes. Raises DataError when no source does."""
    faults: list[str] = []
    for source in remote.sources:
        fault = _from_source(part, source, remote, progress)
        if fault is None:
            return
        faults.append(f"{source}: {fault}")
    told = "\n  ".join(faults) or "it has no source"
    raise DataError(
        f"{remote.name} could not be fetched:\n  {told}\nFetch it by other means and put it at "
        f"{Path(part.name).with_suffix('')}"
    )


class _SourceFault(Exception):  # noqa: N818 - a reason, which goes into the error of the whole fetch
    """What is wrong with a source; `final` if asking it again is no use."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def _from_source(part: IO[bytes], source: str, remote: Remote, progress: Progress) -> str | None:
    """What was wrong with a source; None if the part now is the published file."""
    fault = ""
    for attempt in range(TRIES):
        time.sleep(PAUSE * attempt)
        fresh = _length(part) == 0
        try:
            _continue(part, source, remote, progress)
        except _SourceFault as error:
            fault = str(error)
            if error.final:
                return fault
            continue
        wrong = _wrong(Path(part.name), remote)
        if wrong is None:
            return None
        fault = wrong
        part.truncate(0)
        if fresh:
            return fault
    return fault


def _continue(part: IO[bytes], source: str, remote: Remote, progress: Progress) -> None:
    """Take what is missing at the part's end, or all of it where the source can't give a range."""
    have = _length(part)
    if remote.size and have > remote.size:
        have = part.truncate(0)
    if have and have == remote.size:
        return
    with _opened(source, have) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = part.truncate(0)
        told = response.headers.get("Content-Length") or ""
        length = int(told) if told.isdecimal() else 0
        total = remote.size or (have + length if length else 0)
        while chunk := _read(response):
            part.write(chunk)
            have += len(chunk)
            if have > (total or MOST_BYTES):
                part.truncate(0)
                raise _SourceFault(f"it gives more than {total or MOST_BYTES} bytes", final=True)
            progress(remote.name, have, total)
        part.flush()
    if have < total:
        raise _SourceFault(f"it ended after {have} of {total} bytes")


@contextmanager
def _opened(source: str, start: int) -> Iterator[http.client.HTTPResponse]:
    """The answer of a source, from byte `start` on where it can. Raises _SourceFault."""
    if urllib.parse.urlsplit(source).scheme not in ("http", "https"):
        raise _SourceFault("it is no http or https address", final=True)
    headers = {"User-Agent": f"calotype/{calotype.__version__}", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    try:
        response = _opener().open(urllib.request.Request(source, headers=headers), timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        # 416: the part is longer than the file there, so it is another file's
        raise _SourceFault(f"it answers {error.code} {error.reason}", final=error.code not in _AGAIN) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _SourceFault(f"it can't be reached: {getattr(error, 'reason', error)}") from error
    with response:
        yield response


def _opener() -> urllib.request.OpenerDirector:
    """An opener that knows http and https alone, so that no redirection leads to a file or elsewhere."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _SourceFault(f"the connection broke: {error}") from error


def _length(part: IO[bytes]) -> int:
    return os.fstat(part.fileno()).st_size


def _wrong(path: Path, remote: Remote) -> str | None:
    """How a file differs from the published one; None if it doesn't."""
    size = path.stat().st_size
    if remote.size and size != remote.size:
        return f"it has {size} bytes, not {remote.size}"
    digest = sha256_file(path)
    if not digest.startswith(remote.sha256):
        return f"its sha256 is {digest}, not {remote.sha256}"
    if remote.md5 and (digest := _md5(path)) != remote.md5:
        return f"its md5 is {digest}, not {remote.md5}"
    return None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
