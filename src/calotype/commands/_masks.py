"""Predicted masks as files: a palette PNG for each image, on request the mask over its image, and a row about both.

Where each file goes is settled, and two that want one place are refused, before anything is computed. A PNG is there
whole or not at all.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from calotype.commands._predictions import Predicted, predictions
from calotype.commands._progress import Progress
from calotype.errors import RunFolderError, UsageError
from calotype.files import replace_file
from calotype.types import VOID

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from calotype.commands._model import Model


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's mask goes, and the mask over its image where that is wanted."""

    mask: Path
    overlay: Path | None


def write_masks(args: argparse.Namespace, model: Model, files: Sequence[str]) -> int:
    """Write the mask of each file into the folder `args.output`, a row about it to stdout; how many failed."""
    if args.output is None:
        raise UsageError("--output DIR is missing: the run predicts masks, and they are files")
    if args.output.exists() and not args.output.is_dir():
        raise UsageError(f"--output {args.output} is a file; the masks go into a folder")
    if args.topk != 1:
        raise UsageError(f"--topk {args.topk}: the run predicts masks, which have one class a pixel")
    places = _places(files, args.inputs, args.output, overlay=args.overlay)
    found = predictions(model, files, args.batch_size, keep=args.overlay)
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    writer = WRITERS[args.format or "csv"](sys.stdout, model.classes)
    failed, unseen, done = 0, 0, 0
    with Progress(len(files), "images") as progress:
        for batch in found:
            for row, place in zip(batch, places[done : done + len(batch)], strict=True):
                counts = _write(row, place)
                writer.row(row, place.mask, counts)
                failed += row.error is not None
                unseen += bool(counts) and _counted(counts, model.classes)[-1][1] > 0
            done += len(batch)
            progress.advance(len(batch))
    sys.stdout.flush()
    if unseen:
        sys.stderr.write(
            f"warning: the evaluation transforms cut {unseen} of {len(files)} images; what the network didn't see is "
            f"{VOID} (void) in their masks\n"
        )
    return failed


def _places(files: Sequence[str], inputs: Sequence[str], output: Path, *, overlay: bool) -> list[Place]:
    """Raises UsageError for two files of one place, and for a place that is an input."""
    from calotype.config.build import locate

    found = [
        Place(output / name.with_suffix(".png"), output / f"{name.with_suffix('')}_overlay.png" if overlay else None)
        for name in locate("calotype.data.listed.placed")(files, inputs)
    ]
    read = {Path(file).resolve(): file for file in files}
    taken: dict[Path, str] = {}
    for file, place in zip(files, found, strict=True):
        for path in (place.mask, place.overlay):
            if path is None:
                continue
            if path in taken:
                raise UsageError(
                    f"{taken[path]} and {file} would both be written to {path}; predict them into two folders, or name "
                    "the folder that both are in, whose sub-folders are kept"
                )
            if path.resolve() in read:
                raise UsageError(f"--output {output}: {path} is an image to predict; take another folder")
            taken[path] = file
    return found


def _write(row: Predicted, place: Place) -> list[int]:
    """Write a file's masks; how many pixels it has of each number."""
    if row.mask is None:
        return []
    import numpy as np

    from calotype.config.build import locate

    mask = row.mask.numpy() if row.mask.element_size() == 1 else row.mask.numpy().astype(np.uint16)
    _put(place.mask, locate("calotype.data.masks.encode")(mask))
    if place.overlay is not None and row.image is not None:
        _put(place.overlay, _drawn(row.image, mask))
    counts: list[int] = np.bincount(mask.ravel(), minlength=VOID + 1).tolist()
    return counts


def _put(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise RunFolderError(f"{path} can't be written: {error.strerror or error}") from error


def _drawn(image: Tensor, mask: npt.NDArray[np.integer[Any]]) -> bytes:
    """A PNG of a mask over its image."""
    import io

    from PIL import Image

    from calotype.palette import overlay

    file, pixels = io.BytesIO(), image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    Image.fromarray(overlay(pixels, mask)).save(file, "PNG")
    return file.getvalue()


class _Writer(Protocol):
    def row(self, row: Predicted, mask: Path, counts: Sequence[int]) -> None: ...


class Csv:
    """path, mask, width, height, pixels[<class>] of each class and of void, error."""

    def __init__(self, stream: TextIO, classes: Sequence[str]) -> None:
        self.classes, self.writer = classes, csv.writer(stream, lineterminator="\n")
        counted = [f"pixels[{name}]" for name in (*classes, "void")]
        self.writer.writerow(["path", "mask", "width", "height", *counted, "error"])

    def row(self, row: Predicted, mask: Path, counts: Sequence[int]) -> None:
        """Write a row."""
        cells: list[Any] = [""] * (4 + len(self.classes))
        if row.mask is not None:
            height, width = row.mask.shape
            cells = [mask, width, height, *(pixels for _, pixels in _counted(counts, self.classes))]
        self.writer.writerow([row.path, *cells, row.error or ""])


class JsonLines:
    """{"path", "mask", "width", "height", "pixels": {class: how many}} of the classes that are there, or {"path",
    "error"}.
    """

    def __init__(self, stream: TextIO, classes: Sequence[str]) -> None:
        self.stream, self.classes = stream, classes

    def row(self, row: Predicted, mask: Path, counts: Sequence[int]) -> None:
        """Write a line."""
        told: dict[str, Any] = {"error": row.error}
        if row.mask is not None:
            height, width = row.mask.shape
            there = {name: pixels for name, pixels in _counted(counts, self.classes) if pixels}
            told = {"mask": str(mask), "width": width, "height": height, "pixels": there}
        self.stream.write(json.dumps({"path": row.path, **told}) + "\n")


WRITERS: dict[str, Callable[[TextIO, Sequence[str]], _Writer]] = {"csv": Csv, "jsonl": JsonLines}


def _counted(counts: Sequence[int], classes: Sequence[str]) -> list[tuple[str, int]]:
    """The pixels of each class, and of void where that is no class."""
    found = list(zip(classes, [*counts, *[0] * len(classes)], strict=False))
    return [*found, ("void", counts[VOID] if len(classes) <= VOID else 0)]
