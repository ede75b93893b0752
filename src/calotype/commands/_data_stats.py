"""`calotype data stats`: how many images, how large, of which classes; their mean and standard deviation.

The last two come ready to be pasted into a command. `--sheet` draws some pictures of each class, the same each time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.commands._dataset import add_dataset_arguments, open_dataset
from calotype.commands._text import printable
from calotype.errors import DataError, RunFolderError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from calotype.commands._dataset import Opened
    from calotype.types import IntArray, Source

    Counts = dict[str, IntArray]

HELP = """Measure a data set: images of each split and class, sizes, mean and standard deviation for `normalize`.

  calotype data stats DIR                      DIR/{train,val,test}/<class>/* or DIR/<class>/*
                                               DIR/images + DIR/masks; DIR/VOCdevkit
                                               DIR/Annotations + DIR/JPEGImages; DIR/data.yaml; DIR/boxes.csv
  calotype data stats data=mnist paths.data=.  the data set of a config"""
SHOWN = 30
"""Classes that are listed without --json; of more the largest and the smallest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_dataset_arguments(parser)
    parser.add_argument("--split", default="train", metavar="NAME", help="the split that is measured (default train)")
    parser.add_argument("--limit", type=int, metavar="N", help="measure so many of its images, the same each time")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw some pictures of each class: FILE.png")
    parser.add_argument("--per-class", type=int, default=8, metavar="N", help="so many pictures of each (default 8)")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0. Raises DataError for a split that can't be opened or read."""
    for name, value in (("--limit", args.limit), ("--per-class", args.per_class)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value}: at least 1")
    opened = open_dataset(args)
    if args.split not in opened.sources:
        if opened.faults:
            raise opened.faults[0]
        raise DataError(f"{opened.told()} has no split {args.split!r}, only {', '.join(opened.sources)}")
    rows, told = measure(opened, args.split, args.limit, args.workers)
    if args.sheet is not None:
        _write_sheet(args.sheet, opened, args.split, rows, args.per_class)
        told["sheet"] = str(args.sheet)
    sys.stdout.write(json.dumps(told) + "\n" if args.json else "".join(f"{line}\n" for line in _lines(told)))
    return 0


def measure(
    opened: Opened, split: str, limit: int | None = None, workers: int | None = None
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """What was seen of a split, positions and rows, and its figures as plain values.

    What can't be read is counted and left out. Raises DataError for a split of which nothing can.
    """
    from calotype.analysis import looks, measures
    from calotype.commands._progress import Progress
    from calotype.commands._skipped import sound
    from calotype.commands._survey import Look, survey

    source = sound(opened.sources[split])
    chosen = _chosen(source, limit)
    look = Look(looks.fitting(looks.stats_row, len(opened.classes)), looks.stats)
    with Progress(len(chosen), "images measured") as progress:
        seen = survey(source, look, positions=chosen, workers=workers, seen=progress.advance)
    if not len(seen.rows):
        position, reason = min(seen.broken.items())
        raise DataError(f"no image of {split} can be read; the first, {source.name(position)}: {reason}")
    told: dict[str, Any] = {"data": opened.told(), "splits": {name: len(item) for name, item in opened.sources.items()}}
    told |= {"split": split, "measured": len(seen.rows), "broken": len(seen.broken)}
    told |= {
        "classes": _counts(opened, split, seen.rows, limit),
        "size": measures.sizes(seen.rows),
        "channels": measures.channels(seen.rows),
    }
    if (pixels := measures.pixels(seen.rows, opened.classes)) is not None:
        told["pixels"] = pixels
    return {"positions": seen.positions, "rows": seen.rows}, told | {"normalize": measures.levels(seen.rows)}


def _chosen(source: Source, limit: int | None) -> IntArray:
    """All positions, or so many of them drawn by a key."""
    import numpy as np
    import torch

    from calotype.keys import generator

    if limit is None or limit >= len(source):
        return np.arange(len(source))
    return np.sort(torch.randperm(len(source), generator=generator(0, "watch")).numpy()[:limit])


def _counts(opened: Opened, split: str, rows: npt.NDArray[Any], limit: int | None) -> dict[str, dict[str, int]]:
    """Images of each class by split. Of a source whose labels must be read, the measured split alone."""
    import numpy as np

    total, found = len(opened.classes), dict[str, Any]()
    for name, source in opened.sources.items():
        labels: IntArray | None = getattr(source, "labels", None)
        told: Callable[[int], IntArray] | None = getattr(source, "images_by_class", None)
        if told is not None:
            found[name] = told(total)
        elif labels is not None:
            found[name] = np.bincount(labels[(labels >= 0) & (labels < total)], minlength=total)
        elif name == split and limit is None and "classes" in (rows.dtype.names or ()):
            found[name] = rows["classes"].sum(0, dtype=np.int64)
        elif name == split and limit is None and "pixels" in (rows.dtype.names or ()):
            found[name] = (rows["pixels"][:, :-1] > 0).sum(0, dtype=np.int64)
        elif name == split and limit is None:
            good = rows["label"][(rows["label"] >= 0) & (rows["label"] < total)]
            found[name] = np.bincount(good, minlength=total)
    return {name: dict(zip(opened.classes, counts.tolist(), strict=True)) for name, counts in found.items()}


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{printable(told['data'])}: {', '.join(f'{name} {count}' for name, count in told['splits'].items())}"
    total = told["splits"][told["split"]]
    part = "" if told["measured"] == total else f" (of {total})"
    yield f"measured: {told['measured']} images of {told['split']}{part}"
    if told["broken"]:
        yield f"  left out {told['broken']} that can't be read; `calotype data check` names them"
    size = told["size"]
    for side in ("width", "height"):
        yield f"  {side:9}{size[side]['min']} to {size[side]['max']}, median {size[side]['median']:g}"
    most = size["commonest"]
    yield f"  commonest {most['width']}x{most['height']}, {most['share']:.1%} of the images"
    yield f"  channels {', '.join(f'{number} ({count} images)' for number, count in told['channels'].items())}"
    yield from _class_lines(told["classes"], told["splits"])
    if "pixels" in told:
        yield from _pixel_lines(told["pixels"]["classes"], told["pixels"]["void"])
    if told["normalize"] is None:
        yield "no mean and standard deviation: the images differ in their channels, or have more than 4"
        return
    yield f"mean and standard deviation, in 0..1:\n  {pasted(told['normalize'])}"


def pasted(levels: Mapping[str, list[float]]) -> str:
    """Mean and deviation as an override, in quotes for a shell."""
    mean, std = (", ".join(f"{value:.5f}" for value in levels[name]) for name in ("mean", "std"))
    return f"'module.normalize={{mean: [{mean}], std: [{std}]}}'"


def _class_lines(classes: Mapping[str, Mapping[str, int]], splits: Mapping[str, int]) -> Iterator[str]:
    """A table, a row a class and two columns a split: images, and their share of the split's."""
    if not classes:
        return
    first = next(iter(classes.values()))
    ordered = sorted(first, key=lambda name: -first[name])
    names = list(first) if len(first) <= SHOWN else [*ordered[:5], *ordered[-5:]]
    more = f" (the largest and the smallest of {len(first)})" if len(names) < len(first) else ""
    wide = max(len(printable(name)) for name in names)
    yield f"classes{more}\n  {'':{wide}}{''.join(f'{split:>16}' for split in classes)}"
    for name in names:
        cells = (f"{counts[name]:8}{counts[name] / max(1, splits[split]):8.1%}" for split, counts in classes.items())
        yield f"  {printable(name):{wide}}{''.join(cells)}"


def _pixel_lines(classes: Mapping[str, float], void: float) -> Iterator[str]:
    """A row for each class and void: its share of the pixels."""
    ordered = sorted(classes, key=lambda name: -classes[name])
    names = list(classes) if len(classes) <= SHOWN else [*ordered[:5], *ordered[-5:]]
    wide = max(len(printable(name)) for name in ["void", *names])
    yield "pixels, void aside"
    yield from (f"  {printable(name):{wide}}{classes[name]:16.2%}" for name in names)
    yield f"  {'void':{wide}}{void:16.2%} of all"


def _write_sheet(path: Path, opened: Opened, split: str, seen: Mapping[str, npt.NDArray[Any]], per_class: int) -> None:
    """Draw the sheet. Raises UsageError for a name that is no picture's, RunFolderError when it can't be written."""
    import io

    from calotype.analysis.sheet import MOST_ROWS, Row, draw, unwritten
    from calotype.files import replace_file
    from calotype.palette import palette

    if path.suffix.lower() != ".png":
        raise UsageError(f"--sheet {path}: its name must end with .png")
    source, rows = opened.sources[split], []
    for number, name in enumerate(opened.classes[:MOST_ROWS]):
        members = _members(seen["rows"], number)
        drawn = [_pixels(source, int(seen["positions"][row])) for row in _picked(members, number, per_class)]
        told, colour = f"{len(members)} image{'s' if len(members) != 1 else ''}", None
        if "pixels" in (seen["rows"].dtype.names or ()):
            colour = tuple(palette()[number].tolist())
        rows.append(Row(name, told, drawn, colour))
    buffer = io.BytesIO()
    draw(rows).save(buffer, "PNG")
    try:
        replace_file(path, buffer.getvalue())
    except OSError as error:
        raise RunFolderError(f"{path} can't be written: {error.strerror or error}") from error
    if names := unwritten(rows):
        sys.stderr.write(
            f"note: no font here has the letters of {', '.join(names[:5])}{', ...' * (len(names) > 5)}: the sheet has "
            "numbers instead; install one (Noto Sans CJK, say) or name its file by CALOTYPE_FONT\n"
        )


def _members(rows: npt.NDArray[Any], number: int) -> IntArray:
    """The rows of a class."""
    import numpy as np

    names = rows.dtype.names or ()
    if "pixels" in names:
        return np.flatnonzero(rows["pixels"][:, number])
    return np.flatnonzero(rows["classes"][:, number] if "classes" in names else rows["label"] == number)


def _picked(members: IntArray, number: int, count: int) -> list[int]:
    """So many of them, drawn by a key of the class."""
    import torch

    from calotype.keys import generator

    order = torch.randperm(len(members), generator=generator(0, "watch", number)).numpy()
    return [int(row) for row in members[order[:count]]]


def _pixels(source: Source, position: int) -> npt.NDArray[np.uint8]:
    """A sample's picture, (H, W, C), its mask over it where it has one."""
    import numpy as np

    from calotype.analysis.sheet import SIDE
    from calotype.palette import highlighted

    sample = source[position]
    pixels: Any = np.ascontiguousarray(np.asarray(sample["image"]).transpose(1, 2, 0))
    if "mask" not in sample:
        return pixels  # type: ignore[no-any-return]
    return highlighted(pixels, np.asarray(sample["mask"]), lines=max(pixels.shape) // SIDE)
