"""Digests that show whether two things are the same bits: XXH3, which keeps up with memory. Files get a sha256
instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    import numpy.typing as npt


def digest64(data: bytes) -> str:
    """The 64-bit digest of bytes as hex; what `Digest` gives for them in any number of parts."""
    return xxhash.xxh3_64_hexdigest(data)


class Digest:
    """A running digest of 64 or 128 bits over bytes, text and C-contiguous arrays."""

    def __init__(self, bits: int = 64) -> None:
        self._hash = xxhash.xxh3_64() if bits == 64 else xxhash.xxh3_128()

    def add(self, part: bytes | str | npt.NDArray[Any]) -> Digest:
        """Take in a part; returns itself."""
        if isinstance(part, str):
            part = part.encode()
        self._hash.update(part if isinstance(part, bytes) else part.data)
        return self

    def hex(self) -> str:
        """The digest so far, as hex."""
        return self._hash.hexdigest()

    def bytes(self) -> bytes:
        """The digest so far, as bytes."""
        return self._hash.digest()

    def int(self) -> int:
        """The digest so far, as an unsigned integer."""
        return self._hash.intdigest()
