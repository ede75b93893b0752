"""A table of images: a CSV file whose rows name an image and its label, and perhaps its split.

Paths count from `root`; one that leads out of it is refused, since a table is data. Wrong rows are named by their line.
Labels are numbers, class names, or, with a `separator`, names of any number of classes: then the label is a vector of
0 and 1. Ids are those that ImageFolder gives the same files.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calotype.data.images import MAX_PIXELS, Background, Mode
from calotype.data.index import Packer
from calotype.data.rows import (
    DELIMITERS,
    bases,
    below,
    header_of,
    is_number,
    read_text,
    records,
    refused,
    shown_header,
)  # fmt: skip
from calotype.data.source import ALIASES, Decoding, Fractions, ImageSource
from calotype.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from calotype.types import IntArray

COLUMNS = {"path": "path", "label": "label", "split": "split"}
SPLITS = ("train", "val", "test")


@dataclass(eq=False)
class ImageTable:
    """The images that the CSV file `table`, below `root` or anywhere, lists under a header.

    `columns` maps path, label and split to the names of their columns, where those are others; a table without the
    last has the splits that `val_fraction` and `test_fraction` draw by `split_seed`. `delimiter` is found out where it
    isn't said. `separator` makes the labels several. `class_names` are the classes in the order of their numbers, by
    default the labels' own, sorted; labels that are all numbers need none. `mode`, `background`, `max_pixels` as in
    `images.decode`. Raises DataError naming the lines that are wrong.
    """

    root: str | Path
    table: str | Path = "images.csv"
    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    separator: str | None = None
    class_names: Sequence[str] | None = None
    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS
    val_fraction: float = 0.0
    test_fraction: float = 0.0
    split_seed: int = 0

    def __post_init__(self) -> None:
        odd = sorted(self.columns.keys() - COLUMNS.keys())
        if odd:
            raise ConfigError(f"{odd[0]!r} is none of {', '.join(COLUMNS)}", key="data.columns")
        if len(set(self.class_names or ())) != len(self.class_names or ()):
            raise ConfigError(f"{list(self.class_names or ())} names a class twice", key="data.class_names")
        top = Path(self.root).expanduser()
        file = top / Path(self.table).expanduser()
        self._decoding = Decoding(self.mode, self.background, self.max_pixels)
        fractions = Fractions(self.val_fraction, self.test_fraction, self.split_seed)
        text, digest = read_text(file)
        rows = _Rows(file, top, self)
        rows.read(text)
        self.classes: Sequence[str] = rows.classes
        self._containers = {file: digest}
        index = rows.packer.index(top.resolve(), self.classes)
        order = index.labels  # as packed: the row of each file
        self._targets = rows.targets()[order] if self.separator is not None else None
        self._index = replace(
            index, labels=np.zeros(len(index), np.int64) if self._targets is not None else rows.labels()[order]
        )
        self._dealt = self._deal(rows, order, fractions, file)
        self.splits: Sequence[str] = tuple(name for name in SPLITS if name in self._dealt)

    def _deal(self, rows: _Rows, order: IntArray, fractions: Fractions, file: Path) -> Mapping[str, IntArray]:
        if rows.splits is None:
            return fractions.deal(self._index.ids)
        if fractions.any():
            raise ConfigError(f"{file} has splits of its own; leave the fractions at 0", key="data.val_fraction")
        codes = np.array(rows.splits, np.int64)[order]
        dealt = {name: np.flatnonzero(codes == number) for number, name in enumerate(SPLITS)}
        return {name: found for name, found in dealt.items() if len(found)}

    def split(self, name: str) -> ImageSource:
        """Split `name`. Raises DataError if there is none."""
        if name not in self.splits:
            raise DataError(f"{self.table} has no split {name!r}, only {', '.join(self.splits)}")
        rows = self._dealt[name]
        return ImageSource(self._index, self._decoding, rows=rows, targets=self._targets, containers=self._containers)


class _Rows:
    """Reads the rows of a table into packed arrays. `splits` holds a number a row, if the table has that column."""

    def __init__(self, file: Path, top: Path, table: ImageTable) -> None:
        self.file, self.table = file, table
        self.bases = bases(top)
        self.packer, self.lines = Packer(), array("q")
        self.codes, self.flat, self.ends = dict[str, int](), array("q"), array("q", [0])
        self.splits: array[int] | None = None
        self.wrong: list[str] = []
        self.classes: tuple[str, ...] = ()

    def read(self, text: str) -> None:
        """Read the table. Raises DataError naming the wrong lines."""
        try:
            for line, path, label, split in self._cells(text):
                self._take(line, path, label, split)
        except csv.Error as error:
            raise DataError(f"{self.file}: no table of comma-separated values: {error}") from error
        self._find_twice()
        if not self.wrong and not self.lines:
            raise DataError(f"{self.file} lists no image")
        self._name_classes()
        if self.wrong:
            raise refused(self.file, self.wrong)

    def _cells(self, text: str) -> Iterator[tuple[int, str, str, str | None]]:
        """(line, path, label, split) of each row."""
        names = COLUMNS | dict(self.table.columns)
        head = shown_header(text)
        needed = {names["path"], names["label"]}
        found = header_of(text, self.table.delimiter or DELIMITERS, lambda header: needed <= set(header))
        if found is None:
            raise DataError(
                f"{self.file}: the header {head} has no columns {names['path']!r} and {names['label']!r}; "
                "say data.columns or data.delimiter"
            )
        delimiter, header = found
        if twice := next((name for name in names.values() if header.count(name) > 1), None):
            raise DataError(f"{self.file}: the header {head} has {twice!r} twice; rename one of them")
        if "split" in self.table.columns and names["split"] not in header:
            raise DataError(f"{self.file}: the header {head} has no column {names['split']!r}")
        places = [header.index(names[name]) if names[name] in header else None for name in COLUMNS]
        self.splits = None if places[2] is None else array("q")
        for line, cells in records(text, delimiter, len(header), self.wrong):
            path, label, split = (None if place is None else cells[place] for place in places)
            yield line, path or "", label or "", split

    def _take(self, line: int, path: str, label: str, split: str | None) -> None:
        name, reason = self._below(path)
        several = self.table.separator
        labels = [label.strip()] if several is None else [part.strip() for part in label.split(several)]
        labels = [part for part in labels if part]
        if reason is None and several is None and not labels:
            reason = "has no label"
        if reason is None and split is not None and split.strip() not in ALIASES:
            reason = f"its split {split!r} is none of {', '.join(SPLITS)}"
        if reason is not None:
            self.wrong.append(f"line {line}: {reason}")
            return
        self.packer.add(name, len(self.lines))
        self.lines.append(line)
        self.flat.extend(self.codes.setdefault(part, len(self.codes)) for part in labels)
        self.ends.append(len(self.flat))
        if self.splits is not None and split is not None:
            self.splits.append(SPLITS.index(ALIASES[split.strip()]))

    def _below(self, path: str) -> tuple[bytes, str | None]:
        """A path as it counts from the root, or why not."""
        if not path:
            return b"", "has no path"
        name = below(self.bases, path)
        if not name:
            return b"", f"{path!r} leads out of the data set's root"
        if not os.path.isfile(os.path.join(self.bases[0], name)):  # noqa: PTH113, PTH118 - plain text for a million rows
            return b"", f"{path!r} is no file"
        return os.fsencode(name), None

    def _find_twice(self) -> None:
        ids = np.array(self.packer.ids, np.int64)
        order = np.argsort(ids, kind="stable")
        for place in np.flatnonzero(ids[order][1:] == ids[order][:-1]).tolist():
            first, second = (self.lines[int(order[place + step])] for step in (0, 1))
            self.wrong.append(f"line {second}: names the file of line {first} again")

    def _name_classes(self) -> None:
        """Name the classes and number the labels. Labels that are no class are wrong rows."""
        given, labels = self.table.class_names, list(self.codes)
        if given is not None:
            self.classes = tuple(given)
        elif labels and all(is_number(label) for label in labels):
            self.classes = tuple(str(number) for number in range(1 + max(int(label) for label in labels)))
        else:
            self.classes = tuple(sorted(labels))
        place = {name: number for number, name in enumerate(self.classes)}
        number = {str(number): number for number in range(len(self.classes))}
        plain = (str(int(label)) if is_number(label) else label for label in labels)  # 007 is class 7
        found = (place.get(label, number.get(digits, -1)) for label, digits in zip(labels, plain, strict=True))
        of = np.array([*found], np.int64)
        self.numbers = of[np.array(self.flat, np.int64)]
        for place_ in np.flatnonzero(self.numbers < 0).tolist():
            row = int(np.searchsorted(np.array(self.ends), place_, side="right")) - 1
            self.wrong.append(f"line {self.lines[row]}: {labels[self.flat[place_]]!r} is none of the class_names")

    def labels(self) -> IntArray:
        """The class of each row, int64 (n,)."""
        return self.numbers

    def targets(self) -> npt.NDArray[np.uint8]:
        """Which classes each row has, (n, classes) of 0 and 1."""
        ends = np.array(self.ends, np.int64)
        found = np.zeros((len(self.lines), len(self.classes)), np.uint8)
        found[np.repeat(np.arange(len(self.lines)), np.diff(ends)), self.numbers] = 1
        return found
