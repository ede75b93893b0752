"""Writes images with boxes in the layout of COCO, VOC, Ultralytics (YOLO) or as a table, from any boxed sources.

Images are copied byte for byte, under the names that `new_names` finds. What a layout can't hold is counted. Unusual:
crowds are left out of YOLO's layout and difficult in VOC's, since as plain boxes they would teach that a hundred people
are one; a box with a flaw is left out everywhere.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calotype import yaml_tree
from calotype.data.annotations import Annotations
from calotype.data.boxed import BoxedSource
from calotype.data.class_names import is_line
from calotype.data.images import size_of
from calotype.data.index import file_id
from calotype.data.layouts import voc_annotation, write_classes, write_lists
from calotype.data.new_names import new_names
from calotype.data.voc_boxes import BACKGROUND
from calotype.errors import DataError
from calotype.types import CROWD, DIFFICULT, TRUNCATED

LARGEST_ID = 1 << 53
"""Ids from here on are no whole numbers to who reads JSON's as floating point; they are counted anew."""
EXACT = 1e-6
"""Pixels by which what is whole may be off it, from parts of an image."""
FLAWED = "boxes with a flaw left out; data check names them"


@dataclass(frozen=True, slots=True)
class Box:
    """A box without a flaw."""

    corners: tuple[float, float, float, float]
    label: int
    flags: int
    area: float
    number: int

    @property
    def own_area(self) -> float:
        """Of the box itself, whatever the object's is."""
        x_min, y_min, x_max, y_max = self.corners
        return (x_max - x_min) * (y_max - y_min)


@dataclass(frozen=True, slots=True)
class Item:
    """An image of a split: the name of its file in the new folder, its id, height and width, its boxes."""

    split: str
    name: str
    number: int
    size: tuple[int, int]
    boxes: Sequence[Box]

    @property
    def stem(self) -> str:
        """Its name without suffix."""
        return os.path.splitext(self.name)[0]  # noqa: PTH122 - of text


@dataclass(frozen=True, slots=True)
class Converted:
    """The data group that reads what was written, and what wasn't kept: how many of what, in words."""

    group: str
    lost: Mapping[str, int]


@dataclass
class Layout(ABC):
    """Writes items into a folder. `keep_ids`, `keep_numbers`: whether those of images and boxes can be kept.

    `group` is the data group that reads it, `flags` and `areas` what it can hold, `suffixed` whether it finds images by
    their suffix.
    """

    folder: Path
    classes: Sequence[str]
    keep_ids: bool
    keep_numbers: bool
    lost: Counter[str] = field(default_factory=Counter)
    images: int = 0
    boxes: int = 0

    group = ""
    flags = 0
    areas = False
    suffixed = False

    def __post_init__(self) -> None:
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Make what is needed before the first item."""

    @abstractmethod
    def place(self, item: Item) -> str:
        """The path of an image's copy below the folder."""

    @abstractmethod
    def take(self, item: Item) -> None:
        """Write an item's boxes, or remember them."""

    @abstractmethod
    def finish(self) -> None:
        """Write what there is of all items together."""

    def add(self, item: Item, content: bytes) -> None:
        """Write an image and its boxes."""
        path = self.folder / self.place(item)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        for name, flag in (("crowd", CROWD), ("difficult", DIFFICULT), ("truncated", TRUNCATED)):
            if not self.flags & flag:
                self._lose(f"boxes lose their mark {name}", sum(bool(box.flags & flag) for box in item.boxes))
        if not self.areas:
            odd = (abs(box.area - box.own_area) > 1e-6 * max(box.own_area, 1) for box in item.boxes)
            self._lose("boxes lose the area of their object", sum(odd))
        self.images += 1
        self.take(item)
        self.boxes += len(item.boxes)

    def _lose(self, what: str, count: int) -> None:
        if count:
            self.lost[what] += count


class _COCO(Layout):
    """`train2017` and so on with annotations/instances_train2017.json; categories count from 1."""

    group, flags, areas = "coco", CROWD, True

    def begin(self) -> None:
        self.told: dict[str, tuple[list[str], list[str]]] = {}

    def place(self, item: Item) -> str:
        return f"{item.split}2017/{item.name}"

    def take(self, item: Item) -> None:
        images, annotations = self.told.setdefault(item.split, ([], []))
        id_ = item.number if self.keep_ids else self.images
        images.append(json.dumps({"id": id_, "file_name": item.name, "width": item.size[1], "height": item.size[0]}))
        for number, box in enumerate(item.boxes, self.boxes + 1):
            x, y, x_max, y_max = box.corners
            about: dict[str, Any] = {"id": box.number if self.keep_numbers else number, "image_id": id_}
            about |= {"category_id": box.label + 1, "bbox": [x, y, x_max - x, y_max - y], "area": box.area}
            annotations.append(json.dumps(about | {"iscrowd": int(bool(box.flags & CROWD))}))

    def finish(self) -> None:
        (self.folder / "annotations").mkdir()
        categories = [
            json.dumps({"id": number, "name": name, "supercategory": ""}) for number, name in enumerate(self.classes, 1)
        ]
        for split, (images, boxes) in self.told.items():
            parts = {"images": images, "annotations": boxes, "categories": categories}
            lists = ", ".join(f'"{name}": [{", ".join(items)}]' for name, items in parts.items())
            text = f'{{"info": {{}}, "licenses": [], {lists}}}'
            (self.folder / "annotations" / f"instances_{split}2017.json").write_text(text)


class _VOC(Layout):
    """JPEGImages, Annotations, ImageSets/Main and classes.txt; whole pixels."""

    group, flags, suffixed = "voc_boxes", CROWD | DIFFICULT | TRUNCATED, True

    def begin(self) -> None:
        _check_lines(self.classes)
        if self.classes[0] == BACKGROUND:
            raise DataError(
                f"the class {BACKGROUND!r} would be lost: in VOC's layout the first of that name is that of masks; "
                "rename it, or write another layout"
            )
        self.lists: dict[str, list[str]] = {}
        (self.folder / "Annotations").mkdir()

    def place(self, item: Item) -> str:
        return f"JPEGImages/{item.name}"

    def take(self, item: Item) -> None:
        self.lists.setdefault(item.split, []).append(item.stem)
        objects = []
        for box in item.boxes:
            whole = [int(np.floor(value + 0.5)) for value in box.corners]
            self._lose("boxes rounded to whole pixels", int(not np.allclose(whole, box.corners, 0, EXACT)))
            thin = whole[2] - whole[0] < 2 or whole[3] - whole[1] < 2
            self._lose("boxes a pixel wide or high, which read as without area", int(thin))
            crowd = DIFFICULT if box.flags & CROWD else 0
            self._lose("crowds kept as difficult", int(bool(crowd)))
            objects.append((self.classes[box.label], whole, box.flags | crowd))
        text = voc_annotation(item.name, item.size, objects)
        (self.folder / "Annotations" / f"{item.stem}.xml").write_text(text, encoding="utf-8")

    def finish(self) -> None:
        write_lists(self.folder / "ImageSets" / "Main", self.lists)
        write_classes(self.folder, self.classes)


class _YOLO(Layout):
    """images/<split>, labels/<split> and data.yaml; parts of the image, to 12 digits."""

    group, flags, suffixed = "yolo", CROWD, True

    def begin(self) -> None:
        self.splits: dict[str, str] = {}

    def place(self, item: Item) -> str:
        return f"images/{item.split}/{item.name}"

    def take(self, item: Item) -> None:
        self.splits[item.split] = f"images/{item.split}"
        height, width = item.size
        scale = np.array([width, height] * 2, np.float64)
        plain = [box for box in item.boxes if not box.flags & CROWD]
        self._lose("crowds left out", len(item.boxes) - len(plain))
        lines = []
        for box in plain:
            inside = np.clip(box.corners, 0, scale)
            self._lose("boxes cut at the edge of their image", int((inside != box.corners).any()))
            x_min, y_min, x_max, y_max = (inside / scale).tolist()
            values = ((x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min, y_max - y_min)
            lines.append(f"{box.label} {' '.join(f'{value:.12g}' for value in values)}\n")
        labels = self.folder / "labels" / item.split / f"{item.stem}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(lines))

    def finish(self) -> None:
        tree = {**self.splits, "nc": len(self.classes), "names": list(self.classes)}
        (self.folder / "data.yaml").write_text(yaml_tree.dump(tree), encoding="utf-8")


class _Table(Layout):
    """images/<split>, classes.txt and boxes.csv, which holds all that there is."""

    group, flags, areas = "box_table", CROWD | DIFFICULT | TRUNCATED, True
    COLUMNS = ("image", "split", "width", "height", "class", "x_min", "y_min", "x_max", "y_max", "area")

    def begin(self) -> None:
        _check_lines(self.classes)
        self.text = io.StringIO()
        self.rows = csv.writer(self.text, lineterminator="\n")
        self.marks = {"crowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}
        self.rows.writerow([*self.COLUMNS, *self.marks, *(["image_id"] if self.keep_ids else [])])

    def place(self, item: Item) -> str:
        return f"images/{item.split}/{item.name}"

    def take(self, item: Item) -> None:
        about = [self.place(item), item.split, item.size[1], item.size[0]]
        number = [item.number] if self.keep_ids else []
        for box in item.boxes:
            flags = [int(bool(box.flags & flag)) for flag in self.marks.values()]
            self.rows.writerow([*about, self.classes[box.label], *box.corners, box.area, *flags, *number])
        if not item.boxes:
            self.rows.writerow([*about, *([""] * 6), *([""] * len(self.marks)), *number])

    def finish(self) -> None:
        (self.folder / "boxes.csv").write_text(self.text.getvalue(), encoding="utf-8")
        write_classes(self.folder, self.classes)


def _check_lines(classes: Sequence[str]) -> None:
    """Raises DataError naming a class that a classes.txt can't hold."""
    if odd := [name for name in classes if not is_line(name)]:
        raise DataError(f"the class {odd[0]!r} is no line of a classes.txt; rename it, or write coco or yolo")


LAYOUTS: Mapping[str, type[Layout]] = {"coco": _COCO, "voc": _VOC, "yolo": _YOLO, "csv": _Table}


def convert(
    folder: Path,
    layout: str,
    splits: Mapping[str, BoxedSource],
    classes: Sequence[str],
    seen: Callable[[int], None] = lambda _: None,
) -> Converted:
    """Write all splits into an empty folder in one of LAYOUTS, with images that training leaves out for want of a box;
    `seen` is told of each image that is done.

    Raises DataError naming an image that can't be read, or is of another size than its annotation says.
    """
    sources = [*splits.values()]
    writer = LAYOUTS[layout](folder, classes, _ids_can_be_kept(sources), _numbers_can_be_kept(sources))
    names = new_names(_names(sources), writer.suffixed)
    own_ids = layout in ("voc", "yolo") or not writer.keep_ids
    for split, source in splits.items():
        for row in sorted(source.known.tolist(), key=source.annotations.images.name):
            item, content = _item(source.annotations, row, split, names)
            writer.add(item, content)
            found = source.annotations
            flawed = int((found.flaws[found.of(row)] != 0).sum())
            told = {
                FLAWED: flawed,
                "images lose their id": int(own_ids and item.number != file_id(found.images.name(row).encode())),
            }
            writer.lost.update({what: count for what, count in told.items() if count})
            seen(1)
    writer.finish()
    return Converted(writer.group, {what: writer.lost[what] for what in sorted(writer.lost)})


def _ids_can_be_kept(sources: Sequence[BoxedSource]) -> bool:
    """Whether all ids of images are small, and none is that of two."""
    ids = np.concatenate([source.annotations.images.ids[source.known] for source in sources])
    return bool(len(ids)) and ids.max() < LARGEST_ID and len(np.unique(ids)) == len(ids)


def _numbers_can_be_kept(sources: Sequence[BoxedSource]) -> bool:
    """Whether the numbers of boxes are ids to COCO's tools, for which 0 is none, and no number is that of two."""
    found = {id(source.annotations): source.annotations for source in sources}
    numbers = np.concatenate([annotations.numbers[annotations.flaws == 0] for annotations in found.values()])
    return bool(((numbers > 0) & (numbers < LARGEST_ID)).all()) and len(np.unique(numbers)) == len(numbers)


def _names(sources: Sequence[BoxedSource]) -> dict[str, str]:
    """The path of each image with its name. Raises DataError for an image that isn't read."""
    found = dict[str, str]()
    for source in sources:
        annotations, images = source.annotations, source.annotations.images
        for row in source.known.tolist():
            if (reason := annotations.refused(row)) is not None:
                raise DataError(f"{images.path(row)}: {reason}")
            found[str(images.path(row))] = images.name(row)
    return found


def _item(annotations: Annotations, row: int, split: str, names: Mapping[str, str]) -> tuple[Item, bytes]:
    """An image with its boxes, and its file's bytes."""
    path = annotations.images.path(row)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}); bring it back, or take it out") from error
    size, told = size_of(path), annotations.sizes[row].tolist()
    if size is None:
        raise DataError(f"{path}: is no image whose size can be read; mend it, or take it out")
    if all(told) and [*size] != told:
        sizes = [f"{width}x{height}" for height, width in (size, told)]
        raise DataError(f"{path}: has {sizes[0]} pixels, and {sizes[1]} by its annotation; mend it, or take it out")
    of = annotations.of(row)
    boxes = [_box(annotations, box) for box in range(of.start, of.stop) if not annotations.flaws[box]]
    return Item(split, names[str(path)], int(annotations.images.ids[row]), size, boxes), content


def _box(annotations: Annotations, box: int) -> Box:
    x_min, y_min, x_max, y_max = annotations.boxes[box].tolist()
    label, flags = int(annotations.labels[box]), int(annotations.flags[box])
    area = float(annotations.areas[box])
    area = area if math.isfinite(area) else (x_max - x_min) * (y_max - y_min)
    return Box((x_min, y_min, x_max, y_max), label, flags, area, int(annotations.numbers[box]))
