"""Reads a file of COCO's annotations, `instances_*.json`: images with their boxes, in packed arrays.

What is missing in a box or of another type than it should be makes a flaw of the box, where the rest can be used; of an
image or a category it is an error. What was read is kept, so that a file that didn't change is opened in milliseconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from calotype.data.annotations import ODD_CROWD, Annotations, keep, kept
from calotype.data.collector import Collector
from calotype.data.index import SETTLED
from calotype.data.json_stream import Element, JsonLists
from calotype.errors import DataError
from calotype.files import cache_folder
from calotype.types import CROWD

LARGEST = 2**63 - 1
NO_ID = -LARGEST - 1
MOST_CLASSES = 2**15 - 1
LARGEST_NUMBER = 1e300
NEITHER = -1
"""An iscrowd that is neither 0 nor 1."""
_LARGEST_SIDE = 2**31 - 1
_NOWHERE = (np.nan,) * 4

Id: TypeAlias = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]


class Image(msgspec.Struct, gc=False):
    """What is needed of an image."""

    id: Id | None = None
    file_name: str | None = None
    height: Id | None = None
    width: Id | None = None


class Box(msgspec.Struct, gc=False):
    """What is needed of an annotation; `bbox` is x, y, width and height."""

    id: Id | None = None
    image_id: Id | None = None
    category_id: Id | None = None
    bbox: tuple[float, float, float, float] | None = None
    area: float | None = None
    iscrowd: bool | Id | None = None


class Category(msgspec.Struct, gc=False):
    """A class."""

    id: Id | None = None
    name: str | None = None


class Outline(msgspec.Struct, gc=False):
    """An annotation's region, as it stands in the file."""

    id: Id | None = None
    image_id: Id | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"")


@dataclass(frozen=True)
class CocoFile:
    """A file that was read: its images and boxes with the place of each box's category in `names`, the file's ids of
    those, and the sha256 of the file.
    """

    annotations: Annotations
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    sha256: str


def read(file: Path, root: Path, below: str = "") -> CocoFile:
    """The annotations in `file` of the images in the folder `root`/`below`; names count from `root`.

    Raises DataError naming the file and what is wrong, with its byte or its element.
    """
    key = xxhash.xxh3_64_hexdigest(f"{file.absolute()}\0{root}\0{below}".encode("utf-8", "surrogateescape"))
    cache = cache_folder() / "annotations" / f"{key}.safetensors"
    names = {"file": str(file.absolute()), "root": str(root), "below": below}
    try:
        about = file.stat()
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror})") from error
    now = {**names, "size": about.st_size, "mtime_ns": about.st_mtime_ns}
    if (before := kept(cache)) is not None and before[1].items() >= now.items():
        return _of(*before)
    started, reading = time.time(), _Reading(file, root, below)
    annotations, told = reading.run()
    told |= {**names, "size": reading.lists.about[0], "mtime_ns": reading.lists.about[1]}
    if told["mtime_ns"] / 1e9 < started - SETTLED:
        annotations = keep(cache, annotations, told)
    return _of(annotations, told)


def _of(annotations: Annotations, told: Mapping[str, Any]) -> CocoFile:
    return CocoFile(annotations, tuple(told["names"]), tuple(told["category_ids"]), told["sha256"])


class _Reading:
    """Reads a file once, from its first byte to its last."""

    def __init__(self, file: Path, root: Path, below: str) -> None:
        self.file, self.below = file, f"{below}/" if below else ""
        self.collector, self.categories = Collector(root), dict[int, str]()
        self.lists = JsonLists(file, {"images": Image, "annotations": Box, "categories": Category})

    def run(self) -> tuple[Annotations, dict[str, Any]]:
        """The annotations, and what else is known of the file."""
        take = {"images": self._images, "annotations": self._boxes, "categories": self._categories}
        for key, number, items in self.lists.windows():
            take[key](number, items)
        if not self.categories:
            raise DataError(f"{self.file}: has no category in 'categories'")
        if len(self.categories) > MOST_CLASSES:
            raise DataError(f"{self.file}: has {len(self.categories)} categories; {MOST_CLASSES} are the most")
        ids, names = [*self.categories], [*self.categories.values()]
        found = self.collector.packed(names, ids, numbered=True)
        return found, {"names": names, "category_ids": ids, "sha256": self.lists.sha256}

    def _images(self, first: int, items: Sequence[Element]) -> None:
        for place, item in enumerate(items, first):
            image = item if isinstance(item, Image) else _image(item)
            if image.id is None:
                raise DataError(f"{self.file}: element {place} of 'images' has no id, a whole number")
            name = image.file_name or ""
            below = "" if name.startswith("/") or not name else self.below
            height, width = (min(max(side or 0, 0), _LARGEST_SIDE) for side in (image.height, image.width))
            self.collector.add_image(f"{below}{name}", image.id, height, width)

    def _categories(self, first: int, items: Sequence[Element]) -> None:
        for place, item in enumerate(items, first):
            found = item if isinstance(item, Category) else _category(item)
            if found.id is None or not found.name:
                raise DataError(f"{self.file}: element {place} of 'categories' has no id or no name")
            if found.id in self.categories or found.name in self.categories.values():
                raise DataError(f"{self.file}: 'categories' has the id {found.id} or the name {found.name!r} twice")
            self.categories[found.id] = found.name

    def _boxes(self, first: int, items: Sequence[Element]) -> None:
        boxes = [item if isinstance(item, Box) else _box(item) for item in items]
        numbers = [-1 - place if box.id is None else box.id for place, box in enumerate(boxes, first)]
        images = np.array([NO_ID if box.image_id is None else box.image_id for box in boxes], np.int64)
        corners = np.array([box.bbox or _NOWHERE for box in boxes], np.float64)
        with np.errstate(all="ignore"):
            corners[:, 2:] += corners[:, :2]
        crowd = np.array([box.iscrowd or 0 for box in boxes], np.int64)
        about: dict[str, npt.NDArray[Any]] = {
            "numbers": np.array(numbers, np.int64),
            "areas": np.array([box.area for box in boxes], np.float64),
            "flags": np.where(crowd == 1, CROWD, 0),
            "flaws": np.where((crowd == 0) | (crowd == 1), 0, ODD_CROWD),
        }
        labels = np.array([NO_ID if box.category_id is None else box.category_id for box in boxes], np.int64)
        lost = images == NO_ID
        if lost.any():
            self.collector.stray += [f"{_called(numbers[place])} names no image" for place in np.flatnonzero(lost)]
            about = {name: column[~lost] for name, column in about.items()}
        self.collector.add_boxes(images[~lost], corners[~lost], labels[~lost], about)


def thin(file: Path) -> Iterator[tuple[int, int]]:
    """Image and number of each annotation with a polygon of fewer than three points."""
    for _, first, items in JsonLists(file, {"annotations": Outline}).windows():
        for place, item in enumerate(items, first):
            if isinstance(item, Outline) and item.image_id is not None and _is_thin(bytes(item.segmentation)):
                yield item.image_id, -1 - place if item.id is None else item.id


def _is_thin(region: bytes) -> bool:
    """Whether a list of polygons has one of fewer than six coordinates; a run-length code has none."""
    if not region.startswith(b"["):
        return False
    polygons = (part.partition(b"[")[2] for part in region[1:].split(b"]") if b"[" in part)
    return any(polygon.count(b",") < 5 for polygon in polygons)


def _called(number: int) -> str:
    return f"annotation {number}" if number >= 0 else f"the annotation at place {-1 - number}, without an id,"


def _image(fields: Mapping[str, Any]) -> Image:
    name = fields["file_name"]
    sides = (_whole(fields[key]) for key in ("height", "width"))
    return Image(_whole(fields["id"]), name if isinstance(name, str) else None, *sides)


def _category(fields: Mapping[str, Any]) -> Category:
    return Category(_whole(fields["id"]), fields["name"] if isinstance(fields["name"], str) else None)


def _box(fields: Mapping[str, Any]) -> Box:
    place, area, crowd = (fields[name] for name in ("bbox", "area", "iscrowd"))
    numbers = place if isinstance(place, list) and len(place) == 4 and all(map(_is_number, place)) else _NOWHERE
    return Box(
        _whole(fields["id"]),
        _whole(fields["image_id"]),
        _whole(fields["category_id"]),
        (float(numbers[0]), float(numbers[1]), float(numbers[2]), float(numbers[3])),
        None if area is None else float(area) if _is_number(area) else math.inf,
        crowd == 1 if crowd in (None, 0, 1) else NEITHER,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def _whole(value: Any) -> int | None:
    """A whole number, also one that is written with a point; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST else None
