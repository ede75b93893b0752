"""Takes images and boxes as a layout has them, and packs them into arrays.

What is wrong with a box is kept with it: nothing is dropped here but what belongs to no image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calotype.data.annotations import (
    DOUBLED,
    LARGEST_AREA,
    NO_AREA,
    NO_NUMBERS,
    ODD_AREA,
    OUTSIDE,
    THIN,
    THINNEST,
    UNKNOWN,
    Annotations,
    Floats,
    Strays,
)
from calotype.data.index import FileIndex, file_id

if TYPE_CHECKING:
    from calotype.types import IntArray

MOST_UNKNOWN, LONGEST_NAME = 10_000, 80
"""Names of unknown categories that are kept for messages, and their letters."""
TOGETHER = 100_000
"""Boxes that are gone through together."""
TYPES: Mapping[str, npt.DTypeLike] = {
    "boxes": np.float64,
    "labels": np.int16,
    "flags": np.uint8,
    "areas": np.float64,
    "numbers": np.int64,
    "flaws": np.uint8,
}
"""What is kept of a box."""
UNREADABLE = (-1, -1)
"""The size of an image whose header can't be read; it is that of none, so the image is refused when it is asked for."""


@dataclass
class Collector:
    """Takes images and boxes as a layout has them. `root` is the folder that the images' names begin at, `called` what
    it calls a box.
    """

    root: Path
    called: str = "box"
    names: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=lambda: [0])
    ids: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    parts: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)

    def unknown_label(self, name: str) -> int:
        """The label of a box of a category that there isn't; of so many only the first are kept by name."""
        short = name[:LONGEST_NAME]
        if short not in self.unknown and len(self.unknown) == MOST_UNKNOWN:
            return -1 - MOST_UNKNOWN
        return -1 - self.unknown.setdefault(short, len(self.unknown))

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
        """Add k boxes: the ids of their images (k,), xyxy (k, 4), classes (k,), below 0 for unknown; `about` may have
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

        Of two images of one id or name one is left out and told as doubled; of one id and two names the other is told
        as `shared`, since the boxes may be either's. Boxes of no image are told as stray.
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
        shared = np.flatnonzero(np.isin(whole.ids[fresh], _of_two_names(whole)))
        images = replace(whole, spans=spans[fresh], ids=whole.ids[fresh], labels=whole.labels[fresh])
        sizes = np.array(self.sizes, np.int32).reshape(-1, 2)[order][fresh]
        columns = self._columns()
        if known is not None:
            columns[2] = _places(columns[2], known)
        if numbered:
            columns[6] = np.where(_again(columns[5]), DOUBLED, columns[6])
        return replace(self._with_boxes(images, sizes, columns, [*self.doubled, *doubled]), shared=shared)

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
        taken: dict[str, Any] = {name: columns.pop(0)[chosen].astype(kind, copy=False) for name, kind in TYPES.items()}
        ends = np.searchsorted(row, np.arange(len(images) + 1)).astype(np.int64)
        unknown = [*self.unknown]
        found = Annotations(
            images, sizes, ends, stray=stray, doubled=doubled, unknown=unknown, called=self.called, **taken
        )
        for start in range(0, len(row), TOGETHER):
            mark(found, slice(start, start + TOGETHER), sizes[row[start : start + TOGETHER]])
        return found


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


def _of_two_names(images: FileIndex) -> list[int]:
    """The ids that are those of images of different names."""
    again = np.flatnonzero(images.ids[1:] == images.ids[:-1])
    return [int(images.ids[row]) for row in again.tolist() if images.name(row) != images.name(row + 1)]


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


def mark(found: Annotations, some: slice, sizes: npt.NDArray[np.int32]) -> None:
    """Mark the flaws that numbers tell of some boxes, of images of these sizes, where there is none yet or a weaker
    one; the first that holds counts. What has no area in float32, in which a network is trained by it, has none.
    """
    flaws = found.flaws[some]
    before = flaws.copy()
    free = (before == 0) | (before == DOUBLED)
    for code, wrong in _wrong(found.boxes[some], found.labels[some], found.areas[some], sizes).items():
        flaws[free & (flaws == before) & wrong] = code


def _wrong(
    boxes: Floats, labels: npt.NDArray[np.int16], areas: Floats, sizes: npt.NDArray[np.int32]
) -> dict[int, npt.NDArray[np.bool_]]:
    """Which boxes have which flaw, as far as numbers tell."""
    with np.errstate(all="ignore"):
        height, width = sizes.T.astype(np.float64)
        sized = (width > 0) & (height > 0)
        ends = np.where(sized, np.stack([width, height, width, height]), np.inf).T
        within = boxes.clip(np.where(ends < np.inf, 0, -np.inf), ends)
        single, cut = boxes.astype(np.float32), within.astype(np.float32)
        return {
            NO_NUMBERS: ~np.isfinite(boxes).all(1) | ~np.isfinite(single).all(1),
            UNKNOWN: labels < 0,
            NO_AREA: ~(single[:, 2:] > single[:, :2]).all(1),
            OUTSIDE: ~(cut[:, 2:] > cut[:, :2]).all(1),
            THIN: ((within[:, 2:] - within[:, :2]).round(6) < THINNEST).any(1),
            ODD_AREA: ~((areas >= 0) & (areas <= LARGEST_AREA)),
        }
