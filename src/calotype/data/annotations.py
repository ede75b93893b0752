"""Boxes of many images in a handful of arrays, for every layout: no Python object is kept for a box or an image.

A layout's reader gives images and boxes to a `Collector` as they come. What is wrong with a box (a flaw) is kept with
it: nothing is dropped here. Boxes are xyxy pixels, counted from the image's upper left corner, in float64 as COCO's
evaluation has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calotype.data.index import FileIndex
from calotype.errors import DataError

if TYPE_CHECKING:
    from calotype.types import IntArray

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

MOST_UNKNOWN, LONGEST_NAME = 10_000, 80
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


@dataclass(frozen=True, eq=False)
class Annotations:
    """The boxes of images. Image r of `images`, by ascending id, has the boxes `ends[r]` to `ends[r + 1]`.

    `sizes` (n, 2) int32 are the heights and widths that the annotations tell, 0 where they don't. Of each box: `boxes`
    (m, 4) xyxy, `labels` (m,) int16, -1 - k for the unknown category `unknown[k]`, `flags`, `areas` of the object in
    pixels, `numbers` that the layout calls it by, `flaws`. `stray` are annotations of no image, `doubled` images that
    there are twice, in words. `called` is what a layout calls a box.
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

    def __len__(self) -> int:
        return len(self.images)

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
        for box in np.flatnonzero(self.flaws).tolist():
            yield int(np.searchsorted(self.ends, box, "right")) - 1, box

    def reason(self, row: int, box: int) -> str:
        """What is wrong with a box, in words that name it."""
        corners = ", ".join(f"{value:.6g}" for value in self.boxes[box].tolist())
        place = f" ({corners})" if self.flaws[box] in (NO_AREA, OUTSIDE) else ""
        size = f" of {self.sizes[row, 1]}x{self.sizes[row, 0]}" if self.flaws[box] == OUTSIDE else ""
        told, name = FLAWS[self.flaws[box]], -1 - int(self.labels[box])
        if self.flaws[box] == UNKNOWN and 0 <= name < len(self.unknown):
            told = f"has the category {self.unknown[name]!r}, which there isn't"
        return f"{self.called} {self.numbers[box]}{place} {told}{size}"


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
        `flags`, `areas` (else the boxes' own), `numbers` (else 0, 1, ... of this call) and `flaws`, each (k,).
        """
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        count = len(corners)
        sides = (corners[:, 2:] - corners[:, :2]).clip(min=0)
        defaults = {"flags": 0, "areas": sides[:, 0] * sides[:, 1], "numbers": np.arange(count), "flaws": 0}
        kinds = {"flags": np.uint8, "areas": np.float64, "numbers": np.int64, "flaws": np.uint8}
        told = [np.broadcast_to(np.asarray(about.get(name, defaults[name]), kinds[name]), count) for name in kinds]
        self.parts.append((np.asarray(image, np.int64), corners, np.asarray(labels, np.int16), *told))

    def packed(self, classes: Sequence[str]) -> Annotations:
        """All that was added, by ascending ids of images; flaws that geometry tells are found here.

        Of two images of one id the later is left out and told as doubled; boxes of no image are told as stray.
        """
        ids = np.array(self.ids, np.int64)
        order = np.argsort(ids, kind="stable")
        fresh = np.ones(len(order), bool)
        fresh[1:] = ids[order][1:] != ids[order][:-1]
        ends = np.array(self.ends, np.int64)
        names = np.frombuffer(bytes(self.names), np.uint8)
        spans = np.stack([ends[:-1], ends[1:]], 1)
        whole = FileIndex(self.root, tuple(classes), names, spans[order], ids[order], np.zeros(len(order), np.int64))
        doubled = [
            f"{whole.name(row)} has the id {whole.ids[row]} of another" for row in np.flatnonzero(~fresh).tolist()
        ]
        rows = order[fresh]
        images = FileIndex(self.root, tuple(classes), names, spans[rows], ids[rows], np.zeros(len(rows), np.int64))
        sizes = np.array(self.sizes, np.int32).reshape(-1, 2)[rows]
        return self._with_boxes(images, sizes, [*self.doubled, *doubled])

    def _with_boxes(self, images: FileIndex, sizes: npt.NDArray[np.int32], doubled: Sequence[str]) -> Annotations:
        empty = (np.zeros(0, np.int64), np.zeros((0, 4)), *(np.zeros(0) for _ in range(5)))
        image, boxes, labels, flags, areas, numbers, flaws = (
            np.concatenate(columns) for columns in zip(*(self.parts or [empty]), strict=True)
        )
        row = np.searchsorted(images.ids, image)
        there = np.append(images.ids, -1)[row] == image if len(images) else np.zeros(len(image), bool)
        stray = [
            f"box {number} is of image {owner}, which there isn't"
            for number, owner in zip(numbers[~there].tolist(), image[~there].tolist(), strict=True)
        ]
        chosen = np.flatnonzero(there)
        chosen = chosen[np.argsort(row[chosen], kind="stable")]
        row, boxes, flaws = row[chosen], boxes[chosen], flaws[chosen].astype(np.uint8)
        labels = labels[chosen].astype(np.int16)
        for code, wrong in _wrong(boxes, labels, sizes[row]).items():
            flaws[(flaws == 0) & wrong] = code
        return Annotations(
            images,
            sizes,
            np.searchsorted(row, np.arange(len(images) + 1)).astype(np.int64),
            boxes,
            labels,
            flags[chosen].astype(np.uint8),
            areas[chosen],
            numbers[chosen].astype(np.int64),
            flaws,
            [*self.stray, *stray],
            doubled,
            [*self.unknown],
            self.called,
        )


def _wrong(
    boxes: Floats, labels: npt.NDArray[np.int16], sizes: npt.NDArray[np.int32]
) -> dict[int, npt.NDArray[np.bool_]]:
    """Which boxes have which flaw, as far as numbers tell."""
    with np.errstate(invalid="ignore"):
        height, width = sizes.T
        reaches_in = (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        return {
            NO_NUMBERS: ~np.isfinite(boxes).all(1),
            UNKNOWN: labels < 0,
            NO_AREA: ~(boxes[:, 2:] > boxes[:, :2]).all(1),
            OUTSIDE: (width > 0) & ~reaches_in,
        }


def unsafe(name: str) -> str | None:
    """Why a file's name in an annotation isn't followed; None for one that stays below its root."""
    parts = name.replace("\\", "/").split("/")
    if not name or name.startswith("/") or ".." in parts or "\0" in name:
        return "leaves the folder of images" if name else "is no file's name"
    return None


def required(annotations: Annotations, where: object) -> Annotations:
    """The annotations. Raises DataError where there is no image."""
    if not len(annotations):
        raise DataError(f"{where} has no image in it")
    return annotations
