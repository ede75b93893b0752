"""Pictures of a classifier's evaluation: its first samples, its worst mistakes, its confusion matrix.

Samples are kept as thumbnails on the device until the pictures are drawn, on the host, with Pillow. "worst" are the
samples of the highest loss, cross-entropy of the softmax or of each class's sigmoid, whatever the task trains with.
Unusual: small images are enlarged by whole pixels, so that a digit of 8x8 is seen as the network sees it; images that
leave 0..1, because an evaluation transform normalises them, are stretched into it. A class whose name is in letters
that no font of the system has is called by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.lettering import can_letter, fitted, font, lettered
from calotype.metrics import confusion

if TYPE_CHECKING:
    from PIL.Image import Image

    from calotype.lettering import Font
    from calotype.types import Prediction, Shard

Picture = npt.NDArray[np.uint8]

ROWS, COLUMNS, SIDE, TEXT = 5, 5, 112, 12
"""Of a grid: rows, columns, pixels of a thumbnail's side, and of its letters."""
LARGEST = 100
"""Classes up to which a confusion matrix is drawn."""
RIGHT, WRONG, INK, LINE, PAPER = (0, 110, 40), (180, 0, 30), (40, 40, 40), (225, 225, 225), (255, 255, 255)


class ClassificationGallery:
    """Gallery of a task whose predictions hold "logits" (n, C) and whose shards "image" and "label".

    Pictures: `predictions` and `worst`, each a grid of at most 25 thumbnails with the label, and the prediction with
    its probability; `confusion`, rows by label, for one class an image and up to 100 classes.
    """

    of_all = ("worst", "confusion")

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = named(classes)
        self._shown = Shown(ROWS * COLUMNS, _thumbnails)
        self._confusion: Tensor | None = None

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Take a shard. Nothing waits for the device."""
        logits, label = prediction["logits"], shard["label"]
        rows = {"image": shard["image"], "label": label, "logits": logits, "loss": _losses(logits, label)}
        self._shown.begin(rows)
        self._shown.rank(rows)
        if label.dim() == 1 and len(self.classes) <= LARGEST:
            counts = confusion(label, logits.argmax(1), len(self.classes))
            self._confusion = counts if self._confusion is None else self._confusion + counts

    def pictures(self) -> Mapping[str, Picture]:
        """The pictures by name, (3, H, W) uint8; none before the first shard."""
        found = self._shown.drawn(self._grid)
        if self._confusion is not None:
            found["confusion"] = matrix(self._confusion.cpu().numpy(), self.classes)
        return found

    def _grid(self, rows: Mapping[str, Tensor]) -> Picture:
        host = {name: value.cpu() for name, value in rows.items()}
        cells = [
            (image, *self._told(label, logits))
            for image, label, logits in zip(host["image"], host["label"], host["logits"], strict=True)
        ]
        return grid(cells)

    def _told(self, label: Tensor, logits: Tensor) -> tuple[str, str, bool]:
        """Label and prediction in words, and whether they agree."""
        if label.dim() == 0:
            best = int(logits.argmax())
            share = float(logits.softmax(0)[best])
            return self._names([int(label)]), f"{share:.0%} {self._names([best])}", best == int(label)
        true = torch.nonzero(label > 0.5).flatten().tolist()
        found = torch.nonzero(logits > 0).flatten().tolist()
        return self._names(true), self._names(found), true == found

    def _names(self, numbers: Sequence[int]) -> str:
        known = range(len(self.classes))
        return ", ".join(self.classes[number] if number in known else str(number) for number in numbers) or "none"


class Shown:
    """The samples that a gallery shows, as thumbnails on the device: the first, and those of the highest "loss", at
    most `count` of each. Rows hold "image" and what else has the sample as its first dimension; `small` makes them so.
    """

    def __init__(self, count: int, small: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]) -> None:
        self.count, self.small = count, small
        self.first: dict[str, Tensor] = {}
        self.worst: dict[str, Tensor] = {}

    def begin(self, rows: Mapping[str, Tensor]) -> None:
        """Take what is missing of the first samples."""
        missing = self.count - (len(self.first["image"]) if self.first else 0)
        if missing:
            self.first = _joined(self.first, self.small({name: value[:missing] for name, value in rows.items()}))

    def rank(self, rows: Mapping[str, Tensor]) -> None:
        """Take those that are worse than what there is."""
        self.worst = _highest(_joined(self.worst, self.small(_highest(rows, self.count))), self.count)

    def drawn(self, grid: Callable[[Mapping[str, Tensor]], Picture]) -> dict[str, Picture]:
        """The pictures "predictions" and "worst", as far as there is something to show."""
        grids = {"predictions": self.first, "worst": self.worst}
        return {name: grid(rows) for name, rows in grids.items() if rows}


def named(classes: Sequence[str]) -> tuple[str, ...]:
    """The names that can be written, `class N` in the place of the others."""
    return tuple(name if can_letter(name, TEXT) else f"class {number}" for number, name in enumerate(classes))


def _losses(logits: Tensor, label: Tensor) -> Tensor:
    if label.dim() == 2:
        return F.binary_cross_entropy_with_logits(logits, label.to(logits.dtype), reduction="none").sum(1)
    return logits.logsumexp(1) - logits.gather(1, label.long().unsqueeze(1)).squeeze(1)


def _joined(rows: Mapping[str, Tensor], more: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows and more of them."""
    return {name: torch.cat([rows[name], value]) for name, value in more.items()} if rows else more


def _highest(rows: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The rows of the highest "loss"."""
    order = rows["loss"].argsort(descending=True, stable=True)[:count]
    return {name: value[order] for name, value in rows.items()}


def _thumbnails(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same rows with images as (n, c, SIDE, SIDE) uint8, fitted in above their words, on white."""
    image = thumbnails(rows["image"], SIDE)
    height, width = image.shape[-2:]
    left = (SIDE - width) // 2
    return {**rows, "image": F.pad(image, (left, SIDE - width - left, SIDE - height, 0), value=255)}


def thumbnails(image: Tensor, side: int) -> Tensor:
    """Images (n, c, H, W) as uint8, the longer side at most `side`; small ones are enlarged by whole pixels."""
    if image.dtype != torch.uint8:
        low, high = image.amin((1, 2, 3), keepdim=True).clamp(max=0), image.amax((1, 2, 3), keepdim=True).clamp(min=1)
        image = (image.float() - low) / (high - low) * 255
    longest = max(image.shape[-2:])
    if longest > side:
        size = [max(1, round(length * side / longest)) for length in image.shape[-2:]]
        image = F.interpolate(image.float(), size, mode="bilinear", antialias=True)
    image = image if image.dtype == torch.uint8 else image.round().clamp(0, 255).to(torch.uint8)
    times = max(1, side // longest)
    return image.repeat_interleave(times, 2).repeat_interleave(times, 3)


def grid(cells: Sequence[tuple[Tensor, str, str, bool]]) -> Picture:
    """A grid of cells (thumbnail, label, prediction, whether they agree); the prediction's words are green or red."""
    from PIL import Image, ImageDraw

    gap = 6
    wide, high = SIDE + gap, SIDE + 2 * (TEXT + 3) + gap
    sheet = Image.new("RGB", (gap + COLUMNS * wide, gap + -(-len(cells) // COLUMNS) * high), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (thumbnail, label, predicted, agree) in enumerate(cells):
        x, y = gap + place % COLUMNS * wide, gap + place // COLUMNS * high
        rgb = thumbnail if len(thumbnail) == 3 else thumbnail[:1].expand(3, -1, -1)
        sheet.paste(Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy()), (x, y))
        for line, (text, ink) in enumerate(((label, INK), (predicted, RIGHT if agree else WRONG))):
            words, of = lettered(text, TEXT)
            pen.text((x, y + SIDE + 1 + line * (TEXT + 2)), fitted(words, SIDE, of), ink, of)
    return as_picture(sheet)


def matrix(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> Picture:
    """A confusion matrix as a picture: rows by label, columns by prediction, darker for a larger share of its row.

    Names stand beside it and numbers in its cells where there is room.
    """
    from PIL import Image, ImageDraw

    number = len(classes)
    cell = 36 if number <= 20 else max(6, 720 // number)
    names = [lettered(name, TEXT) for name in named(classes)] if cell >= TEXT + 2 else []
    margin = min(160, 12 + max(round(of.getlength(name)) for name, of in names)) if names else 8
    size, head = number * cell, TEXT + 8
    caption = "rows: label, columns: prediction"
    wide = margin + max(size, round(font(TEXT).getlength(caption))) + 8
    sheet = Image.new("RGB", (wide, head + size + margin), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((margin, 3), caption, INK, font(TEXT))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row in range(number):
        top = head + row * cell
        if names:
            text, of = names[row]
            text = fitted(text, margin - 8, of)
            pen.text((margin - 4, top + cell // 2), text, INK, of, anchor="rm")
            turned = upright(text, of)
            sheet.paste(turned, (margin + row * cell + (cell - turned.width) // 2, head + size + 4))
        for column in range(number):
            left, share = margin + column * cell, float(shares[row, column])
            pen.rectangle((left, top, left + cell, top + cell), _shade(share, diagonal=row == column), LINE)
            if number <= 20 and counts[row, column]:
                middle, ink = (left + cell // 2, top + cell // 2), PAPER if share > 0.35 else INK
                pen.text(middle, _short(int(counts[row, column])), ink, font(10), anchor="mm")
    return as_picture(sheet)


def upright(text: str, of: Font) -> Image:
    """The text, read from below."""
    from PIL import Image, ImageDraw

    line = Image.new("RGB", (max(1, round(of.getlength(text))), TEXT + 4), PAPER)
    ImageDraw.Draw(line).text((0, 0), text, INK, of)
    return line.rotate(90, expand=True)


def _shade(share: float, *, diagonal: bool) -> tuple[int, int, int]:
    """White to green on the diagonal, white to red off it; small shares are seen too."""
    full, depth = (RIGHT if diagonal else WRONG), share**0.5
    return tuple(round(255 + (part - 255) * depth) for part in full)


def _short(number: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 10 * size:
            return f"{number / size:.0f}{unit}"
    return str(number)


def as_picture(sheet: Image) -> Picture:
    """The sheet as trackers take it."""
    pixels: Any = np.asarray(sheet)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
