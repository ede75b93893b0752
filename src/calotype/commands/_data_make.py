"""`calotype data make`: write a data set that is drawn, not read, into a folder in a layout that others read.

It is for data sets with `formats` and `write(folder, format, seen)`, which returns the overrides that train on what it
wrote. The folder appears when it is whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from calotype.commands._arguments import add_config_dir, paths
from calotype.commands._new_folder import check_new, written
from calotype.commands._progress import Progress
from calotype.errors import UsageError

HELP = """Write a data set that is drawn as files, the same each time.

  calotype data make shapes --format voc       into NAME_FORMAT in paths.data
  calotype data make shapes --format coco --to DIR --images 400,50,50 --size 128 --seed 3 data.most=6"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="a data group, as in data=NAME: shapes")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="key=value, as train takes them")
    parser.add_argument("--format", required=True, metavar="FORMAT", help="the layout: voc, coco")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder to write, which must be new or empty")
    parser.add_argument("--images", metavar="N,N,N", help="data.images: to train, validate and test with")
    parser.add_argument("--size", type=int, metavar="S", help="data.size: pixels of a side")
    parser.add_argument("--seed", type=int, metavar="K", help="data.draw_seed")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0. Raises UsageError for a data set that can't be written and a folder in use."""
    from calotype.config.build import build, split_settings
    from calotype.config.check import check_schema
    from calotype.config.compose import compose
    from calotype.settings import DataSettings

    given = {"images": None if args.images is None else f"[{args.images}]", "size": args.size, "draw_seed": args.seed}
    overrides = [f"data.{name}={value}" for name, value in given.items() if value is not None]
    config = compose([f"data={args.name}", *overrides, *args.overrides], config_dirs=args.config_dir)
    check_schema(config)
    _, node = split_settings(config.tree["data"], DataSettings, "data")
    dataset: Any = build(node, "data")
    if not hasattr(dataset, "write"):
        raise UsageError(f"{args.name} is no data set that can be made: {type(dataset).__name__} reads what is there")
    if args.format not in dataset.formats:
        raise UsageError(f"--format {args.format}: {args.name} is written as {', '.join(dataset.formats)}")
    folder = (args.to or paths(config.tree).data / f"{args.name}_{args.format}").expanduser()
    check_new(folder)
    counts = {split: len(dataset.split(split)) for split in dataset.splits}
    with Progress(sum(counts.values()), "images written") as progress:
        made = written(folder.absolute(), lambda place: dataset.write(place, args.format, progress.advance))
        found = [*made, f"paths.data={folder}"]
    if args.json:
        sys.stdout.write(json.dumps({"folder": str(folder), "splits": counts, "overrides": found}) + "\n")
    else:
        told = ", ".join(f"{split} {count}" for split, count in counts.items())
        sys.stderr.write(f"{args.name} is in {folder}: {told}; train with {' '.join(found)}\n")
    return 0
