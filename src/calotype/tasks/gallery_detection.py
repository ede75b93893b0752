"""Pictures of a detector's evaluation: its first samples and its worst with their boxes, and precision by recall.

What was found is judged at IoU 0.5 as COCO does: by descending score each box takes the object of its class that it
fits best of those that are left; one that fits nothing but a crowd or a difficult object counts nowhere, as those do.
"worst" are the samples with the most mistakes: objects that were missed and boxes that are false, at a score of 0.5.
Unusual: lists of boxes are judged on the host, so each shard is waited for once. Of all samples three numbers are kept
for each box that was found, of the samples that are shown a thumbnail and their boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.average_precision import matching
from calotype.average_precision.rows import Found, Rows, Truth
from calotype.boxes import moved
from calotype.drawing import Mark, Style, class_colour, draw
from calotype.lettering import fitted, font, lettered
from calotype.tasks.gallery import INK, LINE, PAPER, TEXT, Shown, as_picture, named, thumbnails
from calotype.types import CROWD, DIFFICULT

if TYPE_CHECKING:
    from PIL.Image import Image

    from calotype.types import Prediction, Shard

Picture = npt.NDArray[np.uint8]

ROWS, COLUMNS, SIDE, GAP = 3, 4, 256, 4
"""Of a grid: rows, columns, pixels of a thumbnail's side, pixels between thumbnails."""
SURE = 0.5
"""The score from which on boxes are drawn and mistakes counted."""
MOST = 100
"""Boxes of a sample that are drawn, objects first."""
CURVES, WIDE, HIGH = 20, 480, 360
"""Of precision by recall: classes, pixels."""
OBJECT, FOUND = 0.0, 1.0
"""What a row of marks is: an object, or a box that was found."""
YES, NO, NEITHER = float(matching.RIGHT), float(matching.WRONG), float(matching.IGNORED)
"""Whether an object was found, or a box is right."""
GREEN, RED, GREY, WHITE = (0, 150, 60), (215, 0, 40), (128, 128, 128), (255, 255, 255)
LEGEND = (
    ("object, named where missed", WHITE, True),
    (f"right at IoU {matching.LEAST}", GREEN, False),
    (f"false; both from a score of {SURE:.0%} on", RED, False),
    ("counts nowhere", GREY, False),
)
"""What lines mean: words, colour, whether they are dashed."""


class DetectionGallery:
    """Gallery of a task whose predictions hold lists of "boxes", "scores" and "labels", and whose shards "image" and a
    list "truth" (m, 7) with "affine", or else "boxes" and "labels".

    Pictures: `predictions` and `worst`, at most 12 samples each; `precision_recall`, a curve for each class, of more
    than 20 for those with the most objects.
    """

    of_all = ("worst", "precision_recall")

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = named(classes)
        self._shown = Shown(ROWS * COLUMNS, _small)
        self._objects = torch.zeros(len(self.classes), dtype=torch.int64)
        self._judged: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, prediction: Prediction, shard: Shard) -> None:
        """Take a shard. Waits for the device once."""
        marks, mistakes = [], []
        for found, truth, affine in _on_host(prediction, shard):
            right, taker = judged(found, truth)
            counts = (truth[:, 5].long() & (CROWD | DIFFICULT)) == 0
            self._count(found, truth[counts], right)
            sure = found[:, 4] >= SURE
            there = F.pad(sure, (0, 1))[taker]
            mistakes.append(int((counts & ~there).sum()) + int((sure & (right == NO)).sum()))
            told = torch.where(counts, there.double(), NEITHER)
            objects = torch.column_stack([moved(truth[:, :4], affine), truth[:, 4], torch.zeros_like(told), told])
            boxes = torch.column_stack([moved(found[:, :4], affine), found[:, 5], found[:, 4], right])[sure]
            marks.append(_marks(objects, boxes))
        rows = {"image": shard["image"], "marks": torch.stack(marks), "loss": torch.tensor(mistakes)}
        self._shown.begin(rows)
        self._shown.rank(rows)

    def _count(self, found: Tensor, objects: Tensor, right: Tensor) -> None:
        known = objects[:, 4][(objects[:, 4] >= 0) & (objects[:, 4] < len(self.classes))]
        self._objects += torch.bincount(known.long(), minlength=len(self.classes))
        counts = right != NEITHER
        scores, labels = found[counts, 4].float(), found[counts, 5].to(torch.int16)
        self._judged.append((scores, labels, right[counts] == YES))

    def pictures(self) -> Mapping[str, Picture]:
        """The pictures by name, (3, H, W) uint8; none before the first shard."""
        found = self._shown.drawn(lambda rows: grid(rows, self.classes))
        if self._judged and bool(self._objects.any()):
            scores, labels, right = (torch.cat(column).numpy() for column in zip(*self._judged, strict=True))
            points = {
                number: curve(scores[labels == number], right[labels == number], count)
                for number, count in _largest(self._objects.tolist())
            }
            found["precision_recall"] = plot(points, self.classes)
        return found


def _on_host(prediction: Prediction, shard: Shard) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each sample, on the host in float64: what was found (k, 6): xyxy, score, class, by descending score; the
    objects (m, 6): xyxy, class, flags; and the affine map to its image. One transfer brings all of it.
    """
    found = [_found(*row) for row in zip(*(prediction[name] for name in ("boxes", "scores", "labels")), strict=True)]
    if "truth" in shard.fields:
        objects = [truth.double()[:, :6] for truth in shard["truth"]]
    else:
        pairs = zip(shard["boxes"], shard["labels"], strict=True)
        objects = [torch.column_stack([boxes.double(), labels, torch.zeros_like(labels)]) for boxes, labels in pairs]
    device = shard["image"].device
    affine = shard.fields.get("affine")
    if not isinstance(affine, Tensor):
        affine = torch.eye(2, 3, dtype=torch.float64, device=device).expand(len(shard), 2, 3)
    sizes = [len(part) for part in (*found, *objects)] + [len(shard)]
    everything = torch.cat([part.to(device) for part in (*found, *objects, affine.double().reshape(-1, 6))]).cpu()
    *parts, maps = torch.split(everything, sizes)
    return [*zip(parts[: len(found)], parts[len(found) :], maps.view(-1, 2, 3), strict=True)]


def _found(boxes: Tensor | None, scores: Tensor | None, labels: Tensor | None) -> Tensor:
    if boxes is None or scores is None or labels is None:
        return torch.zeros(0, 6, dtype=torch.float64)
    return torch.column_stack([boxes.double(), scores.double(), labels.double()])


def judged(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """What was found (k, 6) against the objects (m, 6): for each box YES, NO or NEITHER, and the number of the box that
    each object was given to, (m,) int64, -1 for none.
    """
    boxes, objects = found.numpy(), truth.numpy()
    labels, flags = objects[:, 4].astype(np.int64), objects[:, 5].astype(np.int64)
    there = Truth(
        np.zeros_like(labels), labels, objects[:, :4], objects[:, 5], (flags & CROWD) > 0, (flags & DIFFICULT) > 0
    )
    kinds = boxes[:, 5].astype(np.int64)
    rows = Rows(1, 0, there, Found(np.zeros_like(kinds), kinds, boxes[:, :4], boxes[:, 4]))
    verdicts, takers = matching.judged(rows, coco=True)
    return torch.from_numpy(verdicts).double(), torch.from_numpy(takers)


def _marks(objects: Tensor, boxes: Tensor) -> Tensor:
    """At most MOST rows of a sample, (MOST, 8): xyxy, class, score, whether, what; NaN for none."""
    rows = torch.full((MOST, 8), torch.nan, dtype=torch.float64)
    both = torch.cat([F.pad(objects, (0, 1), value=OBJECT), F.pad(boxes, (0, 1), value=FOUND)])[:MOST]
    rows[: len(both)] = both
    return rows


def _small(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same rows with images (n, 3, SIDE, SIDE) uint8 in the upper left corner, and marks in their pixels."""
    image = thumbnails(rows["image"], SIDE)
    height, width = image.shape[-2:]
    across, down = width / rows["image"].shape[-1], height / rows["image"].shape[-2]
    marks = rows["marks"] * torch.tensor([across, down, across, down, 1, 1, 1, 1], dtype=torch.float64)
    colours = image if image.shape[1] == 3 else image[:, :1].expand(-1, 3, -1, -1)
    size = torch.tensor([[width, height]]).expand(len(marks), 2)
    return {
        **rows,
        "image": F.pad(colours, (0, SIDE - width, 0, SIDE - height), value=255),
        "marks": marks,
        "size": size,
    }


def grid(rows: Mapping[str, Tensor], classes: Sequence[str]) -> Picture:
    """Thumbnails with their boxes, and below them what the lines mean."""
    from PIL import Image

    host = {name: value.cpu() for name, value in rows.items()}
    wide, high = host["size"].amax(0).tolist()
    columns = min(COLUMNS, len(host["image"]))
    lines = -(-len(host["image"]) // columns)
    sheet = Image.new("RGB", (GAP + columns * (wide + GAP), GAP + lines * (high + GAP) + TEXT + 8), PAPER)
    for place, (image, marks, size) in enumerate(zip(host["image"], host["marks"], host["size"].tolist(), strict=True)):
        pixels = image[:, : size[1], : size[0]].permute(1, 2, 0).contiguous().numpy()
        cell = Image.fromarray(pixels)
        draw(cell, drawn(marks, classes), Style(2, TEXT))
        sheet.paste(cell, (GAP + place % columns * (wide + GAP), GAP + place // columns * (high + GAP)))
    key = _key()
    key = key.resize((min(key.width, sheet.width), max(1, round(key.height * min(1, sheet.width / key.width)))))
    sheet.paste(key, (GAP, sheet.height - TEXT - 6))
    return as_picture(sheet)


def _key() -> Image:
    """What the lines mean, beside one another."""
    from PIL import Image, ImageDraw

    of, side = font(TEXT), TEXT + 2
    starts = np.cumsum([0, *(side + 18 + round(of.getlength(text)) for text, _, _ in LEGEND)]).tolist()
    sheet = Image.new("RGB", (starts[-1], side), PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, (text, colour, dashed) in zip(starts[:-1], LEGEND, strict=True):
        swatch = Image.new("RGB", (side, side), PAPER)
        draw(swatch, [Mark((0, 0, side, side), colour, dashed=dashed)], Style(2, TEXT))
        sheet.paste(swatch, (x, 0))
        pen.text((x + side + 5, side // 2), text, INK, of, anchor="lm")
    return sheet


def drawn(rows: Tensor, classes: Sequence[str]) -> list[Mark]:
    """The marks of a sample: boxes that were found, above objects, which are dashed, and named where missed."""
    objects, boxes = [], []
    for *box, label, score, whether, what in rows[rows[:, 7].isfinite()].tolist():
        number = int(label)
        name = classes[number] if 0 <= number < len(classes) else str(number)
        if what == FOUND:
            colour = {YES: GREEN, NO: RED}.get(whether, GREY)
            boxes.append(Mark(box, colour, name, f"{score:.0%}"))
        else:
            colour = GREY if whether == NEITHER else WHITE
            objects.append(Mark(box, colour, name if whether == NO else "", dashed=True))
    return boxes + objects


def _largest(objects: Sequence[int]) -> list[tuple[int, int]]:
    """The classes with the most objects and how many, in the order of classes; none without."""
    some = sorted((number for number, count in enumerate(objects) if count), key=lambda number: -objects[number])
    return [(number, objects[number]) for number in sorted(some[:CURVES])]


def curve(scores: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], objects: int) -> npt.NDArray[np.float64]:
    """Recall and precision as it falls by descending score, (n, 2): at each recall the best precision from there on."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    recall, precision = hits / objects, hits / np.arange(1, len(order) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    turns = np.flatnonzero(right[order])
    return np.column_stack([recall[turns], best[turns]])


def plot(curves: Mapping[int, npt.NDArray[np.float64]], classes: Sequence[str]) -> Picture:
    """The curves as steps, with a legend of their classes."""
    from PIL import Image, ImageDraw

    left, top = 34, TEXT + 14
    legend = _legend([*curves], classes)
    high = max(top + HIGH + 2 * TEXT + 14, legend.height + top)
    sheet = Image.new("RGB", (left + WIDE + 16 + legend.width, high), PAPER)
    pen = ImageDraw.Draw(sheet)
    some = f", the {len(curves)} classes with the most objects" if len(classes) > CURVES else ""
    pen.text((left, 4), f"precision by recall at IoU {matching.LEAST}{some}", INK, font(TEXT))
    sheet.paste(_lines(curves), (left, top))
    for tick in range(6):
        share = tick / 5
        pen.text((left - 5, top + HIGH - round(share * HIGH)), f"{share:.1f}", INK, font(10), anchor="rm")
        pen.text((left + round(share * WIDE), top + HIGH + 4), f"{share:.1f}", INK, font(10), anchor="ma")
    pen.text((left + WIDE // 2, top + HIGH + TEXT + 6), "recall", INK, font(TEXT), anchor="ma")
    sheet.paste(legend, (left + WIDE + 16, top))
    return as_picture(sheet)


def _lines(curves: Mapping[int, npt.NDArray[np.float64]]) -> Image:
    """The plane of the curves, drawn large and made smaller, which smooths the lines."""
    from PIL import Image, ImageDraw

    times = 3
    wide, high = WIDE * times, HIGH * times
    plane = Image.new("RGB", (wide, high), PAPER)
    pen = ImageDraw.Draw(plane)
    for tick in range(6):
        x, y = tick * (wide - times) // 5, tick * (high - times) // 5
        pen.rectangle((x, 0, x + times - 1, high), LINE)
        pen.rectangle((0, y, wide, y + times - 1), LINE)
    for number, points in curves.items():
        steps = [(0.0, 0.0 if not len(points) else float(points[0, 1]))]
        for recall, precision in points.tolist():
            steps += [(steps[-1][0], precision), (recall, precision)]
        steps.append((steps[-1][0], 0.0))
        pixels = [(x * (wide - 1), (1 - y) * (high - 1)) for x, y in steps]
        pen.line(pixels, class_colour(number), 2 * times, joint="curve")
    return plane.resize((WIDE, HIGH), Image.Resampling.LANCZOS)


def _legend(numbers: Sequence[int], classes: Sequence[str]) -> Image:
    """The classes beside their colours, below one another."""
    from PIL import Image, ImageDraw

    names = [lettered(classes[number], TEXT) for number in numbers]
    wide = min(200, TEXT + 12 + max(round(of.getlength(name)) for name, of in names))
    sheet = Image.new("RGB", (wide, (TEXT + 6) * len(numbers) + 4), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (number, (name, of)) in enumerate(zip(numbers, names, strict=True)):
        y = place * (TEXT + 6)
        pen.rectangle((0, y + TEXT // 2 - 1, TEXT, y + TEXT // 2 + 1), class_colour(number))
        pen.text((TEXT + 5, y + TEXT // 2), fitted(name, wide - TEXT - 8, of), INK, of, anchor="lm")
    return sheet
