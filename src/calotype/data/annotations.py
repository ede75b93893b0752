"""Boxes of many images in a handful of arrays, for every layout: no Python object is kept for a box or an image.

A layout's reader gives images and boxes to a `Collector` as they come. What is wrong with a box (a flaw) is kept with
it: nothing is dropped here. Boxes are xyxy pixels, counted from the image's upper left corner, in float64 as COCO's
evaluation has them.

Annotations that took long to read can be kept under CALOTYPE_CACHE: they are mapped from there when they are needed
again, and a worker that is spawned maps the same file.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from calotype.data.index import FileIndex, read_mapped
from calotype.errors import DataError
from calotype.files import TEMPORARY

if TYPE_CHECKING:
    from calotype.types import IntArray

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

FLAWS = (
    "",
    "has no area",
    "lies outside its image",
    "has a category that there isn't",
    "has no four numbers",
    "has the number of another",
    "has another number of columns than kpt_shape says",
    "has an area that is no number from 0 to 1e10",
    "has an iscrowd that is neither 0 nor 1",
    "is less than 0.1 pixels wide or high in its image",
)
"""What is wrong with a box, by the code that it is kept with; 0 is nothing."""
NO_AREA, OUTSIDE, UNKNOWN, NO_NUMBERS, DOUBLED, OTHER_COLUMNS, ODD_AREA, ODD_CROWD, THIN = range(1, len(FLAWS))
THINNEST = 0.1
"""Pixels of a box's sides below which it is thin: its logarithm would rule the loss. Source: the size_threshold of
DALI's COCOReader.
"""
LARGEST_AREA = 1e10
"""Pixels of an object; COCO's evaluation passes over all that is larger, or below 0."""

VERSION = 2
_BOXES = ("boxes", "labels", "flags", "areas", "numbers", "flaws")
_KEPT = ("sizes", "ends", "shared", *_BOXES)
_INDEX = ("names", "spans", "ids", "labels")


@dataclass(frozen=True, eq=False)
class Strays(Sequence[str]):
    """Annotations of no image, in words that are made when they are asked for: those that a layout tells, then boxes by
    their numbers and the ids of the images that they name.
    """

    told: Sequence[str] = ()
    numbers: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    owners: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.told) + len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        if place < len(self.told):
            return self.told[place]
        place -= len(self.told)
        return f"{by_number(int(self.numbers[place]))} is of image {self.owners[place]}, which there isn't"


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of images. Image r of `images`, by ascending id, has the boxes `ends[r]` to `ends[r + 1]`.

    `sizes` (n, 2) int32 are the heights and widths that the annotations tell, or the images' headers, 0 where neither
    does. Of each box: `boxes` (m, 4) xyxy, `labels` (m,) int16, -1 - k for the unknown category `unknown[k]`, `flags`,
    `areas` of the object in pixels, `numbers` that the layout calls it by, `flaws`. `stray` are annotations of no
    image, `doubled` images that there are twice, in words; `shared` are the rows of images whose id is that of one of
    those too. `called` is what a layout calls a box. `cache` and `token` are the file that all is mapped from, if there
    is one, and what tells that file from another.
    """

    images: FileIndex
    sizes: npt.NDArray[np.int32]
    ends: IntArray
    boxes: Floats
    labels: npt.NDArray[np.int16]
    flags: Bytes
    areas: Floats
    numbers: IntArray
    flaws: Bytes
    stray: Sequence[str] = ()
    doubled: Sequence[str] = ()
    unknown: Sequence[str] = ()
    called: str = "box"
    shared: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    cache: Path | None = None
    token: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[Callable[..., Annotations], tuple[Any, ...]]:
        if self.cache is not None:
            return _mapped_again, (self.cache, self.token)
        return Annotations, tuple(getattr(self, field.name) for field in fields(self))

    def of(self, row: int) -> slice:
        """The boxes of an image."""
        return slice(int(self.ends[row]), int(self.ends[row + 1]))

    def counts(self) -> IntArray:
        """(n,): boxes of each image that have no flaw."""
        sound = np.concatenate([[0], np.cumsum(self.flaws == 0)])
        found: IntArray = sound[self.ends[1:]] - sound[self.ends[:-1]]
        return found

    def flawed(self) -> Iterator[tuple[int, int]]:
        """Image and box of each flaw, as rows."""
        return self.with_rows(np.flatnonzero(self.flaws))

    def with_rows(self, boxes: IntArray) -> Iterator[tuple[int, int]]:
        """Image and box of each of some boxes, as rows."""
        rows = np.searchsorted(self.ends, boxes, "right") - 1
        return zip(rows.tolist(), boxes.tolist(), strict=True)

    def refused(self, row: int) -> str | None:
        """Why an image isn't read, whatever its file holds; None for one that is."""
        if row in self.shared:
            return f"has the id {self.images.ids[row]} of another image, so whose these boxes are can't be told"
        return unsafe(self.images.name(row))

    def refused_rows(self) -> list[int]:
        """The images that aren't read."""
        return sorted({*unsafe_rows(self.images), *self.shared.tolist()})

    def reason(self, row: int, box: int) -> str:
        """What is wrong with a box, in words that name it."""
        place = f" {corners(self.boxes[box])}" if self.flaws[box] in (NO_AREA, OUTSIDE, THIN) else ""
        sized = self.flaws[box] in (OUTSIDE, THIN) and (self.sizes[row] > 0).all()
        size = f" of {self.sizes[row, 1]}x{self.sizes[row, 0]}" if sized else ""
        told, name = FLAWS[self.flaws[box]], -1 - int(self.labels[box])
        if self.flaws[box] == UNKNOWN and 0 <= name < len(self.unknown):
            told = f"has the category {self.unknown[name]!r}, which there isn't"
        return f"{self.told(int(self.numbers[box]))}{place} {told}{size}"

    def told(self, number: int) -> str:
        """What a message calls a box by its number."""
        return by_number(number, self.called)

    def only(self, kept: npt.NDArray[np.bool_]) -> Annotations:
        """The same with some of the boxes."""
        left = np.concatenate([[0], np.cumsum(kept)])
        columns = {name: getattr(self, name)[kept] for name in _BOXES}
        return replace(self, ends=left[self.ends], **columns, cache=None, token="")

    def relabelled(self, labels: npt.NDArray[np.int16]) -> Annotations:
        """The same with other classes."""
        return replace(self, labels=labels, cache=None, token="")


def by_number(number: int, called: str = "box") -> str:
    """What a message calls a box by its number; one without an id has -1 - its place in its list."""
    return f"{called} {number}" if number >= 0 else f"{called} without an id at place {-1 - number}"


def corners(box: Floats) -> str:
    """A box in a message."""
    return f"({', '.join(f'{value:.6g}' for value in box.tolist())})"


def unsafe(name: str) -> str | None:
    """Why a file's name in an annotation isn't followed; None for one that stays below its root."""
    parts = name.replace("\\", "/").split("/")
    if not name:
        return "has no file's name"
    return "leaves the folder of images" if name.startswith("/") or ".." in parts or "\0" in name else None


def unsafe_rows(images: FileIndex) -> list[int]:
    """The images whose names aren't followed."""
    starts, stops = images.spans.T
    content = images.names.tobytes()
    if b".." not in content and b"\0" not in content:
        first = np.append(images.names, 0)[starts]
        found: list[int] = np.flatnonzero((starts == stops) | (first == ord("/"))).tolist()
        return found
    return [row for row in range(len(images)) if unsafe(images.name(row))]


def required(annotations: Annotations, where: object) -> Annotations:
    """The annotations. Raises DataError where there is no image."""
    if not len(annotations):
        raise DataError(f"{where} has no image in it")
    return annotations


def keep(cache: Path, annotations: Annotations, about: Mapping[str, Any]) -> Annotations:
    """The annotations, mapped from the file `cache`, which is written with `about`, plain values; as they are where it
    can't be.
    """
    stray = annotations.stray if isinstance(annotations.stray, Strays) else Strays(annotations.stray)
    arrays = {name: getattr(annotations, name) for name in _KEPT}
    arrays |= {f"images.{name}": getattr(annotations.images, name) for name in _INDEX}
    arrays |= {"stray.numbers": stray.numbers, "stray.owners": stray.owners}
    told = {"version": VERSION, "root": str(annotations.images.root), "classes": annotations.images.classes}
    told |= {"stray": list(stray.told), "doubled": list(annotations.doubled)}
    header = json.dumps({"about": dict(about), "token": uuid.uuid4().hex, **told})
    with suppress(OSError, safetensors.SafetensorError):  # what can't be kept is read again the next time
        cache.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        temporary = cache.with_name(f"{TEMPORARY}{cache.name}-{uuid.uuid4().hex[:8]}")
        try:
            safetensors.numpy.save_file(contiguous, temporary, {"calotype": header})  # as bytes it would be here twice
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.rename(cache)
        finally:
            temporary.unlink(missing_ok=True)
        if (found := kept(cache)) is not None:
            return found[0]
    return annotations


def kept(cache: Path) -> tuple[Annotations, dict[str, Any]] | None:
    """The annotations in a file of `keep` and what was kept about them; None for one that isn't there, isn't ours or is
    damaged.
    """
    try:
        arrays, told = read_mapped(cache)
        if told["version"] != VERSION:
            return None
        names, spans, ids, labels = (arrays[f"images.{name}"] for name in _INDEX)
        images = FileIndex(Path(told["root"]), tuple(told["classes"]), names, spans, ids, labels)
        stray = Strays(told["stray"], arrays["stray.numbers"], arrays["stray.owners"])
        columns: dict[str, Any] = {name: arrays[name] for name in _KEPT}
        found = Annotations(images, stray=stray, doubled=told["doubled"], cache=cache, token=told["token"], **columns)
        return found, told["about"]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return None


def _mapped_again(cache: Path, token: str) -> Annotations:
    """The annotations as another process has them. Raises DataError when the file is another one by now."""
    found = kept(cache)
    if found is None or found[0].token != token:
        raise DataError(f"{cache}: the annotations were replaced while they were in use; start again")
    return found[0]
