"""Tables of comma-separated values, and paths in files that anybody may have written: what a table of images and one of
boxes share. A path counts from the data set's root; one that leads out of it is refused.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from calotype.errors import DataError

DELIMITERS = ",;\t|"
SHOWN = 5
MOST_NUMBERS = 100_000
"""Labels that are all numbers below this are numbers of classes; larger ones are names, such as those of articles."""


def read_text(file: Path) -> tuple[str, str]:
    """A table's text and the sha256 of its bytes. Raises DataError for one that can't be read."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); set data.table or paths.data") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{file} is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8)")
    return content.decode("utf-8-sig", "surrogateescape"), hashlib.sha256(content).hexdigest()


def header_of(text: str, delimiters: str, fits: Callable[[Sequence[str]], bool]) -> tuple[str, list[str]] | None:
    """The first delimiter by which the first line is a header that fits, and that header; None where none is."""
    head = text.partition("\n")[0].strip("\r")
    found = ((mark, _fields(head, mark)) for mark in delimiters)
    return next((each for each in found if fits(each[1])), None)


def shown_header(text: str) -> str:
    """The first line as messages show it."""
    return repr(text.partition("\n")[0].strip("\r")[:80])


def records(text: str, delimiter: str, width: int, wrong: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row below the header; rows of another number of cells are added to `wrong`, in words.
    Raises csv.Error.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader)
    for cells in reader:
        if cells and len(cells) != width:
            wrong.append(f"line {reader.line_num}: {len(cells)} fields, the header has {width}")
        elif cells:
            yield reader.line_num, cells


def refused(file: Path, wrong: Sequence[str]) -> DataError:
    """What is raised for wrong rows: the first few of them by their lines."""
    shown = "\n".join(f"  {text}" for text in wrong[:SHOWN])
    more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return DataError(f"{file}: {len(wrong)} rows are wrong; mend or remove them:\n{shown}{more}")


def bases(top: Path) -> tuple[str, ...]:
    """The names that a root has, as absolute paths begin with them."""
    return tuple({os.path.abspath(top), os.path.realpath(top)})  # noqa: PTH100 - plain text for a million rows


def below(roots: Sequence[str], path: str, start: str = "") -> str | None:
    """A path that counts from the folder `start` of a root, as it counts from that root; None where it leads out."""
    whole = os.path.normpath(os.path.join(roots[0], start, path))  # noqa: PTH118 - as above
    base = next((base for base in roots if whole == base or whole.startswith(base.rstrip(os.sep) + os.sep)), None)
    return None if base is None else whole[len(base) :].lstrip(os.sep)


def is_number(label: str) -> bool:
    """Whether a label is the number of a class."""
    return label.isascii() and label.isdigit() and len(label) <= 6 and int(label) < MOST_NUMBERS


def _fields(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
