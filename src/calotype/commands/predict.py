"""`calotype predict RUN INPUT...`: what a trained network says of image files, a row each, as CSV or JSON lines; of a
segmenter a mask each, as PNG, of a detector COCO's JSON of all, and rows about them.

The training data need not be there. A file that can't be read is a row with the reason, and the rest goes on; the exit
code then is 3. Rows come in the order of the inputs, as soon as their batch is done.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from calotype.commands._boxes import write_boxes
from calotype.commands._masks import write_masks
from calotype.commands._outputs import stream
from calotype.commands._predictions import Predicted, predictions
from calotype.commands._progress import Progress
from calotype.commands.status import add_run, runs_folder
from calotype.errors import DataError, UsageError

if TYPE_CHECKING:
    from calotype.commands._model import Device, Model

HELP = (
    "Predict image files with a run's network: CSV or JSON lines of path, class, probability, top k; of a segmentation "
    "run a PNG of each mask, of a detection run the boxes as COCO's JSON, in --output DIR."
)
FORMATS = ("csv", "jsonl")
WAYS = {"mask": write_masks, "boxes": write_boxes}
"""What writes predictions that are no classes of images, by the field that a task predicts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="files, folders, patterns in quotes, or - for a list on stdin"
    )
    parser.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, average, or a name")
    parser.add_argument("--topk", type=int, default=1, metavar="K", help="so many classes with their probabilities")
    parser.add_argument("--format", choices=FORMATS, help="csv (default), or jsonl; by default what --output ends with")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="the file of rows, instead of stdout; the folder of masks or boxes",
    )
    parser.add_argument("--overlay", action="store_true", help="also draw each mask, or the boxes, over its image")
    parser.add_argument(
        "--score", type=float, metavar="T", help="boxes that score above T; by default module.detections.score"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once; by default data.eval_batch_size")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="by default the run's, or cpu"
    )
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="e.g. data.workers=4 (repeatable)"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0. Raises DataError after the last row if a file could not be read."""
    if args.topk < 1:
        raise UsageError(f"--topk {args.topk}: at least 1")
    if args.score is not None and not 0 <= args.score <= 1:
        raise UsageError(f"--score {args.score}: from 0 to 1")
    from calotype.commands._model import load_model

    files = _files(args.inputs)
    model = load_model(
        args.run,
        *args.override,
        checkpoint=args.checkpoint,
        device=args.device,
        runs=runs_folder(args.runs, args.override),
        trust=args.trust,
    )
    if args.score is not None and model.predicts != "boxes":
        raise UsageError(f"--score {args.score}: the run predicts no boxes")
    failed = WAYS.get(model.predicts, _write_classes)(args, model, files)
    if failed:
        raise DataError(f"{failed} of {len(files)} files could not be predicted; their rows say why")
    return 0


def _write_classes(args: argparse.Namespace, model: Model, files: Sequence[str]) -> int:
    """Write a row of classes for each file; how many could not be predicted."""
    if args.overlay:
        raise UsageError("--overlay: the run predicts classes of images, and draws no masks or boxes")
    kind = args.format or ("jsonl" if args.output and args.output.suffix in (".jsonl", ".json") else "csv")
    failed, batches = 0, predictions(model, files, args.batch_size)
    with _output(args.output) as stream, Progress(len(files), "images") as progress:
        writer = WRITERS[kind](stream, model.classes, min(args.topk, len(model.classes)))
        for batch in batches:
            for row in batch:
                writer.row(row)
                failed += row.error is not None
            progress.advance(len(batch))
    return failed


def predict(
    run: str | Path,
    *inputs: str | Path,
    checkpoint: str = "best",
    batch_size: int | None = None,
    device: Device = "auto",
    runs: str | Path = "runs",
    trust: Collection[str] = (),
) -> Iterator[Predicted]:
    """The predictions of image files, folders and patterns, in their order, as they are computed.

    `run`, `checkpoint` are those of `load`. A file that can't be read gives an `error` and no probabilities, mask
    or boxes. Raises UsageError for an input that means no file and for a run whose task gives none of them.
    """
    from calotype.commands._model import load_model

    files = _files([str(path) for path in inputs])
    model = load_model(run, checkpoint=checkpoint, device=device, runs=runs, trust=trust)
    return (row for batch in predictions(model, files, batch_size) for row in batch)


def _files(inputs: Sequence[str]) -> list[str]:
    from calotype.config.build import locate

    if not inputs:
        raise UsageError("no INPUT: name files, folders, patterns in quotes, or - for a list on stdin")
    found: list[str] = locate("calotype.data.listed.named")(inputs, sys.stdin.buffer if "-" in inputs else ())
    return found


class _Writer(Protocol):
    def row(self, row: Predicted) -> None: ...


class Csv:
    """path, class, probability, then the further classes of the top k, error."""

    def __init__(self, stream: TextIO, classes: Sequence[str], topk: int) -> None:
        self.classes, self.topk = classes, topk
        self.writer = csv.writer(stream, lineterminator="\n")
        further = [name for rank in range(2, topk + 1) for name in (f"class_{rank}", f"probability_{rank}")]
        self.writer.writerow(["path", "class", "probability", *further, "error"])

    def row(self, row: Predicted) -> None:
        """Write a row."""
        cells = [cell for name, value in _top(row, self.classes, self.topk) for cell in (name, f"{value:.6g}")]
        self.writer.writerow([row.path, *(cells or [""] * 2 * self.topk), row.error or ""])


class JsonLines:
    """{"path", "class", "probability", "top": [{"class", "probability"}, ...]}, or {"path", "error"}."""

    def __init__(self, stream: TextIO, classes: Sequence[str], topk: int) -> None:
        self.stream, self.classes, self.topk = stream, classes, topk

    def row(self, row: Predicted) -> None:
        """Write a line."""
        top = [{"class": name, "probability": float(f"{p:.6g}")} for name, p in _top(row, self.classes, self.topk)]
        told = {**top[0], "top": top} if top else {"error": row.error}
        self.stream.write(json.dumps({"path": row.path, **told}) + "\n")


WRITERS: dict[str, Callable[[TextIO, Sequence[str], int], _Writer]] = {"csv": Csv, "jsonl": JsonLines}


def _top(row: Predicted, classes: Sequence[str], topk: int) -> list[tuple[str, float]]:
    """The most probable classes, the first of equal ones first; an output that the data has no class for by number."""
    if row.probabilities is None:
        return []
    values, places = row.probabilities.sort(descending=True, stable=True)
    names = [classes[place] if place < len(classes) else str(place) for place in places[:topk].tolist()]
    return list(zip(names, values[:topk].tolist(), strict=True))


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Where rows go: stdout, or a file that is there whole or not at all. Names that are no text keep their bytes."""
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield sys.stdout
        sys.stdout.flush()
        return
    if path.is_dir():
        raise UsageError(f"--output {path} is a folder; name a file")
    with stream(path) as file:
        yield file
