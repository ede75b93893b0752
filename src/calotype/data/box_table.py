"""A table of boxes: a CSV file with a row for each, which names its image, its class and its corners.

An image without boxes is a row without class and numbers. Paths count from `root`, as in a table of images; wrong rows
are named by their line. Sizes that no column tells are read from the images' headers. Ids are those that ImageFolder
gives the same files, or those of a column.
"""

from __future__ import annotations

import csv
import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from calotype.data import class_names
from calotype.data.annotations import Annotations, Floats, required
from calotype.data.box_check import texts_of
from calotype.data.boxed import BoxedSource, Training
from calotype.data.collector import UNREADABLE, Collector
from calotype.data.images import MAX_PIXELS, Background, Mode, size_of
from calotype.data.index import file_id
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
)
from calotype.data.source import ALIASES, Decoding, Fractions
from calotype.errors import ConfigError, DataError
from calotype.types import CROWD, DIFFICULT, TRUNCATED

if TYPE_CHECKING:
    from calotype.types import IntArray

Format: TypeAlias = Literal["xyxy", "xywh", "cxcywh"]
SPLITS = ("train", "val", "test")
SIDES = ("box_width", "bbox_width", "box_w", "bbox_w", "w"), ("box_height", "bbox_height", "box_h", "bbox_h", "h")
LEFT, TOP = ("x_min", "xmin", "x1", "left"), ("y_min", "ymin", "y1", "top")
CORNERS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "xyxy": {
        "x_min": LEFT,
        "y_min": TOP,
        "x_max": ("x_max", "xmax", "x2", "right"),
        "y_max": ("y_max", "ymax", "y2", "bottom"),
    },
    "xywh": {"x": ("x", *LEFT), "y": ("y", *TOP), "w": (*SIDES[0], "width"), "h": (*SIDES[1], "height")},
    "cxcywh": {
        "cx": ("cx", "x_center", "x_centre", "xc", "x"),
        "cy": ("cy", "y_center", "y_centre", "yc", "y"),
        "w": (*SIDES[0], "width"),
        "h": (*SIDES[1], "height"),
    },
}
"""For each format its four columns, each with the names by which it is found."""
NEEDED: Mapping[str, Sequence[str]] = {
    "image": ("image", "path", "image_path", "file", "filename", "file_name", "file_path"),
    "class": ("class", "label", "class_name", "category", "name"),
}
FLAGS = {"crowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}
MAYBE: Mapping[str, Sequence[str]] = {
    "split": ("split", "subset"),
    "id": ("image_id",),
    "width": ("image_width", "img_width", "width"),
    "height": ("image_height", "img_height", "height"),
    "area": ("area",),
    "crowd": ("crowd", "iscrowd"),
    "difficult": ("difficult",),
    "truncated": ("truncated",),
}
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no", "")


@dataclass(eq=False)
class BoxTable:
    """The boxes that the CSV file `table`, below `root` or anywhere, lists under a header.

    Columns are found by their usual names (image, class, x_min, ...; image_id, width, height, split, area, crowd,
    difficult, truncated where they are there); `columns` maps them to other names, or to null for none. `format` is
    xyxy, xywh (left, top, width, height) or cxcywh (of the centre), in pixels, or `normalised` to parts of the image.
    `classes` are the names, by default the lines of `root`/classes.txt, without it those in the table, sorted, or
    numbers where it has numbers. Without a column split, `val_fraction` and `test_fraction` are drawn by `split_seed`.
    `crowd`, `difficult`: whether those are trained on. `mode`, `background`, `max_pixels` as in `images.decode`. Raises
    DataError naming the lines that are wrong.
    """

    root: str | Path
    table: str | Path = "boxes.csv"
    columns: Mapping[str, str | None] = field(default_factory=dict)
    delimiter: str | None = None
    format: Format = "xyxy"
    normalised: bool = False
    classes: Sequence[str] | None = None
    crowd: bool = False
    difficult: bool = True
    mode: Mode = "RGB"
    background: Background = 0
    max_pixels: int = MAX_PIXELS
    val_fraction: float = 0.0
    test_fraction: float = 0.0
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.format not in CORNERS:
            raise ConfigError(f"{self.format!r} is none of {', '.join(CORNERS)}", key="data.format")
        known = [*NEEDED, *CORNERS[self.format], *MAYBE]
        if odd := sorted(set(self.columns) - set(known)):
            raise ConfigError(f"{odd[0]!r} is none of {', '.join(known)}", key="data.columns")
        top = Path(self.root).expanduser()
        file = top / Path(self.table).expanduser()
        self.decoding = Decoding(self.mode, self.background, self.max_pixels)
        fractions = Fractions(self.val_fraction, self.test_fraction, self.split_seed)
        text, digest = read_text(file)
        rows = _Rows(file, top, self)
        rows.read(text)
        self.classes = rows.named(self.classes)
        self.annotations = required(rows.annotations(self.classes), file)
        self._containers = {file: digest}
        self._dealt = rows.dealt(self.annotations, fractions)
        self.splits: Sequence[str] = tuple(name for name in SPLITS if name in self._dealt)

    def split(self, name: str) -> BoxedSource:
        """Split `name`. Raises DataError if there is none."""
        if name not in self.splits:
            raise DataError(f"{self.table} has no split {name!r}, only {', '.join(self.splits)}")
        training = Training(self.crowd, self.difficult)
        return BoxedSource(self.annotations, self.decoding, self._dealt[name], training, self._containers)

    def check(self) -> dict[str, list[str]]:
        """What `data check` can't see from the samples: boxes with a flaw."""
        return texts_of(self.annotations)


class _Rows:
    """Reads the rows of a table: what there is of each image once, and of each box, in arrays."""

    def __init__(self, file: Path, top: Path, table: BoxTable) -> None:
        self.file, self.top, self.table, self.bases = file, top, table, bases(top)
        self.wrong: list[str] = []
        self.images: dict[str, int] = {}
        self.taken: set[int] = set()
        self.ids, self.splits, self.sizes = array("q"), array("q"), list[tuple[int, int]]()
        self.places: dict[str, int] = {}
        self.owners, self.lines, self.codes = array("q"), array("q"), array("q")
        self.flags, self.values, self.areas = array("B"), array("d"), array("d")
        self.names: dict[str, int] = {}

    def read(self, text: str) -> None:
        """Read the table. Raises DataError naming the wrong lines."""
        delimiter, header = self._header(text)
        try:
            for line, cells in records(text, delimiter, len(header), self.wrong):
                told = {name: cells[place].strip() for name, place in self.places.items()}
                if (reason := self._take(line, told)) is not None:
                    self.wrong.append(f"line {line}: {reason}")
        except csv.Error as error:
            raise DataError(f"{self.file}: no table of comma-separated values: {error}") from error
        if self.wrong:
            raise refused(self.file, self.wrong)

    def _header(self, text: str) -> tuple[str, list[str]]:
        """Delimiter and header; where each column is goes to `places`."""
        needed = {**NEEDED, **CORNERS[self.table.format]}
        found = header_of(
            text, self.table.delimiter or DELIMITERS, lambda header: needed.keys() <= self._found(header, needed).keys()
        )
        if found is None:
            shown = shown_header(text)
            raise DataError(
                f"{self.file}: the header {shown} has no columns {', '.join(needed)}; say data.columns, data.format or "
                "data.delimiter"
            )
        self.places = self._found(found[1], needed)
        taken = set(self.places.values())
        for name, place in self._found(found[1], MAYBE).items():
            if place not in taken:
                self.places[name] = place
        for name, column in self.table.columns.items():
            if column is not None and name not in self.places:
                raise DataError(f"{self.file}: the header {shown_header(text)} has no column {column!r}")
        return found

    def _found(self, header: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """The places of columns: of those that the config names, else of the first usual name that there is."""
        lower, found = [name.lower() for name in header], dict[str, int]()
        for name, usual in wanted.items():
            own = self.table.columns.get(name, "")
            if own and own in header:
                found[name] = header.index(own)
            elif own == "" and (there := next((each for each in usual if each in lower), None)) is not None:
                found[name] = lower.index(there)
        return found

    def _take(self, line: int, told: Mapping[str, str]) -> str | None:
        """Take a row; why it is wrong."""
        image = self._image(told)
        if isinstance(image, str):
            return image
        cells = [told[name] for name in CORNERS[self.table.format]]
        if not told["class"] and not any(cells):
            return None
        odd = next((name for name in FLAGS if told.get(name, "").lower() not in TRUE + FALSE), None)
        if odd is not None:
            return f"its {odd} {told[odd]!r} is neither 0 nor 1"
        self.owners.append(image)
        self.lines.append(line)
        self.codes.append(self.names.setdefault(told["class"], len(self.names)))
        self.flags.append(sum(flag for name, flag in FLAGS.items() if told.get(name, "").lower() in TRUE))
        self.values.extend(map(_number, cells))
        area = told.get("area", "")
        self.areas.append(_number(area, math.inf) if area else math.nan)
        return None

    def _image(self, told: Mapping[str, str]) -> int | str:
        """The number of a row's image, which is added where it is new; or why it is wrong."""
        split = ALIASES.get(told["split"]) if "split" in told else "train"
        if split is None:
            return f"its split {told['split']!r} is none of {', '.join(SPLITS)}"
        name = below(self.bases, told["image"]) if told["image"] else ""
        if not name:
            return f"{told['image']!r} leads out of the data set's root" if told["image"] else "has no image"
        given = told.get("id", "")
        if given and not (given.isascii() and given.isdigit() and len(given) < 19):
            return f"its image_id {given!r} is no number; data.columns={{id: null}} passes it over"
        number = int(given) if given else file_id(os.fsencode(name))
        sides = [_number(told.get(side, "")) for side in ("height", "width")]
        size = (int(sides[0]), int(sides[1])) if all(0 < side < 1 << 31 for side in sides) else (0, 0)
        known = self.images.get(name)
        if known is not None:
            if (self.ids[known], SPLITS[self.splits[known]], self.sizes[known]) == (number, split, size):
                return known
            return f"{name!r} has another split, id or size in a row above"
        if not (self.top / name).is_file():
            return f"{told['image']!r} is no file"
        if number in self.taken:
            return f"its image_id {number} is that of another image"
        self.taken.add(number)
        self.images[name] = len(self.ids)
        self.ids.append(number)
        self.splits.append(SPLITS.index(split))
        self.sizes.append(size)
        return self.images[name]

    def named(self, given: Sequence[str] | None) -> tuple[str, ...]:
        """The classes."""
        names = [name for name in self.names if name]
        if given is not None:
            return class_names.given(given)
        if (self.top / "classes.txt").is_file():
            return class_names.lines(self.top / "classes.txt")
        if names and all(map(is_number, names)):
            return class_names.told([str(number) for number in range(1 + max(map(int, names)))], str(self.file))
        if not names:
            raise DataError(f"{self.file}: no row has a class; set data.classes")
        return class_names.told(sorted(names), str(self.file))

    def annotations(self, classes: Sequence[str]) -> Annotations:
        """All that was read, by ascending ids of images."""
        collector = Collector(self.top, "line")
        for (name, number), told in zip(self.images.items(), self.sizes, strict=True):
            size = told if told != (0, 0) else size_of(self.top / name) or UNREADABLE
            self.sizes[number] = size
            collector.add_image(name, self.ids[number], *size)
        owners = np.array(self.owners, np.int64)
        corners = self._corners(owners)
        labels = np.array([*self._labels(classes, collector)], np.int64)
        of = labels[np.array(self.codes, np.int64)] if len(owners) else labels[:0]
        beside: Mapping[str, array[Any]] = {"flags": self.flags, "areas": self.areas, "numbers": self.lines}
        about = {name: np.array(column) for name, column in beside.items()}
        collector.add_boxes(np.array(self.ids, np.int64)[owners], corners, of, about)
        return collector.packed(classes)

    def _corners(self, owners: IntArray) -> Floats:
        """xyxy pixels of the boxes."""
        values = np.array(self.values, np.float64).reshape(-1, 4)
        first, second = values[:, :2], values[:, 2:]
        if self.table.format == "xywh":
            second = first + second
        elif self.table.format == "cxcywh":
            first, second = first - second / 2, first + second / 2
        found: Floats = np.concatenate([first, second], 1)
        if self.table.normalised:
            sizes = np.array(self.sizes, np.float64).reshape(-1, 2)[owners]
            found = found * np.where(sizes > 0, sizes, 1)[:, [1, 0, 1, 0]]
        return found

    def _labels(self, classes: Sequence[str], collector: Collector) -> Iterator[int]:
        """The label of each name: a class by its name, or by its number."""
        place = {name: number for number, name in enumerate(classes)}
        for name in self.names:
            number = int(name) if is_number(name) else len(classes)
            yield place[name] if name in place else number if number < len(classes) else collector.unknown_label(name)

    def dealt(self, annotations: Annotations, fractions: Fractions) -> Mapping[str, IntArray]:
        """The rows of each split: those of the column, or shares."""
        if "split" not in self.places:
            return fractions.deal(annotations.images.ids)
        if fractions.any():
            raise ConfigError(f"{self.file} has splits of its own; leave the fractions at 0", key="data.val_fraction")
        of = dict(zip(self.ids, self.splits, strict=True))
        codes = np.array([of[int(number)] for number in annotations.images.ids], np.int64)
        found = {name: np.flatnonzero(codes == number) for number, name in enumerate(SPLITS)}
        return {name: rows for name, rows in found.items() if len(rows)}


def _number(text: str, none: float = math.nan) -> float:
    try:
        return float(text)
    except ValueError:
        return none
