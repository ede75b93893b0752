"""`calotype data download NAME`: fetch a published data set, check every byte, put it where its config looks for it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from calotype.commands._arguments import add_config_dir, paths
from calotype.commands._progress import Progress
from calotype.errors import UsageError

HELP = """Fetch a published data set. It is checked against its published sha256; what is there already is kept.

  calotype data download mnist                  into paths.data (the variable CALOTYPE_DATA, or ./data)
  calotype data download cifar10 --to DIR"""


MB = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", metavar="NAME", help="a data group, as in data=NAME: mnist, cifar10, ...")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder that paths.data is to name")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0. Raises UsageError for a data set that has nothing to fetch, DataError when it can't be had."""
    from calotype.config.build import locate
    from calotype.config.check import check_schema
    from calotype.config.compose import compose

    config = compose([f"data={args.name}"], config_dirs=args.config_dir)
    check_schema(config)
    dataset: Any = locate(str(config.tree["data"]["_target_"]))
    if not hasattr(dataset, "download"):
        raise UsageError(f"{args.name} has nothing to download: {dataset.__name__} reads files that you have")
    target = paths(config.tree).data if args.to is None else args.to
    with _Bytes() as told:
        folder = dataset.download(Path(target).expanduser(), told)
    if args.json:
        sys.stdout.write(json.dumps({"name": args.name, "folder": str(folder), "paths.data": str(target)}) + "\n")
    else:
        sys.stderr.write(f"{args.name} is in {folder}: train with paths.data={target}\n")
    return 0


class _Bytes:
    """A progress line for each file that is fetched, in MB."""

    def __init__(self) -> None:
        self.name = ""
        self.line: Progress | None = None

    def __enter__(self) -> _Bytes:
        return self

    def __exit__(self, *error: object) -> None:
        if self.line is not None:
            self.line.__exit__(None, None, None)

    def __call__(self, name: str, done: int, total: int) -> None:
        if name != self.name or self.line is None:
            self.__exit__()
            self.name, self.line = name, Progress(-(-total // MB), f"MB of {name}")
        self.line.advance(-(-done // MB) - self.line.done)
