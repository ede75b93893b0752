"""`calotype data convert`: write a data set of boxes as a folder in another layout.

It is for data sets whose splits are boxed sources (`data/boxed.py`), of whatever layout. Images are copied byte for
byte, splits stay as they are; what the layout can't hold is counted and told. The folder appears when it is whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from calotype.commands._dataset import add_dataset_arguments, open_dataset
from calotype.commands._new_folder import check_new, written
from calotype.commands._progress import Progress
from calotype.commands._text import printable
from calotype.errors import UsageError

HELP = """Write a data set of boxes in another layout; images are copied as they are.

  calotype data convert DIR --to DIR --format coco       DIR as for data check
  calotype data convert data=coco paths.data=DIR --to DIR --format yolo"""
FORMATS = ("coco", "voc", "yolo", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_dataset_arguments(parser, workers=False)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to write, new or empty")
    parser.add_argument("--format", required=True, choices=FORMATS, help="the layout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0. Raises UsageError for a data set without boxes and a folder in use, DataError for a data set
    that can't be opened as a whole.
    """
    from calotype.config.build import locate

    folder = args.to.expanduser()
    check_new(folder)
    opened = open_dataset(args)
    if opened.faults:
        raise opened.faults[0]
    if odd := next((name for name, source in opened.sources.items() if not hasattr(source, "annotations")), None):
        raise UsageError(f"{printable(opened.told())} has no boxes to convert: its {odd} is none of images with boxes")
    convert: Any = locate("calotype.data.convert.convert")
    boxed: dict[str, Any] = {**opened.sources}
    counts = {name: len(source.known) for name, source in boxed.items()}
    with Progress(sum(counts.values()), "images written") as progress:
        done = written(
            folder.absolute(),
            lambda place: convert(place, args.format, opened.sources, opened.classes, progress.advance),
        )
    overrides = ["experiment=boxes", f"data={done.group}", f"paths.data={folder}"]
    if args.json:
        told = {"folder": str(folder), "splits": counts, "overrides": overrides, "lost": done.lost}
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        for what, count in done.lost.items():
            sys.stderr.write(f"{args.format}: {count} {what}\n")
        told_counts = ", ".join(f"{split} {count}" for split, count in counts.items())
        sys.stderr.write(f"{printable(folder)}: {told_counts}; train with {' '.join(overrides)}\n")
    return 0
