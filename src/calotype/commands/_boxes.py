"""Predicted boxes as files: COCO's results of all images, the images' ids, on request the boxes over their images; and
a row about each image.

Where each file goes is settled, and two that want one place are refused, before anything is computed. predictions.json
and images.json are written as the images come, and take their places when all are done.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from calotype.commands._outputs import folder, names, png, put, refuse_taken, stream
from calotype.commands._predictions import Boxes, Predicted, predictions
from calotype.commands._progress import Progress
from calotype.drawing import Mark, class_colour, draw
from calotype.errors import RunFolderError, UsageError

if TYPE_CHECKING:
    from calotype.commands._model import Model

RESULTS, IMAGES = "predictions.json", "images.json"
PIXELS, SCORES = 4, 8
"""Decimals of boxes and of scores in files, so many that a measurement of the file is that of the network."""
DIGITS = 15
"""Of a file's name that is taken for a number, at most: more than that not every reader of JSON can hold."""


def write_boxes(args: argparse.Namespace, model: Model, files: Sequence[str]) -> int:
    """Write the boxes of all files into the folder `args.output`, a row about each to stdout; how many failed."""
    output = folder(args, "boxes", "each")
    called = names(files, args.inputs)
    ids = numbered(called)
    _refuse_doubled(files, called)
    drawn = [output / f"{name.with_suffix('')}_overlay.png" for name in called] if args.overlay else []
    refuse_taken(files, output, [[path] for path in drawn] or [[]] * len(files))
    if args.score is not None and hasattr(model.task, "score"):
        model.task.score = args.score
    found = predictions(model, files, args.batch_size, keep=args.overlay)
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    writer = WRITERS[args.format or "csv"](sys.stdout)
    failed, done = 0, 0
    with Progress(len(files), "images") as progress, coco(output, model) as results:
        for batch in found:
            for place, row in enumerate(batch, done):
                kept = _above(row, args.score)
                writer.row(kept, ids[place])
                results.add(kept, ids[place], called[place])
                _put_overlay(kept, drawn[place] if drawn else None, model.classes)
                failed += row.error is not None
            done += len(batch)
            progress.advance(len(batch))
    sys.stdout.flush()
    return failed


def _above(row: Predicted, score: float | None) -> Predicted:
    """The row with the boxes that score above that, where something is given."""
    return row if score is None or row.boxes is None else replace(row, boxes=row.boxes.above(score))


def numbered(called: Sequence[Path]) -> list[int]:
    """The images' ids: the numbers that their files are named by where all are and no two are alike, else 1, 2, ..."""
    stems = [name.stem for name in called]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= DIGITS for stem in stems):
        found = [int(stem) for stem in stems]
        if len(set(found)) == len(found):
            return found
    return list(range(1, len(called) + 1))


def _refuse_doubled(files: Sequence[str], called: Sequence[Path]) -> None:
    """Raises UsageError for two files of one name in images.json."""
    taken: dict[Path, str] = {}
    for file, name in zip(files, called, strict=True):
        if name in taken:
            raise UsageError(
                f"{taken[name]} and {file} would both be {name} in {IMAGES}; predict them into two folders, or name "
                "the folder that both are in, whose sub-folders are kept"
            )
        taken[name] = file


class Coco:
    """Writes images and their boxes as they come: `results` is the list that COCO's tools load, `images` has the images
    that were predicted and the categories.
    """

    def __init__(self, results: TextIO, images: TextIO, category_ids: Sequence[int]) -> None:
        self.results, self.images, self.category_ids = results, images, category_ids
        self._before = {results: "[", images: '{"images": ['}

    def add(self, row: Predicted, image_id: int, name: Path) -> None:
        """Write a file and its boxes; of one that failed nothing."""
        if row.boxes is None:
            return
        height, width = row.boxes.size
        about = {"id": image_id, "file_name": name.as_posix(), "width": width, "height": height}
        self._item(self.images, about)
        for found in _results(row.boxes):
            label = found.pop("label")
            self._item(self.results, {"image_id": image_id, "category_id": self.category_ids[label], **found})

    def end(self, classes: Sequence[str]) -> None:
        """Write what is behind the last item."""
        categories = [{"id": id, "name": name} for id, name in zip(self.category_ids, classes, strict=True)]
        self.results.write(f"{self._opening(self.results)}\n]\n")
        self.images.write(f'{self._opening(self.images)}\n],\n"categories": {json.dumps(categories)}}}\n')

    def _opening(self, file: TextIO) -> str:
        """What opens a list in which there is nothing yet."""
        return "" if self._before[file] == "," else self._before[file]

    def _item(self, file: TextIO, item: dict[str, Any]) -> None:
        file.write(f"{self._before[file]}\n{json.dumps(item, allow_nan=False)}")
        self._before[file] = ","


@contextmanager
def coco(output: Path, model: Model) -> Iterator[Coco]:
    """The two files in a folder, which take their places at the end of the context."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{output} can't be made: {error.strerror or error}") from error
    with ExitStack() as files:
        results, images = (files.enter_context(stream(output / name)) for name in (RESULTS, IMAGES))
        found = Coco(results, images, model.category_ids)
        yield found
        found.end(model.classes)


def _results(boxes: Boxes) -> Iterator[dict[str, Any]]:
    """Boxes in COCO's terms, with their classes as "label"."""
    for box, score, label in zip(boxes.xyxy.tolist(), boxes.scores.tolist(), boxes.labels.tolist(), strict=True):
        left, top, right, bottom = box
        bbox = (left, top, max(0.0, right - left), max(0.0, bottom - top))
        yield {"label": label, "bbox": [round(at, PIXELS) for at in bbox], "score": round(score, SCORES)}


def _put_overlay(row: Predicted, path: Path | None, classes: Sequence[str]) -> None:
    """Write a PNG of a file's boxes over its image, the best on top, where that is wanted."""
    if path is None or row.boxes is None or row.image is None:
        return
    import numpy as np
    from PIL import Image

    sheet = Image.fromarray(row.image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    rows = zip(row.boxes.xyxy.tolist(), row.boxes.scores.tolist(), row.boxes.labels.tolist(), strict=True)
    draw(sheet, [Mark(box, class_colour(label), classes[label], f"{score:.2f}") for box, score, label in rows])
    put(path, png(np.asarray(sheet)))


class _Writer(Protocol):
    def row(self, row: Predicted, image_id: int) -> None: ...


class Csv:
    """path, image_id, width, height, boxes (how many), error."""

    def __init__(self, stream: TextIO) -> None:
        self.writer = csv.writer(stream, lineterminator="\n")
        self.writer.writerow(["path", "image_id", "width", "height", "boxes", "error"])

    def row(self, row: Predicted, image_id: int) -> None:
        """Write a row."""
        cells: list[Any] = [*_told(row, image_id).values()] or [""] * 4
        self.writer.writerow([row.path, *cells, row.error or ""])


class JsonLines:
    """{"path", "image_id", "width", "height", "boxes": how many}, or {"path", "error"}."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def row(self, row: Predicted, image_id: int) -> None:
        """Write a line."""
        self.stream.write(json.dumps({"path": row.path, **(_told(row, image_id) or {"error": row.error})}) + "\n")


WRITERS: dict[str, Callable[[TextIO], _Writer]] = {"csv": Csv, "jsonl": JsonLines}


def _told(row: Predicted, image_id: int) -> dict[str, int]:
    """What a row says of a file's boxes; nothing of one that failed."""
    if row.boxes is None:
        return {}
    height, width = row.boxes.size
    return {"image_id": image_id, "width": width, "height": height, "boxes": len(row.boxes.scores)}
