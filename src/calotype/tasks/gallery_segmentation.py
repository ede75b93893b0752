"""Pictures of a segmenter's evaluation: its first samples and its worst as five rows, and its confusion matrix.

The rows are the image, the prediction over it, the prediction, the ground truth over the image, the ground truth; in
the colours of PASCAL VOC, below them what each colour means. "worst" are the images of the lowest mean IoU over the
classes that they have or were predicted to have.
Samples are kept as thumbnails on the device until the pictures are drawn, on the host, with Pillow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.lettering import fitted, font, lettered
from calotype.metrics import paired
from calotype.palette import coloured, overlay
from calotype.tasks.gallery import (
    INK,
    LARGEST,
    LINE,
    PAPER,
    TEXT,
    Shown,
    as_picture,
    matrix,
    named,
    thumbnails,
    upright,
)
from calotype.types import VOID

if TYPE_CHECKING:
    from PIL.Image import Image

    from calotype.types import Prediction, Shard

Picture = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]

COLUMNS, SIDE, GAP = 8, 160, 4
"""Of a grid: columns, pixels of a thumbnail's side, pixels between thumbnails."""
OUTSIDE = -1
"""What a thumbnail of another shape leaves of its square, in masks."""
ROWS = ("image", "overlay", "prediction", "overlay", "ground truth")


class SegmentationGallery:
    """Gallery of a task whose predictions hold "mask" (n, H, W) and whose shards "image" and "mask".

    Pictures: `predictions` and `worst`, at most 8 samples each; the latter, and `confusion` of pixels, for up to 100
    classes.
    """

    of_all = ("worst", "confusion")

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = named(classes)
        self._shown = Shown(COLUMNS, _small)
        self._confusion: Tensor | None = None

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Take a shard. Nothing waits for the device."""
        rows = {"image": shard["image"], "found": prediction["mask"], "true": shard["mask"]}
        self._shown.begin(rows)
        if len(self.classes) > LARGEST:
            return
        pairs = zip(rows["true"].split(1), rows["found"].split(1), strict=True)
        tables = torch.stack([paired(true, found, len(self.classes))[:-1] for true, found in pairs])
        self._confusion = tables.sum(0) if self._confusion is None else self._confusion + tables.sum(0)
        self._shown.rank({**rows, "loss": 1 - _mean_iou(tables)})

    def pictures(self) -> Mapping[str, Picture]:
        """The pictures by name, (3, H, W) uint8; none before the first shard."""
        found = self._shown.drawn(lambda rows: grid(rows, self.classes))
        if self._confusion is not None:
            found["confusion"] = matrix(self._confusion.cpu().numpy(), self.classes)
        return found


def _mean_iou(tables: Tensor) -> Tensor:
    """Of each image over the classes it has or was predicted to have, (n,), by (n, C, C) pixels; 1 for nothing but
    void.
    """
    hits = tables.diagonal(dim1=1, dim2=2)
    either = tables.sum(1) + tables.sum(2) - hits
    return (hits.double() / either.double()).nanmean(1).nan_to_num(1.0)


def _small(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same rows with images (n, 3, SIDE, SIDE) uint8 and masks (n, SIDE, SIDE) int16, in the upper left corner."""
    image = thumbnails(rows["image"], SIDE)
    height, width = image.shape[-2:]
    rest = (0, SIDE - width, 0, SIDE - height)
    colours = image if image.shape[1] == 3 else image[:, :1].expand(-1, 3, -1, -1)
    small = {"image": F.pad(colours, rest, value=255)}
    for name in ("found", "true"):
        mask = F.interpolate(rows[name].unsqueeze(1).float(), (height, width), mode="nearest-exact")
        small[name] = F.pad(mask.squeeze(1).to(torch.int16), rest, value=OUTSIDE)
    return {**rows, **small}


def grid(rows: Mapping[str, Tensor], classes: Sequence[str]) -> Picture:
    """Five rows of thumbnails, named at their left, and a legend of the classes that are seen below."""
    from PIL import Image

    host = {name: rows[name].cpu().numpy() for name in ("image", "found", "true")}
    used = (host["true"] != OUTSIDE).any(0)
    height, width = int(used.any(1).sum()), int(used.any(0).sum())
    left, columns = TEXT + 10, len(host["true"])
    wide = left + columns * (width + GAP)
    seen = np.setdiff1d(np.union1d(host["found"], host["true"]), [OUTSIDE])
    legend = _legend(seen.tolist(), classes, wide)
    sheet = Image.new("RGB", (wide, len(ROWS) * (height + GAP) + GAP + legend.height), PAPER)
    for row, name in enumerate(ROWS):
        top = GAP + row * (height + GAP)
        words = upright(name, font(TEXT))
        sheet.paste(words, (4, top + (height - words.height) // 2))
    for column in range(columns):
        image, found, true = (host[name][column, ..., :height, :width] for name in ("image", "found", "true"))
        for row, cell in enumerate(_cells(image.transpose(1, 2, 0), found, true)):
            sheet.paste(Image.fromarray(cell), (left + column * (width + GAP), GAP + row * (height + GAP)))
    sheet.paste(legend, (0, sheet.height - legend.height))
    return as_picture(sheet)


def _cells(image: Bytes, found: npt.NDArray[np.int16], true: npt.NDArray[np.int16]) -> Iterator[Bytes]:
    """A sample's rows, each (H, W, 3)."""
    outside = (true == OUTSIDE)[..., None]
    cells = (image, overlay(image, found), coloured(found), overlay(image, true), coloured(true))
    return (np.where(outside, np.uint8(255), cell) for cell in cells)


def _legend(seen: Sequence[int], classes: Sequence[str], wide: int) -> Image:
    """What the colours mean, in columns below one another."""
    from PIL import Image, ImageDraw

    colours = coloured(np.array(seen))
    known = {**dict(enumerate(classes)), VOID: "void"}
    names = [lettered(known.get(number, str(number)), TEXT) for number in seen]
    box, line = TEXT, TEXT + 8
    cell = min(wide, box + 20 + max(round(of.getlength(name)) for name, of in names))
    columns = max(1, wide // cell)
    sheet = Image.new("RGB", (wide, line * -(-len(seen) // columns) + 6), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, ((name, of), colour) in enumerate(zip(names, colours.tolist(), strict=True)):
        x, y = TEXT + 10 + place % columns * cell, 4 + place // columns * line
        pen.rectangle((x, y, x + box, y + box), tuple(colour), LINE)
        pen.text((x + box + 5, y + box // 2), fitted(name, cell - box - 10, of), INK, of, anchor="lm")
    return sheet
