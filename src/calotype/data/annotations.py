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

from calotype.data.index import FileIndex, file_id, read_mapped
from calotype.errors import DataError
from calotype.files import TEMPORARY

if TYPE_CHECKING:
    from calotype.types import IntArray

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

CROWD, DIFFICULT, TRUNCATED = 1, 2, 4
"""Flags of a box: it is around many of a kind; too difficult to count in an evaluation; cut by the image's edge."""

FLAWS = (
    "",
    "has no area",
    "lies outside its image",
    "has a category that there isn't",
    "has no four numbers",
    "has the number of another",
)
"""What is wrong with a box, by the code that it is kept with; 0 is nothing."""
NO_AREA, OUTSIDE, UNKNOWN, NO_NUMBERS, DOUBLED = range(1, len(FLAWS))


VERSION = 1
TOGETHER = 100_000
"""Boxes that are gone through together."""
_BOXES = ("boxes", "labels", "flags", "areas", "numbers", "flaws")
_KEPT = ("sizes", "ends", *_BOXES)
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
        return f"{called(int(self.numbers[place]))} is of image {self.owners[place]}, which there isn't"


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of images. Image r of `images`, by ascending id, has the boxes `ends[r]` to `ends[r + 1]`.

    `sizes` (n, 2) int32 are the heights and widths that the annotations tell, 0 where they don't. Of each box: `boxes`
    (m, 4) xyxy, `labels` (m,) int16, -1 for an unknown category, `flags`, `areas` of the object in pixels, `numbers`
    that the layout calls it by (`called`), `flaws`. `stray` are annotations of no image, `doubled` images that there
    are twice, in words. `cache` and `token` are the file that all is mapped from, if there is one, and what tells that
    file from another.
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

    def reason(self, row: int, box: int) -> str:
        """What is wrong with a box, in words that name it."""
        place = f" {corners(self.boxes[box])}" if self.flaws[box] in (NO_AREA, OUTSIDE) else ""
        size = f" of {self.sizes[row, 1]}x{self.sizes[row, 0]}" if self.flaws[box] == OUTSIDE else ""
        return f"{called(int(self.numbers[box]))}{place} {FLAWS[self.flaws[box]]}{size}"

    def only(self, kept: npt.NDArray[np.bool_]) -> Annotations:
        """The same with some of the boxes."""
        left = np.concatenate([[0], np.cumsum(kept)])
        columns = {name: getattr(self, name)[kept] for name in _BOXES}
        return replace(self, ends=left[self.ends], **columns, cache=None, token="")

    def relabelled(self, labels: npt.NDArray[np.int16]) -> Annotations:
        """The same with other classes."""
        return replace(self, labels=labels, cache=None, token="")


def called(number: int) -> str:
    """What a message calls a box by its number; one without an id has -1 - its place in its list."""
    return f"box {number}" if number >= 0 else f"box without an id at place {-1 - number}"


def corners(box: Floats) -> str:
    """A box in a message."""
    return f"({', '.join(f'{value:.6g}' for value in box.tolist())})"


@dataclass
class Collector:
    """Takes images and boxes as a layout has them. `root` is the folder that the images' names begin at."""

    root: Path
    names: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=lambda: [0])
    ids: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    parts: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    def add_image(self, name: str, id: int, height: int = 0, width: int = 0) -> None:
        """Add an image by its path below the root."""
        self.names += name.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.names))
        self.ids.append(id)
        self.sizes.append((height, width))

    def add_boxes(
        self,
        image: npt.ArrayLike,
        boxes: npt.ArrayLike,
        labels: npt.ArrayLike,
        about: Mapping[str, npt.ArrayLike],
    ) -> None:
        """Add k boxes: the ids of their images (k,), xyxy (k, 4), classes (k,), -1 for unknown; `about` may have
        `flags`, `areas` (else, and where they are NaN, the boxes' own), `numbers` (else 0, 1, ... of this call) and
        `flaws`, each (k,).
        """
        found = np.asarray(boxes, np.float64).reshape(-1, 4)
        count = len(found)
        with np.errstate(all="ignore"):
            sides = (found[:, 2:] - found[:, :2]).clip(min=0)
            own = sides[:, 0] * sides[:, 1]
        defaults = {"flags": 0, "areas": own, "numbers": np.arange(count), "flaws": 0}
        kinds = {"flags": np.uint8, "areas": np.float64, "numbers": np.int64, "flaws": np.uint8}
        told = [np.broadcast_to(np.asarray(about.get(name, defaults[name]), kinds[name]), count) for name in kinds]
        told[1] = np.where(np.isnan(told[1]), own, told[1])
        self.parts.append((np.asarray(image, np.int64), found, np.asarray(labels, np.int64), *told))

    def packed(
        self, classes: Sequence[str], known: Sequence[int] | None = None, *, numbered: bool = False
    ) -> Annotations:
        """All that was added, by ascending ids of images; flaws that geometry tells are found here.

        Of two images of one id or name one is left out and told as doubled; boxes of no image are told as stray.
        `known` are the numbers that the labels call the classes by, where those aren't 0, 1, ... With `numbered` a box
        that has the number of another is a flaw, except for those below 0.
        """
        ids = np.array(self.ids, np.int64)
        order = np.argsort(ids, kind="stable")
        ends = np.array(self.ends, np.int64)
        names = np.frombuffer(bytes(self.names), np.uint8)
        spans = np.stack([ends[:-1], ends[1:]], 1)[order]
        whole = FileIndex(self.root, tuple(classes), names, spans, ids[order], np.zeros(len(order), np.int64))
        fresh, doubled = _fresh(whole)
        images = replace(whole, spans=spans[fresh], ids=whole.ids[fresh], labels=whole.labels[fresh])
        sizes = np.array(self.sizes, np.int32).reshape(-1, 2)[order][fresh]
        columns = self._columns()
        if known is not None:
            columns[2] = _places(columns[2], known)
        if numbered:
            columns[6] = np.where(_again(columns[5]), DOUBLED, columns[6])
        return self._with_boxes(images, sizes, columns, [*self.doubled, *doubled])

    def _columns(self) -> list[npt.NDArray[Any]]:
        """What was added of each box, column by column; the parts are given up on the way, for they are large."""
        empty = (np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64), *(np.zeros(0) for _ in range(4)))
        columns = [*zip(*(self.parts or [empty]), strict=True)]
        self.parts.clear()
        return [np.concatenate(columns.pop(0)) for _ in range(len(columns))]

    def _with_boxes(
        self,
        images: FileIndex,
        sizes: npt.NDArray[np.int32],
        columns: list[npt.NDArray[Any]],
        doubled: Sequence[str],
    ) -> Annotations:
        image, numbers = columns.pop(0), columns[4]
        row = np.searchsorted(images.ids, image)
        there = np.append(images.ids, -1)[row] == image if len(images) else np.zeros(len(image), bool)
        there &= row < len(images)
        stray = Strays(self.stray, numbers[~there].astype(np.int64), image[~there].astype(np.int64))
        chosen = np.flatnonzero(there)
        chosen = chosen[np.argsort(row[chosen], kind="stable")]
        row = row[chosen]
        types = (np.float64, np.int16, np.uint8, np.float64, np.int64, np.uint8)
        taken: list[Any] = [columns.pop(0)[chosen].astype(kind, copy=False) for kind in types]
        boxes, labels, flags, areas, numbers, flaws = taken
        for start in range(0, len(row), TOGETHER):
            some = slice(start, start + TOGETHER)
            before = flaws[some].copy()
            for code, wrong in _wrong(boxes[some], labels[some], sizes[row[some]]).items():
                flaws[some][(flaws[some] == before) & wrong] = code
        ends = np.searchsorted(row, np.arange(len(images) + 1)).astype(np.int64)
        return Annotations(images, sizes, ends, boxes, labels, flags, areas, numbers, flaws, stray, doubled)


def _fresh(images: FileIndex) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Which images are there for the first time, by id and by name, and what to say of the others."""
    fresh, doubled = np.ones(len(images), bool), []
    by_id = np.flatnonzero(images.ids[1:] == images.ids[:-1]) + 1
    fresh[by_id] = False
    doubled += [f"{images.name(row)} has the id {images.ids[row]} of another" for row in by_id.tolist()]
    content = images.names.tobytes()
    named = np.array([file_id(content[start:stop]) for start, stop in images.spans.tolist()], np.int64)
    again = _again(named) & fresh & (images.spans[:, 0] < images.spans[:, 1])
    doubled += [
        f"{images.name(row)}, of id {images.ids[row]}, is another's too" for row in np.flatnonzero(again).tolist()
    ]
    return fresh & ~again, doubled


def _again(numbers: IntArray) -> npt.NDArray[np.bool_]:
    """Which of the numbers were there before; those below 0 are nobody's."""
    found = np.ones(len(numbers), bool)
    found[np.unique(numbers, return_index=True)[1]] = False
    return found & (numbers >= 0)


def _places(labels: IntArray, known: Sequence[int]) -> IntArray:
    """The place of each label among the known numbers; -1 for one that isn't."""
    numbers = np.array(known, np.int64)
    order = np.argsort(numbers, kind="stable")
    found = np.searchsorted(numbers[order], labels).clip(max=len(numbers) - 1)
    return np.where(numbers[order][found] == labels, order[found], -1)


def _wrong(
    boxes: Floats, labels: npt.NDArray[np.int16], sizes: npt.NDArray[np.int32]
) -> dict[int, npt.NDArray[np.bool_]]:
    """Which boxes have which flaw, as far as numbers tell; the first that holds counts. What has no area in float32,
    in which a network is trained by it, has none.
    """
    with np.errstate(all="ignore"):
        height, width = sizes.T.astype(np.float64)
        outside = (width > 0) & (height > 0)
        within = boxes.clip(0, np.stack([width, height, width, height], 1)).astype(np.float32)
        single = boxes.astype(np.float32)
        return {
            NO_NUMBERS: ~np.isfinite(boxes).all(1) | ~np.isfinite(single).all(1),
            UNKNOWN: labels < 0,
            NO_AREA: ~(single[:, 2:] > single[:, :2]).all(1),
            OUTSIDE: outside & ~(within[:, 2:] > within[:, :2]).all(1),
        }


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
        columns = {name: arrays[name] for name in _KEPT}
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
