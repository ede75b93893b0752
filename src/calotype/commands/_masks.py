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

from calotype.commands._outputs import folder, names, png, put, refuse_taken
from calotype.commands._predictions import Predicted, predictions
from calotype.commands._progress import Progress
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
    output = folder(args, "masks", "a pixel")
    places = []
    for name in names(files, args.inputs):
        drawn = output / f"{name.with_suffix('')}_overlay.png"
        places.append(Place(output / name.with_suffix(".png"), drawn if args.overlay else None))
    refuse_taken(files, output, [[path for path in (place.mask, place.overlay) if path] for place in places])
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


def _write(row: Predicted, place: Place) -> list[int]:
    """Write a file's masks; how many pixels it has of each number."""
    if row.mask is None:
        return []
    import numpy as np

    from calotype.config.build import locate

    mask = row.mask.numpy() if row.mask.element_size() == 1 else row.mask.numpy().astype(np.uint16)
    put(place.mask, locate("calotype.data.masks.encode")(mask))
    if place.overlay is not None and row.image is not None:
        put(place.overlay, _drawn(row.image, mask))
    counts: list[int] = np.bincount(mask.ravel(), minlength=VOID + 1).tolist()
    return counts


def _drawn(image: Tensor, mask: npt.NDArray[np.integer[Any]]) -> bytes:
    """A PNG of a mask over its image."""
    from calotype.palette import overlay

    return png(overlay(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), mask))


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
