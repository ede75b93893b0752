"""The data set that a `data` verb is about: a folder by its name, read as what lies in it looks like, or what a config
says.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calotype.commands._arguments import add_config_dir, describe_groups
from calotype.config.build import build, split_settings
from calotype.config.check import check_schema
from calotype.config.compose import compose
from calotype.errors import DataError, UsageError
from calotype.settings import DataSettings
from calotype.types import DataSet, Source

ORDER = ("train", "val", "test")
FILES = {"data.yaml": "yolo", "boxes.csv": "box_table"}
"""Data groups by the file in a folder that tells them."""
COCO = ("annotations/instances_*.json", "*/_annotations.coco.json")
"""Files of COCO's annotations, which tell a folder in one of its layouts."""


@dataclass(slots=True)
class Opened:
    """A data set's node in the config, its classes, the splits that can be opened, and why others can't."""

    node: dict[str, Any]
    classes: Sequence[str] = ()
    sources: dict[str, Source] = field(default_factory=dict)
    faults: list[DataError] = field(default_factory=list)
    found: DataSet | None = None

    def told(self) -> str:
        """The data set in a few words."""
        root = self.node.get("root")
        name = str(self.node.get("_target_", "")).rpartition(".")[2]
        return name if root is None else f"{name} in {root}"


def add_dataset_arguments(parser: argparse.ArgumentParser, workers: bool = True) -> None:
    """Add WHAT..., `--workers` where there are any, `--json`, `--config-dir`."""
    parser.add_argument(
        "what", nargs="*", metavar="DIR|OVERRIDE", help="a folder of data, or what train takes: data=mnist, key=value"
    )
    parser.set_defaults(workers=None)
    if workers:
        parser.add_argument("--workers", type=int, metavar="N", help="processes; by default one a core, 0 for this one")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    add_config_dir(parser)
    parser.epilog = describe_groups()


def open_dataset(args: argparse.Namespace) -> Opened:
    """The data set that the arguments name. Raises UsageError for two folders, ConfigError as `train` does."""
    if args.workers is not None and args.workers < 0:
        raise UsageError(f"--workers {args.workers}: at least 0")
    folders = [item for item in args.what if _is_folder(item)]
    overrides = [item for item in args.what if item not in folders]
    if len(folders) > 1:
        raise UsageError(f"{folders[0]} and {folders[1]} are two data sets; name one")
    odd = [item for item in overrides if "=" not in item and item[:1] != "~" and not item.endswith((".yaml", ".py"))]
    if odd:
        raise UsageError(f"{odd[0]} is no folder, no override such as data=mnist, and no config file")
    config = compose([f"data={_group(folders[0])}", *overrides] if folders else overrides, config_dirs=args.config_dir)
    if folders:
        config.tree["data"]["root"] = folders[0]
    check_schema(config)
    _, node = split_settings(config.tree["data"], DataSettings, "data")
    return _open(Opened(node))


def _is_folder(word: str) -> bool:
    """Whether a word is a folder and not an override: a name of ours with a `=` is meant as `./name=x`."""
    key = word.partition("=")[0] if "=" in word else "/"
    return "/" in key and Path(os.path.expanduser(word)).is_dir()  # noqa: PTH111 - `~key` is nobody's home


def _group(folder: str) -> str:
    """The data group that reads a folder, by what lies in it."""
    top = Path(folder).expanduser()
    places = [top, *sorted(place for place in (top / "VOCdevkit").glob("VOC*") if place.is_dir())]
    if any((place / "SegmentationClass").is_dir() for place in places):
        return "voc2012"
    if any((place / "Annotations").is_dir() and (place / "JPEGImages").is_dir() for place in places):
        return "voc_boxes"
    if (top / "VOCdevkit").is_dir():
        return "voc2012"
    if found := next((group for name, group in FILES.items() if (top / name).is_file()), None):
        return found
    if any(next(top.glob(pattern), None) for pattern in COCO):
        return "coco"
    pairs = ((place / "images", place / "masks") for place in (top, top / "train"))
    return "mask_folder" if any(images.is_dir() and masks.is_dir() for images, masks in pairs) else "image_folder"


def sound(source: Source) -> Source:
    """The source without the boxes that can't be used, which its data set's own check names."""
    flaws: Any = getattr(source, "flaws", None)
    found = [] if flaws is None else flaws()
    return source.without_boxes(found) if found else source  # type: ignore[attr-defined]


def _open(opened: Opened) -> Opened:
    try:
        dataset: DataSet = build(opened.node, "data")
    except DataError as error:
        error.key = None
        opened.faults.append(error)
        return opened
    opened.found, opened.classes = dataset, tuple(dataset.classes)
    for name in sorted(dataset.splits, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        try:
            opened.sources[name] = dataset.split(name)
        except DataError as error:
            opened.faults.append(error)
    return opened
