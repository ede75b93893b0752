"""Reads VOC's annotations, XML that anybody may have written, as data: no entity, no document type, a limit of size.

Corners count from 1 and the last pixel is in the box: xmin, ymin, xmax, ymax are (xmin - 1, ymin - 1, xmax, ymax) here.
Unusual: where xmax <= xmin or ymax <= ymin the box has no area, although by that rule xmin = xmax is a pixel wide. Such
boxes are slips of who drew them, as the two in BCCD, where both corners are one point; none is an object.
"""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from calotype.errors import DataError
from calotype.types import DIFFICULT, TRUNCATED

MAX_BYTES = 8 << 20
CORNERS = ("xmin", "ymin", "xmax", "ymax")
ROOT = "annotation"
MOST_NESTED = 50
DECLARED = re.compile(rb"<\?xml\s[^>]*?\sencoding\s*=\s*[\"']([\w.-]{1,40})[\"']", re.ASCII)
MULTI_BYTE = {
    *("big5", "big5hkscs", "cp932", "cp949", "cp950", "euc_jp", "euc_kr", "gb18030", "gb2312", "gbk", "iso2022_jp"),
    *("iso2022_kr", "johab", "shift_jis", "utf-8"),
}
"""Encodings, by Python's names, that expat can't read or not by every name: XML in them is made UTF-8 first."""


@dataclass(slots=True)
class Annotation:
    """An image's height and width, 0 where the file doesn't tell them, and what it says of each object: texts by the
    path of the element in it, `name`, `bndbox/xmin`. An object's parts are none of it.
    """

    size: tuple[int, int] = (0, 0)
    objects: list[dict[str, str]] = field(default_factory=list)


def read_annotation(path: Path) -> Annotation:
    """The annotation in a file. Raises DataError naming the file, and the line where it is no XML."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: {len(content)} bytes are too many for an annotation (limit {MAX_BYTES})")
    return _Reader(path).read(content)


class _Reader:
    """Collects the texts of elements by their path; those of objects apart."""

    def __init__(self, path: Path) -> None:
        self.path, self.open, self.texts = path, list[str](), list[str]()
        self.found, self.about = Annotation(), dict[str, str]()
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.texts.append
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse

    def read(self, content: bytes) -> Annotation:
        try:
            self.parser.Parse(_as_utf8(content), True)
        except expat.ExpatError as error:
            told = expat.errors.messages.get(error.code, "it can't be parsed")
            raise DataError(f"{self.path}:{error.lineno}: is no XML: {told}") from error
        except (LookupError, ValueError) as error:
            raise DataError(
                f"{self.path}: can't be read in the encoding it declares ({error}); make it UTF-8"
            ) from error
        self.found.size = (_side(self.about.get("size/height")), _side(self.about.get("size/width")))
        return self.found

    def _start(self, name: str, _: dict[str, str]) -> None:
        if not self.open and name != ROOT:
            raise self._error(f"is no annotation: it begins with <{name[:40]}>")
        if len(self.open) == MOST_NESTED:
            raise self._error(f"nested deeper than {MOST_NESTED} levels")
        self.open.append(name)
        self.texts.clear()
        if self.open[1:] == ["object"]:
            self.found.objects.append({})

    def _end(self, _: str) -> None:
        inside, text = self.open[1:], "".join(self.texts).strip()
        self.open.pop()
        self.texts.clear()
        of, inside = (self.found.objects[-1], inside[1:]) if inside[:1] == ["object"] else (self.about, inside)
        if inside:
            of.setdefault("/".join(inside), text)

    def _refuse(self, *_: object) -> None:
        raise self._error("declares a document type, which no annotation needs; remove it")

    def _error(self, message: str) -> DataError:
        return DataError(f"{self.path}:{self.parser.CurrentLineNumber}: {message}")


def _as_utf8(content: bytes) -> bytes:
    """XML in an encoding that expat can't read as UTF-8, which it then declares. Raises LookupError or UnicodeError."""
    declared = DECLARED.match(content)
    if declared is None or (name := codecs.lookup(declared[1].decode()).name) not in MULTI_BYTE:
        return content
    start, stop = declared.span(1)
    return (content[:start] + b"utf-8" + content[stop:]).decode(name).encode()


def _side(text: str | None) -> int:
    """Pixels of a side; 0 where there are none told."""
    value = _number(text)
    return int(value) if 0 < value < 1 << 31 else 0


def _number(text: str | None) -> float:
    """A number; NaN for what is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def corners(about: dict[str, str], one_based: bool) -> list[float]:
    """xyxy pixels of an object's box, counted from 0; NaN for what is no number. One without area stays without."""
    x_min, y_min, x_max, y_max = (_number(about.get(f"bndbox/{name}")) for name in CORNERS)
    if not one_based:
        return [x_min, y_min, x_max, y_max]
    drawn = int(x_max > x_min and y_max > y_min)
    return [x_min - 1, y_min - 1, x_max - 1 + drawn, y_max - 1 + drawn]


def flags(about: dict[str, str]) -> int:
    """Of an object: difficult, truncated."""
    of = (("difficult", DIFFICULT), ("truncated", TRUNCATED))
    return sum(flag for name, flag in of if about.get(name, "0").lower() in ("1", "true", "yes"))
