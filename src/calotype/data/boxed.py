"""Images with boxes as a split, for every layout: an image is read when it is asked for, its boxes lie in arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import tv_tensors

from calotype.data.annotations import Annotations, unsafe_rows
from calotype.data.collector import UNREADABLE, mark
from calotype.data.images import decode, size_of
from calotype.data.index import Paths
from calotype.data.source import Decoding
from calotype.errors import DataError
from calotype.types import CROWD, DIFFICULT

if TYPE_CHECKING:
    from calotype.types import IntArray, Sample

NO_FILES: Mapping[Path, str] = {}
NONE_BESIDE: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Training:
    """What a network is trained by: crowds and difficult objects too, or not; images without a sound box, or not."""

    crowd: bool = False
    difficult: bool = True
    empty: bool = True


class BoxedSource:
    """The images `rows` (None: all) of annotations. `containers` are the annotations' files with the sha256 of what was
    read of each, where they hold many images'; `beside` the annotations' files of an image each. Images that training
    leaves out for want of a sound box are none of its samples; their flaws are told all the same.

    A sample has "image", "boxes" and "labels" to train by, and "truth" (k, 7) float64 to judge by: xyxy, class, flags
    and area of all boxes as the file has them. Boxes to train by are cut at the image's edge.
    """

    def __init__(
        self,
        annotations: Annotations,
        decoding: Decoding,
        rows: IntArray | None = None,
        training: Training = Training(),
        containers: Mapping[Path, str] = NO_FILES,
        beside: Sequence[Path] = NONE_BESIDE,
    ) -> None:
        self.annotations, self.decoding, self.training = annotations, decoding, training
        self.known = np.arange(len(annotations)) if rows is None else rows
        self.rows = self.known if training.empty else self.known[annotations.counts()[self.known] > 0]
        self.ids: IntArray = annotations.images.ids[self.rows]
        self.containers, self.beside = dict(containers), beside

    @property
    def files(self) -> Sequence[Path]:
        """The annotations' files that hold many, then the images in the order of ids, without those whose names aren't
        followed, then what is beside them.
        """
        rows = np.setdiff1d(self.rows, unsafe_rows(self.annotations.images), assume_unique=True)
        found = Paths(self.annotations.images, rows, list(self.containers))
        return [*found, *self.beside] if len(self.beside) else found

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        """The image's path below the root."""
        return self.annotations.images.name(int(self.rows[position]))

    def problem(self, position: int) -> str | None:
        """Why a sample can't be read, without its name; None for one that can."""
        try:
            self._read(int(self.rows[position]))
        except DataError as error:
            return error.message
        return None

    def images_by_class(self, classes: int) -> IntArray:
        """In how many images there is a sound box of each class, int64 (classes,)."""
        rows = np.repeat(np.arange(len(self.annotations)), np.diff(self.annotations.ends))
        taken = np.zeros(len(self.annotations), bool)
        taken[self.rows] = True
        chosen = (self.annotations.flaws == 0) & taken[rows]
        pairs = np.unique(rows[chosen] * classes + self.annotations.labels[chosen])
        return np.bincount(pairs % classes, minlength=classes)

    def flaws(self) -> list[dict[str, Any]]:
        """What the annotations alone tell to be wrong, each with "name" and "reason".

        Of a box that can't be used there are "id" and "name" of the image, "box" its place there, "number" what it is
        called by; of an image that isn't read its "id". What belongs to no sample is told together: "count"
        of such a "kind".
        """
        found, wanted, images = [], set(self.known.tolist()), self.annotations.images
        for kind, texts in (("doubled image", self.annotations.doubled), ("stray annotation", self.annotations.stray)):
            if texts:
                where = str(next(iter(self.containers), images.root))
                found.append({"name": where, "reason": texts[0], "kind": kind, "count": len(texts)})
        for row in self.annotations.refused_rows():
            if row in wanted:
                reason = self.annotations.refused(row)
                found.append({"id": int(images.ids[row]), "name": images.name(row), "reason": reason})
        for row, box in self.annotations.flawed():
            if row in wanted:
                place = {"box": box - int(self.annotations.ends[row]), "number": int(self.annotations.numbers[box])}
                about = {"id": int(images.ids[row]), "name": images.name(row), **place}
                found.append({**about, "reason": self.annotations.reason(row, box)})
        return found

    def without_boxes(self, flaws: Sequence[Mapping[str, Any]]) -> BoxedSource:
        """The same without those boxes. A box that has moved in its image is found by its number; one that isn't there,
        or whose image isn't, is passed over, as is what is about no box.
        """
        kept = np.ones(len(self.annotations.boxes), bool)
        images, numbers = self.annotations.images.ids, self.annotations.numbers
        for flaw in flaws:
            row = int(np.searchsorted(images, int(flaw["id"]))) if "box" in flaw else len(images)
            if row < len(images) and images[row] == int(flaw["id"]):
                of = self.annotations.of(row)
                same = of.start + np.flatnonzero(numbers[of] == int(flaw["number"]))
                place = of.start + int(flaw["box"])
                kept[place if place in same else same[-1:]] = False
        sound = self.annotations.only(kept)
        return BoxedSource(sound, self.decoding, self.known, self.training, self.containers, self.beside)

    def __getitem__(self, position: int) -> Sample:
        """The image, its boxes and its file's bytes. Raises DataError naming a file that can't be read or decoded, or
        whose boxes have a flaw.
        """
        row = int(self.rows[position])
        try:
            return self._read(row)
        except DataError as error:
            path = self.annotations.images.path(row)
            raise DataError(f"{path}: {error.message}; mend or remove it, or set data.on_error=skip") from error

    def _read(self, row: int) -> dict[str, Any]:
        content, image = self._image(row)
        return {"image": image, **self._target(row, image), "content": content}

    def _image(self, row: int) -> tuple[bytes, Any]:
        how = self.decoding
        if (reason := self.annotations.refused(row)) is not None:
            raise DataError(reason)
        try:
            content = self.annotations.images.path(row).read_bytes()
        except OSError as error:
            raise DataError(f"can't be read ({error.strerror})") from error
        image = decode(content, how.mode, how.background, how.max_pixels)
        told, size = self.annotations.sizes[row].tolist(), [*image.shape[-2:]]
        if all(told) and told != size:
            sizes = [f"{width}x{height}" for height, width in (size, told)]
            raise DataError(f"has {sizes[0]} pixels, and {sizes[1]} by its annotation")
        return content, image

    def _target(self, row: int, image: Any) -> dict[str, Any]:
        of, found = self.annotations.of(row), self.annotations
        if found.flaws[of].any():
            box = of.start + int(np.flatnonzero(found.flaws[of])[0])
            raise DataError(found.reason(row, box))
        truth = np.column_stack([found.boxes[of], found.labels[of], found.flags[of], found.areas[of]])
        height, width = image.shape[-2:]
        cut = found.boxes[of].clip(0, [width, height, width, height]).astype(np.float32)
        left_out = CROWD * (not self.training.crowd) | DIFFICULT * (not self.training.difficult)
        chosen = (found.flags[of] & left_out) == 0
        return {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(cut[chosen]), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(found.labels[of][chosen].astype(np.int64)),
            "truth": torch.from_numpy(truth),
        }


def sized(found: Annotations) -> Annotations:
    """The same with the sizes that images' headers tell, of those with boxes whose own isn't told; what then lies
    outside is a flaw.
    """
    rows = np.flatnonzero((found.sizes <= 0).any(1) & (np.diff(found.ends) > 0))
    if not len(rows):
        return found
    found = replace(found, sizes=found.sizes.copy(), flaws=found.flaws.copy(), cache=None, token="")
    for row in rows.tolist():
        if found.refused(row) is None:
            found.sizes[row] = size_of(found.images.path(row)) or UNREADABLE
            mark(found, found.of(row), found.sizes[row])
    return found
