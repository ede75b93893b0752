"""`calotype average RUN`: one checkpoint from several of a run, or of several runs of one network.

The weights are their mean, batch norm's statistics are estimated anew on the training data, and the result lies beside
the others in the run folder, where evaluate, predict and export take it by `--checkpoint average`. The run itself, its
journal and its record, stays as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.commands.status import add_run, runs_folder
from calotype.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from calotype.commands.evaluate import Loaded
    from calotype.engine.checkpoint import Checkpoint, Checkpoints
    from calotype.record.folder import RunFolder

HELP = "Average the weights of several checkpoints (SWA) into one, and measure it beside the best on the val split."


@dataclass(frozen=True, slots=True)
class Averaged:
    """The folder of an average, the checkpoints it is of, oldest first, and what was measured: metrics of the val
    split by `val/name`, of the average and of the run's best checkpoint; empty without a val split.
    """

    folder: Path
    sources: list[str]
    step: int
    metrics: dict[str, float]
    best: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument(
        "checkpoints",
        nargs="*",
        metavar="CHECKPOINT",
        help="names, or checkpoint folders of any run; default: all of RUN",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="the newest N checkpoints of RUN")
    which.add_argument("--best", type=int, metavar="N", help="the best N checkpoints of RUN")
    parser.add_argument(
        "--override", action="append", default=[], metavar="KEY=VALUE", help="e.g. data.workers=4 (repeatable)"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0."""
    from calotype.commands.evaluate import load

    runs = runs_folder(args.runs, args.override)
    loaded = load(args.run, *args.override, checkpoint="last", runs=runs, trust=args.trust)
    for part, texts in loaded.changed.items():
        sys.stderr.write("".join(f"warning: not as recorded, {part}: {text}\n" for text in texts))
    found = of_loaded(loaded, args.checkpoints, last=args.last, best=args.best)
    if args.json:
        from calotype.commands._execute import plain

        told: dict[str, Any] = {"folder": str(found.folder), "sources": found.sources, "step": found.step}
        told |= {"metrics": plain(found.metrics), "best": plain(found.best)}
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        rows = [(found.folder.name, found.metrics), ("best", found.best)]
        lines = [f"  {name}  {_listed(metrics)}\n" for name, metrics in rows if metrics]
        sys.stdout.write(f"average of {', '.join(found.sources)}\n{''.join(lines)}checkpoint {found.folder}\n")
    return 0


def _listed(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def average(
    run: str | Path,
    *checkpoints: str | Path,
    last: int | None = None,
    best: int | None = None,
    runs: str | Path = "runs",
    trust: Collection[str] = (),
) -> Averaged:
    """Average checkpoints of a run: the named ones, the `last` so many, the `best` so many, or all that it has.

    A checkpoint is a name in the run or a checkpoint folder of any run. Raises UsageError for fewer than two,
    CheckpointError for those of another network or of other classes, RunFolderError while the run is in use.
    """
    from calotype.commands.evaluate import load

    loaded = load(run, checkpoint="last", runs=runs, trust=trust)
    return of_loaded(loaded, [str(item) for item in checkpoints], last=last, best=best, quiet=True)


def of_loaded(
    loaded: Loaded, named: Sequence[str], *, last: int | None = None, best: int | None = None, quiet: bool = False
) -> Averaged:
    """The same of a model that is loaded, which has the best checkpoint's weights afterwards."""
    from calotype.commands._model import chosen, take_weights
    from calotype.engine.checkpoint import Checkpoints
    from calotype.record.folder import RunFolder

    folder, options = RunFolder(loaded.folder), loaded.assembly.options
    there = Checkpoints(folder.checkpoints, maximise=options.maximise)
    with folder.locked():
        sources = _sources(there, named, last, best)
        _check_classes(folder, sources)
        _take_mean(loaded, sources)
        estimated = _estimate(loaded, quiet=quiet)
        made = _write(loaded, there, sources, estimated=estimated)
    has_val = "val" in loaded.assembly.data.sources
    metrics = loaded.evaluate("val").scalars() if has_val else {}
    take_weights(loaded.task, chosen(folder, "best"))
    beside = loaded.evaluate("val").scalars() if has_val else {}
    return Averaged(made.folder, [source.folder.name for source in sources], made.step, metrics, beside)


def _sources(there: Checkpoints, named: Sequence[str], last: int | None, best: int | None) -> list[Checkpoint]:
    """The checkpoints that are meant, oldest first, each once."""
    from calotype.engine.checkpoint import name_of, open_checkpoint

    if named and (last is not None or best is not None):
        raise UsageError("name checkpoints, or say --last N or --best N, not both")
    names = [name for name in there.names() if not name.endswith("-part")]
    if best is not None:
        scores = there.named("last").training()["loop"]["scores"]
        there.keep_best = best
        names = [name_of(step) for step in there.best_steps(scores)]
    elif last is not None:
        names = names[-last:] if last > 0 else []
    wanted = last if best is None else best
    if wanted is not None and len(names) < wanted:
        raise UsageError(
            f"{there.folder} keeps {len(names)} of the {wanted} checkpoints asked for; "
            "set checkpoint.keep_last and checkpoint.keep_best before training"
        )
    folders = [Path(text) if (Path(text) / "manifest.json").is_file() else None for text in named]
    opened = [open_checkpoint(path) if path else there.named(text) for path, text in zip(folders, named, strict=True)]
    opened = opened or [there.named(name) for name in names]
    found = list({checkpoint.folder.resolve(): checkpoint for checkpoint in opened}.values())
    if len(found) < 2:
        raise UsageError(f"an average needs two checkpoints or more, and this would be of {len(found)}")
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _check_classes(folder: RunFolder, sources: Sequence[Checkpoint]) -> None:
    """Raises CheckpointError for a checkpoint of a run with other classes, whose logits mean something else."""
    own = folder.record().get("classes")
    for source in sources:
        other = type(folder)(source.folder.resolve().parent.parent)
        if not (other.path / "record.json").is_file():
            continue
        classes = other.record().get("classes")
        if classes != own:
            raise CheckpointError(
                f"{source.folder} is of a run with the classes {_few(classes)}, {folder.name} has {_few(own)}; "
                "their mean would mean nothing"
            )


def _few(classes: Sequence[str] | None) -> str:
    names = classes or ()
    return f"{', '.join(names[:5])}{', ...' * (len(names) > 5)}" or "none"


def _take_mean(loaded: Loaded, sources: Sequence[Checkpoint]) -> None:
    """Put the mean of the weights into the network, and that of what else the task has learned into the task."""
    from calotype.engine.state import load_exact
    from calotype.engine.swa import mean

    names = [str(source.folder) for source in sources]
    load_exact(loaded.network, mean([source.model() for source in sources], names), "their average")
    rest = mean([source.training()["task"] for source in sources], names)
    loaded.task.load_state_dict(rest, strict=False)


def _estimate(loaded: Loaded, *, quiet: bool) -> bool:
    from calotype.commands._progress import Progress
    from calotype.engine.swa import estimate_batch_norm

    parts, options = loaded.assembly.parts, loaded.assembly.options
    train: Any = parts.train
    batches = train.steps(0, train.steps_per_epoch)
    samples = min(len(loaded.assembly.data.sources["train"]), train.steps_per_epoch * loaded.tree["data"]["batch_size"])
    with nullcontext() if quiet else Progress(samples, "images for batch norm") as progress:
        return estimate_batch_norm(parts, options, batches, progress.advance if progress else lambda _: None)


def _write(loaded: Loaded, there: Checkpoints, sources: Sequence[Checkpoint], *, estimated: bool) -> Checkpoint:
    from calotype.engine.checkpoint import MODEL, contents
    from calotype.engine.state import rest_of_task

    told = [
        {"checkpoint": source.folder.name, "step": source.step, "sha256": source.manifest["sha256"][MODEL]}
        for source in sources
    ]
    step = sources[-1].step
    state = {"task": rest_of_task(loaded.task)}
    files = contents(step, loaded.network.state_dict(), state, average_of=told, batch_norm_estimated=estimated)
    digest = hashlib.sha256("".join(str(source["sha256"]) for source in told).encode()).hexdigest()
    return there.add(f"average-{step:08d}-of-{len(told)}-{digest[:8]}", files, "average")
