"""`calotype evaluate RUN`: measure a run's checkpoint on a split; equal to the number that training printed."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.commands._model import chosen, named_run, take_weights
from calotype.commands.status import add_run, runs_folder
from calotype.errors import DataError, DiffersError, UsageError

if TYPE_CHECKING:
    from calotype.commands._assemble import Assembly
    from calotype.config.compose import Config
    from calotype.engine.evaluate import Evaluation
    from calotype.engine.precision import Precision
    from calotype.types import Prediction, Shard

HELP = "Measure a run's checkpoint on a split. Exits 5 when the metric misses --target."


@dataclass(slots=True)
class Loaded:
    """A trained model: `task` in evaluation mode with the checkpoint's weights, and what it was made from.

    `changed` tells what is not as the run's record has it, by part.
    """

    folder: Path
    checkpoint: str
    step: int
    tree: dict[str, Any]
    task: Any
    assembly: Assembly
    changed: dict[str, list[str]]

    @property
    def network(self) -> Any:
        """The network, an nn.Module."""
        return self.task.network

    def evaluate(self, split: str) -> Evaluation:
        """Measure a split. Raises DataError for one that the data set doesn't have."""
        from calotype.engine.evaluate import evaluate

        precision, place = self._computing()
        measured = evaluate(self.task, self._loader(split), split, precision, place)
        if measured is None:
            raise RuntimeError("an evaluation that nothing stops has ended early")
        return measured

    def predict(self, split: str) -> Iterator[Prediction]:
        """The predictions of a split, batch by batch in the order of ids, on the device. Raises as `evaluate` does."""
        import torch

        precision, place = self._computing()
        loader = self._loader(split)
        for batch in loader.steps(0, loader.steps_per_epoch):
            for shard in batch:
                with torch.no_grad(), precision.autocast():
                    prediction = self.task.predict(place(shard))
                yield prediction

    def _loader(self, split: str) -> Any:
        data, parts = self.assembly.data, self.assembly.parts
        loader = {"val": parts.val, "test": parts.test}.get(split) or data.loader(split)
        if loader is None:
            raise DataError(f"the data set has no {split} split; it has {', '.join(data.sources)}")
        return loader

    def _computing(self) -> tuple[Precision, Callable[[Shard], Shard]]:
        """The run's precision, and what brings a shard to its device."""
        from calotype.engine.precision import Precision

        options = self.assembly.options
        return Precision(options.precision, options.device), options.placed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="e.g. data.workers=0 paths.data=DIR")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--checkpoint", default="best", metavar="NAME", help="best (default), last, average, or a name")
    parser.add_argument("--metric", metavar="NAME", help="what --target is about; by default the monitor's metric")
    parser.add_argument("--target", type=float, metavar="T", help="exit 5 if the metric is worse than T")
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; its exit code."""
    found = load(args.run, *args.overrides, checkpoint=args.checkpoint, runs=args.runs, trust=args.trust)
    for part, texts in found.changed.items():
        sys.stderr.write("".join(f"warning: not as recorded, {part}: {text}\n" for text in texts))
    measured = found.evaluate(args.split)
    scalars = measured.scalars()
    if args.json:
        report = {"run": str(found.folder), "checkpoint": found.checkpoint, "step": found.step, "split": args.split}
        report |= {"count": measured.count, "ids": measured.ids, "metrics": dict(measured.metrics)}
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        width = max(16, *(len(name) + 2 for name in scalars))
        told = "".join(f"  {name:{width}}{value:.4f}\n" for name, value in scalars.items())
        sys.stdout.write(f"{found.folder.name} {found.checkpoint}: {measured.count} samples of {args.split}\n{told}")
    if args.target is not None:
        check_target(scalars, args.target, args.metric or _metric(found.tree, scalars), args.split)
    return 0


def check_target(scalars: dict[str, float], target: float, metric: str, split: str) -> None:
    """Raises DiffersError when the metric is worse than the target: a loss above it, anything else below."""
    if math.isnan(target):
        raise UsageError("--target nan: no metric can meet that")
    name = f"{split}/{metric.rpartition('/')[2]}"
    if name not in scalars:
        raise UsageError(f"--metric {metric}: there are {', '.join(scalars)}")
    value = scalars[name]
    worse = value > target if name.endswith("loss") else value < target
    if worse or value != value:  # noqa: PLR0124 - not a number is no target met
        raise DiffersError(f"{name} is {value:.6g}, the target is {target:g}")


def _metric(tree: dict[str, Any], scalars: dict[str, float]) -> str:
    monitor = str(tree["module"]["monitor"])
    if not monitor.endswith("loss"):
        return monitor
    return next((name for name in scalars if not name.endswith("loss")), monitor)


def load(
    run: str | Path,
    *overrides: str,
    checkpoint: str = "best",
    runs: str | Path | None = None,
    trust: Collection[str] = (),
) -> Loaded:
    """A run's model as it was saved.

    `run` is a run folder, an id, "last", or a checkpoint folder of a run. `checkpoint` is "best" (the last one, where
    no best is kept), "last" or a folder's name. Raises UsageError, CheckpointError, RefusedError.
    """
    folder, name = named_run(run, checkpoint, runs_folder(runs, overrides))
    from calotype.commands._inputs import changes, data_lock, reassemble, recorded_config

    config: Config = recorded_config(folder, overrides, trust)
    assembly = reassemble(folder, config, begins=False)
    found, task = chosen(folder, name), assembly.parts.task
    take_weights(task, found)
    changed = changes(folder, config, assembly, data_lock(assembly, config.tree))
    return Loaded(folder.path, found.folder.name, found.step, config.tree, task, assembly, changed)
