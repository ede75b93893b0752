"""`calotype data check`: what is wrong or odd in a data set, before a run trips over it or scores too well by it.

Every image is read once, and its mask where it has one. Problems end with code 3: images and masks that can't be read,
labels that are no class, masks of void alone, boxes that can't be used, classes without images, the same image (exact
or near) in two splits, under two labels or with two masks. Notes don't.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from calotype.commands._dataset import add_dataset_arguments, open_dataset
from calotype.commands._text import count, printable
from calotype.errors import DataError, UsageError

if TYPE_CHECKING:
    from calotype.analysis.findings import Finding, Part, Report
    from calotype.commands._dataset import Opened

HELP = """Find what is wrong or odd in a data set: broken images, empty classes, the same image in train and val, ...

  calotype data check DIR                      DIR/{train,val,test}/<class>/* or DIR/<class>/*
                                               DIR/images + DIR/masks; DIR/VOCdevkit; DIR/annotations/instances_*
                                               DIR/Annotations + DIR/JPEGImages; DIR/data.yaml; DIR/boxes.csv
  calotype data check experiment=NAME          the data set of a config

Exits 3 when there are problems, 0 when there are none or only notes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_dataset_arguments(parser)
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="show so many of a kind (default 5)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="KIND", help="count a kind of problem as a note (repeatable)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb; 3 when there are problems."""
    from calotype.analysis.findings import NOTES, PROBLEMS

    if unknown := next((kind for kind in args.allow if kind not in PROBLEMS), None):
        raise UsageError(f"--allow {unknown}: the kinds of problems are {', '.join(PROBLEMS)}")
    opened = open_dataset(args)
    parts, found = examine(opened, args.workers)
    allowed = {kind: title for kind, title in PROBLEMS.items() if kind in args.allow}
    problems = found.of({kind: title for kind, title in PROBLEMS.items() if kind not in allowed})
    notes = found.of(allowed | NOTES)
    if args.json:
        told: dict[str, Any] = {"data": opened.told(), "splits": {part.split: len(part.source) for part in parts}}
        told |= {"classes": list(opened.classes), "clean": not problems, "problems": problems, "notes": notes}
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(opened, parts, problems, notes, args.examples)))
    return 3 if problems else 0


def examine(opened: Opened, workers: int | None = None) -> tuple[list[Part], Report]:
    """Look at every sample of an opened data set: what was seen of each split, and what was found."""
    from calotype.analysis import looks
    from calotype.analysis.findings import Part, report
    from calotype.commands._progress import Progress
    from calotype.commands._skipped import sound
    from calotype.commands._survey import Look, survey

    parts, look = [], Look(looks.fitting(looks.check_row, len(opened.classes)), looks.check)
    with Progress(sum(map(len, opened.sources.values())), "images checked") as progress:
        for name, source in ((name, sound(source)) for name, source in opened.sources.items()):
            seen = survey(source, look, workers=workers, seen=progress.advance)
            parts.append(Part(name, source, seen.positions, seen.rows, seen.broken))
    sys.stderr.write(f"comparing {sum(len(part.rows) for part in parts)} images\n")
    found = report(parts, opened.classes)
    for error in opened.faults:
        found.add("data_set", str(error))
    _add_own(found, opened)
    return parts, found


def _add_own(found: Report, opened: Opened) -> None:
    """Add what the data set itself has to say, by its optional `check()`: texts by kind."""
    from calotype.analysis.findings import NOTES, PROBLEMS

    check: Any = getattr(opened.found, "check", None)
    try:
        texts: Mapping[str, list[str]] = {} if check is None else check()
    except DataError as error:
        texts = {} if opened.faults else {"data_set": [str(error)]}
    for kind, text in ((kind, text) for kind, items in texts.items() for text in items):
        found.add(kind if kind in PROBLEMS | NOTES else "data_set", text)


def _lines(
    opened: Opened,
    parts: list[Part],
    problems: Mapping[str, list[Finding]],
    notes: Mapping[str, list[Finding]],
    examples: int,
) -> Iterator[str]:
    sizes = ", ".join(f"{part.split} {len(part.source)}" for part in parts)
    yield f"{printable(opened.told())}: {sizes or 'no split'}, {len(opened.classes)} classes"
    for heading, kinds in (("problems", problems), ("notes", notes)):
        if kinds:
            yield heading
        for kind, items in kinds.items():
            yield from _kind(kind, items, examples)
    counts = [sum(map(len, kinds.values())) for kinds in (problems, notes)]
    yield f"{count(counts[0], 'problem')}, {count(counts[1], 'note')}" if any(counts) else "nothing found"


def _kind(kind: str, items: list[Finding], examples: int) -> Iterator[str]:
    from calotype.analysis.findings import NOTES, PROBLEMS

    title = (PROBLEMS | NOTES).get(kind)
    yield f"  {kind} {len(items)}{f' ({title})' if title else ''}"
    for item in items[: max(0, examples)]:
        # of a sample the line breaks are its name's, any other text has its own
        parts = [item["text"]] if "name" in item else item["text"].split("\n")
        yield from (f"    {printable(part)}" for part in parts)
    if len(items) > examples:
        yield f"    and {len(items) - examples} more"
