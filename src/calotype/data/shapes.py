"""Drawn shapes: an embedded data set with masks and boxes, to segment and to detect.

A sample is drawn when it is asked for, from the set's seed and the sample's id alone: nothing is stored and no file is
read. Coloured shapes lie on a texture of waves and noise, later ones over earlier ones. Their edges are anti-aliased:
a pixel's colour is mixed by how much of it the shape covers; its class in the mask is that of the last shape that its
centre is in. A shape that others hide to less than a quarter is in the mask but has no box, as annotators do.
`calotype data make shapes` writes the same samples as files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors

from calotype import keys
from calotype.data import layouts
from calotype.errors import ConfigError, DataError
from calotype.types import VOID

if TYPE_CHECKING:
    from calotype.types import IntArray, Sample

Plane = npt.NDArray[np.float32]

VISIBLE = 0.25
"""The part of a shape that has to be seen for it to have a box."""
CONTRAST = 100.0
"""How far a shape's colour is from that of the texture, as a distance of RGB values."""


def _box(x: Plane, y: Plane, width: float, height: float) -> Plane:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _triangle(x: Plane, y: Plane) -> Plane:
    sides = [np.cos(angle) * x + np.sin(angle) * y for angle in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    distance: Plane = np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - np.float32(0.5)
    return distance


FORMS: Mapping[str, Callable[[Plane, Plane], Plane]] = {
    "circle": lambda x, y: np.hypot(x, y) - np.float32(0.8),
    "triangle": _triangle,
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - np.float32(0.7)) - np.float32(0.22),
}
"""For each class the signed distance to a shape of radius 1 around the origin, negative within."""


class Shapes:
    """Images of `size` x `size` pixels with one to `most` shapes each, drawn by `draw_seed`; `images` says how many to
    train, validate and test with.

    `target` is "mask", with the background as class 0, or "boxes". In masks `border` pixels on each side of a shape's
    edge are void. Raises ConfigError, and DataError for a split there is none of.
    """

    splits: Sequence[str] = ("train", "val", "test")
    formats: Sequence[str] = tuple(layouts.WRITERS)

    def __init__(
        self,
        target: Literal["mask", "boxes"] = "mask",
        size: int = 64,
        most: int = 3,
        images: Sequence[int] = (5632, 256, 512),
        draw_seed: int = 0,
        border: int = 0,
    ) -> None:
        if target not in ("mask", "boxes"):
            raise DataError(f"{target!r} is not allowed; allowed: mask, boxes", key="data.target")
        if len(images) != len(self.splits) or not all(isinstance(count, int) and count >= 0 for count in images):
            raise ConfigError(f"{list(images)} is no number of images for each of train, val, test", key="data.images")
        for name, value, least in (("size", size, 8), ("most", most, 1), ("border", border, 0)):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{value!r} is not allowed; allowed: {least} or more", key=f"data.{name}")
        self.target, self.size, self.most, self.draw_seed, self.border = target, size, most, draw_seed, border
        self.classes = (*(["background"] if target == "mask" else []), *FORMS)
        ends = np.cumsum([0, *images])
        self._ids = {name: np.arange(*ends[at : at + 2]) for at, name in enumerate(self.splits)}

    def split(self, name: str) -> ShapesSource:
        """Split `name`."""
        if name not in self._ids:
            raise DataError(f"there is no split {name!r}, only {', '.join(self.splits)}")
        return ShapesSource(self, self._ids[name])

    def write(self, folder: Path, layout: str, seen: Callable[[int], None]) -> Sequence[str]:
        """Write all splits into a folder in one of `formats`, masks and boxes both; the overrides that train on it.
        `seen` is told of each so many images that are done.
        """

        def pictures(name: str) -> Iterator[layouts.Picture]:
            for number in self._ids[name].tolist():
                drawn = self.drawing(number)
                regions = [drawn.owner == shape for shape in drawn.seen]
                yield layouts.Picture(number, drawn.image, drawn.mask(self.border), drawn.boxes, drawn.labels, regions)
                seen(1)

        splits = {name: pictures(name) for name in self.splits if len(self._ids[name])}
        return layouts.WRITERS[layout](folder, splits, ("background", *FORMS))

    def drawing(self, number: int) -> Drawing:
        """The sample of an id."""
        return draw(keys.key(self.draw_seed, "sample", number), self.size, self.most)


@dataclass(frozen=True, eq=False)
class ShapesSource:
    """The samples `ids`: "image" a (3, size, size) uint8 Image, and "mask" or "boxes" with "labels"."""

    data: Shapes
    ids: IntArray

    @property
    def files(self) -> Sequence[Path]:
        """None."""
        return ()

    @property
    def containers(self) -> Mapping[Path, str]:
        """None."""
        return {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Sample:
        drawn = self.data.drawing(int(self.ids[position]))
        sample: dict[str, Any] = {"image": tv_tensors.Image(torch.from_numpy(drawn.image))}
        if self.data.target == "mask":
            return sample | {"mask": tv_tensors.Mask(torch.from_numpy(drawn.mask(self.data.border)))}
        found: Any = tv_tensors.BoundingBoxes(
            torch.from_numpy(drawn.boxes),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=(self.data.size, self.data.size),
        )
        return sample | {
            "boxes": found,
            "labels": torch.from_numpy(drawn.labels),
            "truth": torch.from_numpy(drawn.truth),
        }

    def name(self, position: int) -> str:
        """The sample's id."""
        return f"shapes#{self.ids[position]}"


@dataclass(frozen=True, eq=False)
class Drawing:
    """An image (3, size, size) uint8; for each pixel the number of the shape that owns it, 0 for none; the classes of
    the shapes by their numbers, of which 0 is the background; and the numbers of those that are seen.
    """

    image: npt.NDArray[np.uint8]
    owner: IntArray
    classes: IntArray
    seen: Sequence[int]

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """Around what is seen of the shapes, (n, 4) xyxy pixels."""
        return np.array([_extent(self.owner == number) for number in self.seen], np.float32).reshape(-1, 4)

    @property
    def labels(self) -> IntArray:
        """The classes of the boxes, (n,), of which 0 is no background."""
        return self.classes[self.seen] - 1

    @property
    def truth(self) -> npt.NDArray[np.float64]:
        """The boxes to judge by, (n, 7): xyxy, class, no flags, the pixels that are seen."""
        found = np.zeros((len(self.seen), 7))
        found[:, :4], found[:, 4] = self.boxes, self.labels
        found[:, 6] = [(self.owner == number).sum() for number in self.seen]
        return found

    def mask(self, border: int = 0) -> IntArray:
        """The class of every pixel, 0 for the background; 255 within `border` pixels of an edge."""
        found, edge = self.classes[self.owner], np.zeros(self.owner.shape, bool)
        for step in range(1, border + 1):
            down, right = self.owner[step:] != self.owner[:-step], self.owner[:, step:] != self.owner[:, :-step]
            edge[step:] |= down
            edge[:-step] |= down
            edge[:, step:] |= right
            edge[:, :-step] |= right
        found[edge] = VOID
        return found


def draw(seed: int, size: int, most: int) -> Drawing:
    """One to `most` shapes on a texture."""
    drawn = np.random.Generator(np.random.Philox(seed))
    y, x = np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5)
    base = drawn.uniform(30, 225, 3).astype(np.float32)
    image = base[:, None, None] + _texture(drawn, x, y)
    owner = np.zeros((size, size), np.int64)
    forms, names, covered = list(FORMS.values()), [], []
    for number in range(1, int(drawn.integers(1, most, endpoint=True)) + 1):
        radius = drawn.uniform(0.14, 0.3) * size
        centre, angle = drawn.uniform(0.6 * radius, size - 0.6 * radius, 2), drawn.uniform(0, 2 * np.pi)
        kind = int(drawn.integers(len(forms)))
        cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)
        across, along = x - np.float32(centre[0]), y - np.float32(centre[1])
        distance = forms[kind](cos * across + sin * along, cos * along - sin * across) * np.float32(radius)
        cover = np.clip(np.float32(0.5) - distance, 0, 1)
        image += cover * (_other_colour(drawn, base)[:, None, None] - image)
        owner[distance < 0] = number
        names.append(kind)
        covered.append(int((distance < 0).sum()))
    image += drawn.normal(0, 4, image.shape).astype(np.float32)
    classes = np.array([0, *(kind + 1 for kind in names)], np.int64)
    seen = [number for number, area in enumerate(covered, 1) if (owner == number).sum() > VISIBLE * area]
    return Drawing(np.clip(image, 0, 255).astype(np.uint8), owner, classes, seen)


def _texture(drawn: np.random.Generator, x: Plane, y: Plane) -> Plane:
    """Two waves of any direction in each channel, (3, H, W)."""
    total = np.zeros((3, *x.shape), np.float32)
    for _ in range(2):
        angle, period, phase = drawn.uniform(0, np.pi), drawn.uniform(4, 24), drawn.uniform(0, 2 * np.pi)
        run = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
        total += drawn.uniform(-14, 14, (3, 1, 1)).astype(np.float32) * np.sin(
            run * np.float32(2 * np.pi / period) + np.float32(phase)
        )
    return total


def _other_colour(drawn: np.random.Generator, base: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    while True:
        found = drawn.uniform(0, 255, 3).astype(np.float32)
        if np.linalg.norm(found - base) > CONTRAST:
            return found


def _extent(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The box around what is set, as xyxy: from its first pixel to behind its last."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
