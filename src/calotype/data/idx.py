"""Reads the idx format of the MNIST family: a big-endian header, then packed bytes; plain or gzip.

The file is read whole and hashed as it is read, so the digest in a record is of the bytes that were trained on.
Unusual: the header is believed only after the payload was found to have exactly the length it promises, and the
decompression stops one byte past it, so a damaged or hostile file costs no more memory than a good one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from calotype.errors import DataError

_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class IdxFile:
    """An idx file in memory: where it lies, the sha256 of its bytes on disk, and its array of uint8."""

    path: Path
    sha256: str
    array: npt.NDArray[np.uint8]


def read_idx(path: Path, dimensions: int) -> IdxFile:
    """Read an idx file of unsigned bytes, gzip if its name ends in .gz. Raises DataError naming the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); put the file back or correct paths.data") from error
    try:
        with _open(path, data) as stream:
            array = _parse(path, stream, dimensions)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: damaged gzip data ({error}); fetch the file again") from error
    return IdxFile(path, hashlib.sha256(data).hexdigest(), array)


def _open(path: Path, data: bytes) -> io.BufferedIOBase:
    raw = io.BytesIO(data)
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw


def _parse(path: Path, stream: io.BufferedIOBase, dimensions: int) -> npt.NDArray[np.uint8]:
    expected = struct.pack(">HBB", 0, _UNSIGNED_BYTE, dimensions)
    magic = stream.read(4)
    if magic != expected:
        raise DataError(f"{path}: begins with {magic.hex()}, an idx file of this kind with {expected.hex()}")
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path}: ends within its header; fetch the file again")
    shape = struct.unpack(f">{dimensions}I", header)
    length = math.prod(shape)
    if length > _MOST_BYTES:
        raise DataError(f"{path}: promises {length} bytes, more than the {_MOST_BYTES} this reader takes")
    payload = stream.read(length + 1)
    if len(payload) != length:
        held = "more" if len(payload) > length else f"{len(payload)}"
        raise DataError(f"{path}: promises {length} bytes of shape {shape} and holds {held}; fetch the file again")
    return np.frombuffer(payload, np.uint8).reshape(shape)
