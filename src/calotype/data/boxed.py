"""Images with boxes as a split, for every layout: an image is read when it is asked for, its boxes lie in arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchvision import tv_tensors

from calotype.data.annotations import CROWD, DIFFICULT, Annotations, unsafe
from calotype.data.images import decode
from calotype.data.index import Paths
from calotype.data.source import Decoding
from calotype.errors import DataError

if TYPE_CHECKING:
    from calotype.types import IntArray, Sample

NO_FILES: Mapping[Path, str] = {}
NONE_BESIDE: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Training:
    """Which boxes a network is trained by: crowds and difficult objects too, or not."""

    crowd: bool = False
    difficult: bool = True


class BoxedSource:
    """The images `rows` (None: all) of annotations. `containers` are the annotations' files with the sha256 of what was
    read of each, where they hold many images'; `beside` the annotations' files of an image each.

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
        self.rows = np.arange(len(annotations)) if rows is None else rows
        self.ids: IntArray = annotations.images.ids[self.rows]
        self.containers, self.beside = dict(containers), beside

    @property
    def files(self) -> Sequence[Path]:
        """The annotations' files that hold many, then the images in the order of ids, then what is beside them."""
        found = Paths(self.annotations.images, self.rows, list(self.containers))
        return [*found, *self.beside] if len(self.beside) else found

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        """The image's path below the root."""
        return self.annotations.images.name(int(self.rows[position]))

    def problem(self, position: int) -> str | None:
        """Why a sample's image can't be read, without its name; None for one that can."""
        try:
            self._image(int(self.rows[position]))
        except DataError as error:
            return error.message
        return None

    def flaws(self) -> list[dict[str, Any]]:
        """The boxes that can't be used: "id" and "name" of the image, "box" its number there, "reason"."""
        found, wanted = [], set(self.rows.tolist())
        for row, box in self.annotations.flawed():
            if row in wanted:
                about = {"id": int(self.annotations.images.ids[row]), "name": self.annotations.images.name(row)}
                number = box - int(self.annotations.ends[row])
                found.append({**about, "box": number, "reason": self.annotations.reason(row, box)})
        return found

    def without_boxes(self, flaws: Sequence[Mapping[str, Any]]) -> BoxedSource:
        """The same without those boxes; of images that there aren't they are passed over."""
        kept = np.ones(len(self.annotations.boxes), bool)
        places = {int(found): row for row, found in enumerate(self.annotations.images.ids)}
        for flaw in flaws:
            row = places.get(int(flaw["id"]))
            if row is not None:
                kept[int(self.annotations.ends[row]) + int(flaw["box"])] = False
        left = _only(self.annotations, kept)
        return BoxedSource(left, self.decoding, self.rows, self.training, self.containers, self.beside)

    def __getitem__(self, position: int) -> Sample:
        """The image, its boxes and its file's bytes. Raises DataError naming a file that can't be read or decoded, or
        whose boxes have a flaw.
        """
        row = int(self.rows[position])
        try:
            content, image = self._image(row)
            return {"image": image, **self._target(row, image), "content": content}
        except DataError as error:
            path = self.annotations.images.path(row)
            raise DataError(f"{path}: {error.message}; mend or remove it, or set data.on_error=skip") from error

    def _image(self, row: int) -> tuple[bytes, Any]:
        how, name = self.decoding, self.annotations.images.name(row)
        if (reason := unsafe(name)) is not None:
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
        left_out = CROWD * (not self.training.crowd) | DIFFICULT * (not self.training.difficult)
        chosen = (found.flags[of] & left_out) == 0
        boxes = found.boxes[of][chosen].clip(0, [width, height, width, height]).astype(np.float32)
        return {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(found.labels[of][chosen].astype(np.int64)),
            "truth": torch.from_numpy(truth),
        }


def _only(annotations: Annotations, kept: Any) -> Annotations:
    """The annotations with some of the boxes."""
    left = np.concatenate([[0], np.cumsum(kept)])
    columns = {
        name: getattr(annotations, name)[kept] for name in ("boxes", "labels", "flags", "areas", "numbers", "flaws")
    }
    return replace(annotations, ends=left[annotations.ends], **columns)
