"""Reads the lists of a JSON object of any size, `{"images": [...], "annotations": [...]}`, a window at a time.

Lists are asked for by their keys and come in the order of the file; everything else is passed over, of which only
strings and brackets are looked at. Unusual: where a window may end is guessed, behind the last `},{`. A guess that
decodes is right, since what comes before a place in a JSON text says how deep that place is; after one that doesn't,
the window is gone through bracket by bracket.

A file is data from anybody: memory is bounded, whatever is in it, and each fault is told with its byte.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from calotype.errors import DataError

WINDOW = 4 << 20
"""Bytes that are decoded together."""
MOST = 64 << 20
"""Bytes of an element above which it is refused."""
MOST_OF_A_FIELD = 1 << 16
"""Bytes of a field's value above which it is taken for none, where its element isn't as it should be."""

LONGEST_KEY = 1 << 16
"""Bytes of a key, or of a value that is no text, list or object."""
GUESSES = 1000
"""Places that are looked at for the end of a window."""

_SPACES = re.compile(rb"[ \t\r\n]*+")
_BETWEEN = re.compile(rb"\}[ \t\r\n]*+,[ \t\r\n]*+\{")
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(_STRING + rb'|[\[\]{}"]', re.DOTALL)
_KEY = re.compile(_STRING, re.DOTALL)
_SCALAR = re.compile(rb'[^\s,\]}\["{]+')
_BYTE = re.compile(r" \(byte (\d+)\)")
_NO_NUMBER = re.compile(rb"-?Infinity|NaN")
_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Element: TypeAlias = Any
"""An element of a list: of the type asked for or, where it isn't like that, its fields of that type's names, None for
what can't be read."""


class JsonLists:
    """The lists of the JSON object in a file; `kinds` says of what type the elements of each are.

    `sha256` is that of all bytes, `about` the file's size and modification time in ns as it was opened; both are known
    when `windows` has come to its end.
    """

    def __init__(self, path: Path, kinds: Mapping[str, type[msgspec.Struct]], window: int = WINDOW) -> None:
        self.path, self.kinds, self.window = path, kinds, window
        self.sha256, self.about = "", (0, 0)
        self._digest = hashlib.sha256()
        self._buffer, self._at, self._ended = b"", 0, False
        self._offset, self._lines = 0, 1  # of the buffer's first byte

    def windows(self) -> Iterator[tuple[str, int, list[Element]]]:
        """(key, place of the first element in its list, elements) of each window. Raises DataError naming the file and
        the byte of what is wrong, a key that is missing or there twice.
        """
        try:
            with self.path.open("rb", buffering=0) as self._file:
                about = os.fstat(self._file.fileno())
                self.about = (about.st_size, about.st_mtime_ns)
                yield from self._object()
        except OSError as error:
            raise DataError(f"{self.path}: can't be read ({error.strerror})") from error
        self.sha256 = self._digest.hexdigest()

    def _object(self) -> Iterator[tuple[str, int, list[Element]]]:
        self._fill(3)
        self._at = 3 if self._buffer.startswith(b"\xef\xbb\xbf") else 0
        if (mark := self._next()) != b"{":
            told = {b"[": "a list (a file of results?)", b"": "empty"}.get(mark, "no JSON")
            raise DataError(f"{self.path}: is {told}, and an object with {_listed(self.kinds)} is expected")
        self._at += 1
        seen = set[str]()
        while (mark := self._next()) != b"}":
            if seen:
                self._expect(b",")
            key = self._key()
            if key in seen and key in self.kinds:
                raise self._fault(f"{key!r} is there twice")
            seen.add(key if key in self.kinds else "")
            if key in self.kinds:
                yield from self._list(key)
            else:
                self._pass_over()
        self._at += 1
        if self._next():
            raise self._fault("there is something behind the object's end")
        missing = [key for key in self.kinds if key not in seen]
        if missing:
            raise DataError(f"{self.path}: has no {_listed(missing)}")

    def _key(self) -> str:
        """The key that comes next, and its colon, which are taken."""
        self._next()
        self._fill(LONGEST_KEY)
        found = _KEY.match(self._buffer, self._at, self._at + LONGEST_KEY)
        try:
            key: str = msgspec.json.decode(found[0] if found else b"", type=str)
        except _NOT_DECODED:
            raise self._fault("a key is expected") from None
        self._at += len(found[0]) if found else 0
        self._expect(b":")
        return key

    def _list(self, key: str) -> Iterator[tuple[str, int, list[Element]]]:
        if self._next() != b"[":
            raise self._fault(f"{key!r} is no list")
        self._at += 1
        decoder, number = msgspec.json.Decoder(list[self.kinds[key]]), 0  # type: ignore[name-defined]
        while (mark := self._next()) != b"]":
            if number:
                self._expect(b",")
                mark = self._next()
            if mark != b"{":
                raise self._fault(f"element {number} of {key!r} is {'no object' if mark else 'missing'}")
            self._fill(self.window)
            items = self._guessed(decoder) or self._exact(decoder, key, number)
            yield key, number, items
            number += len(items)
        self._at += 1

    def _guessed(self, decoder: msgspec.json.Decoder[Any]) -> list[Element] | None:
        """The elements up to the last `},{` of the buffer, which are taken; None where that isn't one's end."""
        end = len(self._buffer)
        for _ in range(GUESSES):
            end = self._buffer.rfind(b"}", self._at, end)
            if end < 0:
                return None
            if _BETWEEN.match(self._buffer, end, end + 100):
                break
        try:
            found: list[Element] = decoder.decode(b"[" + self._buffer[self._at : end + 1] + b"]")
        except _NOT_DECODED:
            return None
        self._at = end + 1
        return found

    def _exact(self, decoder: msgspec.json.Decoder[Any], key: str, number: int) -> list[Element]:
        """The elements that end in the buffer, which are taken. Raises DataError for what is no JSON."""
        while (end := _last_end(self._buffer, self._at)) == 0:
            self._more(f"within element {number} of {key!r}")
        piece = b"[" + self._buffer[self._at : end] + b"]"
        try:
            found: list[Element] = decoder.decode(piece)
        except msgspec.ValidationError:
            found = self._one_by_one(piece, key, number)
        except _NOT_DECODED as error:
            raise self._malformed(error, key, number) from None
        self._at = end
        return found

    def _one_by_one(self, piece: bytes, key: str, number: int) -> list[Element]:
        """The elements of a list of which some aren't as they should be."""
        try:
            raws = msgspec.json.decode(piece, type=list[msgspec.Raw])
            found = [_element(raw, self.kinds[key]) for raw in raws]
        except _NOT_DECODED as error:
            raise self._malformed(error, key, number) from None
        odd = next((place for place, item in enumerate(found) if item is None), None)
        if odd is not None:
            raise self._fault(f"element {number + odd} of {key!r} is no object")
        return found

    def _malformed(self, error: Exception, key: str, number: int) -> DataError:
        """What a decoder says of elements from `number` on, with the byte in the file."""
        where = f"in {key!r}, element {number} or after it"
        if isinstance(error, RecursionError):
            return self._fault(f"{where}: nested too deeply")
        place = _BYTE.search(str(error))
        at = self._at + (max(0, int(place[1]) - 1) if place else 0)
        odd = _NO_NUMBER.search(self._buffer, max(self._at, at - 1), at + 9) if place else None
        if odd is not None:
            return self._fault(
                f"{where}: {odd[0].decode()} is no JSON; write a number, or null", odd.start() - self._at
            )
        text = _BYTE.sub("", str(error)).removeprefix("JSON is malformed: ")
        return self._fault(f"{where}: {text}", at - self._at)

    def _pass_over(self) -> None:
        """Take the value that comes next."""
        mark = self._next()
        if mark not in (b"{", b"[", b'"'):
            self._fill(LONGEST_KEY)
            found = _SCALAR.match(self._buffer, self._at)
            if found is None:
                raise self._fault("a value is expected")
            self._at = found.end()
            return
        depth = 0
        while True:
            for token in _TOKEN.finditer(self._buffer, self._at):
                if token[0] == b'"':  # a text that doesn't end here
                    self._at = token.start()
                    break
                depth += (token[0] in (b"[", b"{")) - (token[0] in (b"]", b"}"))
                if depth <= 0:
                    self._at = token.end()
                    return
            else:
                self._at = len(self._buffer)
            self._more("within a value")

    def _next(self) -> bytes:
        """The byte that comes next behind white space, which is taken; none at the file's end."""
        while True:
            self._at += len(_SPACES.match(self._buffer, self._at)[0])  # type: ignore[index]
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._fill(1)

    def _expect(self, mark: bytes) -> None:
        if self._next() != mark:
            raise self._fault(f"{mark.decode()!r} is expected")
        self._at += 1

    def _more(self, where: str) -> None:
        """Read on, where what is in the buffer doesn't end. Raises DataError at the file's end, or for too much."""
        have = len(self._buffer) - self._at
        if self._ended:
            raise self._fault(f"the file ends {where}", have)
        if have >= MOST:
            raise self._fault(f"{where} there are more than {MOST >> 20} MB without an end")
        self._fill(max(self.window, 2 * have))

    def _fill(self, count: int) -> None:
        """Have `count` bytes that aren't taken, or all that there are."""
        if len(self._buffer) - self._at >= count or self._ended:
            return
        self._lines += self._buffer.count(b"\n", 0, self._at)
        self._offset += self._at
        parts, have = [self._buffer[self._at :]], len(self._buffer) - self._at
        while have < count and not self._ended:
            parts.append(self._file.read(max(count, self.window)))
            self._digest.update(parts[-1])
            self._ended, have = not parts[-1], have + len(parts[-1])
        self._buffer, self._at = b"".join(parts), 0

    def _fault(self, text: str, after: int = 0) -> DataError:
        """An error at a byte of the buffer, so many behind what was taken."""
        at = self._at + after
        line = self._lines + self._buffer.count(b"\n", 0, at)
        ended = "the file ends, and " if self._ended and at == len(self._buffer) and "file ends" not in text else ""
        return DataError(f"{self.path}: byte {self._offset + at} (line {line}): {ended}{text}")


def _last_end(buffer: bytes, start: int) -> int:
    """Where the last element ends that ends in a buffer, in which one begins at `start`; 0 where none does."""
    depth = end = 0
    for token in _TOKEN.finditer(buffer, start):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth < 0:
                break
            end = token.end() if depth == 0 else end
        elif len(mark) == 1:  # a text that doesn't end here
            break
    return end


@functools.cache
def _decoders(kind: type[msgspec.Struct]) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    """Of elements as they should be, and of others."""
    fields = [(name, msgspec.Raw, msgspec.Raw(b"")) for name in kind.__struct_fields__]
    return msgspec.json.Decoder(kind), msgspec.json.Decoder(msgspec.defstruct("Loose", fields))


def _element(raw: msgspec.Raw, kind: type[msgspec.Struct]) -> Element:
    """An element of a list; None for one that is no object."""
    strict, loose = _decoders(kind)
    try:
        return strict.decode(raw)
    except msgspec.ValidationError:
        pass
    try:
        fields = loose.decode(raw)
    except msgspec.ValidationError:
        return None
    return {name: _value(bytes(getattr(fields, name))) for name in kind.__struct_fields__}


def _value(raw: bytes) -> Any:
    """A field's value; None for one that isn't there, is too long or can't be read."""
    try:
        return msgspec.json.decode(raw) if len(raw) <= MOST_OF_A_FIELD else None
    except _NOT_DECODED:
        return None


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys))
