"""`calotype data download`: fetch a published data set, or published weights, and put it where a run looks for it.

This verb alone opens connections. Every byte is checked against what was published; of weights that is the first
digits of the sha256 in the file's name, or nothing, so their whole sha256 is told, to be put into the config.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from calotype.commands._arguments import add_config_dir, paths
from calotype.commands._progress import Progress
from calotype.errors import CheckpointError, DataError, UsageError

HELP = """Fetch a published data set or published weights. What is there already is checked and kept.

  calotype data download mnist                  into paths.data (the variable CALOTYPE_DATA, or ./data)
  calotype data download cifar10 --to DIR
  calotype data download --weights timm/resnet50.a1_in1k        into Calotype's cache, for module.weights
  calotype data download --weights torchvision/ResNet18_Weights.IMAGENET1K_V1"""


MB = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="a data group, as in data=NAME: mnist, cifar10, ...")
    parser.add_argument("--weights", metavar="SOURCE", help="timm/NAME[.TAG] or torchvision/NAME_Weights.MEMBER")
    parser.add_argument("--sha256", metavar="HEX", help="with --weights: the sha256 that the file must have")
    parser.add_argument("--to", type=Path, metavar="DIR", help="another folder: the one that paths.data is to name")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    add_config_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0. Raises UsageError for a data set that has nothing to fetch, DataError when it can't be had."""
    if (args.name is None) == (args.weights is None):
        raise UsageError("name a data set, or weights by --weights SOURCE")
    if args.sha256 and not args.weights:
        raise UsageError("--sha256 goes with --weights; the digests of data sets are known")
    with _Bytes() as told:
        found, message = (_weights if args.weights else _data_set)(args, told)
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stderr.write(message + "\n")
    return 0


def _data_set(args: argparse.Namespace, progress: Callable[[str, int, int], None]) -> tuple[dict[str, str], str]:
    """Fetch a data set; what is told of it, to programs and to people."""
    from calotype.config.build import locate
    from calotype.config.check import check_schema
    from calotype.config.compose import compose

    config = compose([f"data={args.name}"], config_dirs=args.config_dir)
    check_schema(config)
    dataset: Any = locate(str(config.tree["data"]["_target_"]))
    if not hasattr(dataset, "download"):
        raise UsageError(f"{args.name} has nothing to download: {dataset.__name__} reads what is there already")
    target = str(paths(config.tree).data if args.to is None else args.to)
    folder = dataset.download(Path(target).expanduser(), progress)
    told = {"name": args.name, "folder": str(folder), "paths.data": target}
    return told, f"{args.name} is in {folder}: train with paths.data={target}"


def _weights(args: argparse.Namespace, progress: Callable[[str, int, int], None]) -> tuple[dict[str, str], str]:
    """The same of weights. Raises DataError for a file that holds none, which is removed."""
    from calotype.config.published import is_published, published
    from calotype.engine.weights import read_weights
    from calotype.fetch import fetch
    from calotype.files import sha256_file

    if not is_published(args.weights):
        raise UsageError(f"--weights {args.weights} is a file's path: train with module.weights={args.weights}")
    named = published(args.weights)
    remote = replace(named.remote, sha256=(args.sha256 or named.remote.sha256).lower())
    file = fetch(remote, args.to.expanduser() if args.to else named.folder, progress)
    try:
        read_weights(file)
    except CheckpointError as error:
        file.unlink()
        raise DataError(f"{remote.sources[0]} gave no file of weights, which was removed: {error}") from error
    source, digest = str(file.absolute()) if args.to else named.name, sha256_file(file)
    override = f"module.weights={{source: {source}, sha256: {digest}}}"
    told = {"name": named.name, "file": str(file), "sha256": digest, "override": override}
    return told, f"{named.name} is in {file}\nsha256 {digest}\ntrain with '{override}'"


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
