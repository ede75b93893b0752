"""`calotype runs`: the table of what was run, newest first or by a metric.

It reads `status.json` and `record.json` alone and imports no torch, so a thousand runs answer in well under a second. A
folder that can't be read is a row that says so: one damaged run must not hide the others.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from calotype.commands._text import printable
from calotype.errors import RunFolderError, UsageError
from calotype.record.folder import RunFolder

HELP = "A table of the runs: how far each is, its best monitor, its test metrics, its age."
DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Row:
    """What the table has of a run. `best` is the best value of `monitor` and `best_step` where it was measured;
    `metrics` are the last values by `split/name`; `updated` is in seconds since 1970; `message` says what is wrong.
    """

    run: str
    experiment: str
    state: str
    step: int = 0
    total: int | None = None
    monitor: str | None = None
    best: float | None = None
    best_step: int | None = None
    maximise: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    updated: float | None = None
    message: str | None = None

    def value(self, metric: str) -> float | None:
        """A metric's value, the best one of the monitor; None where it was not measured or is no number."""
        found = self.best if metric == self.monitor else self.metrics.get(metric)
        return None if found is None or math.isnan(found) else found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (paths.runs)")
    parser.add_argument("--experiment", metavar="E", help="only the runs of this experiment")
    parser.add_argument(
        "--sort", metavar="METRIC", help="best first by a metric (val/loss, test/accuracy); without: newest"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0."""
    rows = board(args.runs, experiment=args.experiment, sort=args.sort)
    if args.json:
        sys.stdout.write(json.dumps({"runs": [_as_json(row) for row in rows]}) + "\n")
    else:
        sys.stdout.write(table(rows))
    return 0


def board(runs: str | Path = "runs", *, experiment: str | None = None, sort: str | None = None) -> list[Row]:
    """The runs under a folder, the newest first, or the best first by the metric `sort`.

    Of a metric whose name ends with "loss", and of a monitor that its run minimises, less is better; runs without it
    come last. Raises UsageError for a folder, an experiment or a metric that is not there.
    """
    folder = Path(runs)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder of runs; name it with --runs DIR")
    experiments = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if experiment is not None and experiment not in experiments:
        raise UsageError(f"no run of {experiment} under {folder}{_hint(experiment, experiments)}")
    places = [folder / name for name in experiments if experiment in (None, name)]
    found = [row_of(path) for place in places for path in place.iterdir() if _is_run(path)]
    found.sort(key=lambda row: row.run, reverse=True)
    return found if sort is None else _ranked(found, sort)


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("record.json", "status.json"))


def row_of(path: Path) -> Row:
    """The row of a run folder."""
    folder = RunFolder(path)
    try:
        created = folder.record().get("created")
        return _row(folder, folder.status(), created)
    except (RunFolderError, OSError) as error:
        return Row(path.name, path.parent.name, DAMAGED, message=str(error))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        return Row(path.name, path.parent.name, DAMAGED, message=f"{path / 'status.json'} is no status: {error!r}")


def _row(folder: RunFolder, status: dict[str, Any], created: Any) -> Row:
    best, total = status.get("best") or {}, status.get("total")
    value = best.get("value")
    return Row(
        folder.path.name,
        folder.path.parent.name,
        str(status.get("state", "unknown")),
        int(status.get("step") or 0),
        None if total is None else int(total),
        monitor=best.get("monitor"),
        best=None if value is None else float(value),
        best_step=best.get("step"),
        maximise=bool(best.get("maximise")),
        metrics={str(name): float(metric) for name, metric in (status.get("results") or {}).items()},
        updated=_seconds(status.get("updated") or created),
        message=status.get("message"),
    )


def _seconds(time: str | None) -> float | None:
    return None if time is None else datetime.datetime.fromisoformat(time).timestamp()


def _ranked(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows by a metric, best first."""
    known = sorted({name for row in rows for name in [*row.metrics, *([row.monitor] if row.monitor else [])]})
    if rows and metric not in known:
        raise UsageError(f"--sort {metric}: no run has measured it{_hint(metric, known)}")
    with_it = [row for row in rows if row.value(metric) is not None]
    maximise = next((row.maximise for row in with_it if row.monitor == metric), not metric.endswith("loss"))
    with_it.sort(key=lambda row: row.value(metric) or 0.0, reverse=maximise)
    return [*with_it, *(row for row in rows if row.value(metric) is None)]


def _hint(name: str, names: Sequence[str]) -> str:
    nearest = get_close_matches(name, names, 1)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(names) or 'none'}"


def table(rows: Iterable[Row], now: float | None = None) -> str:
    """The rows as text; a column for each test metric that a run of them has."""
    rows, now = list(rows), datetime.datetime.now(datetime.UTC).timestamp() if now is None else now
    tests = sorted({name for row in rows for name in row.metrics if name.startswith("test/")})
    lines = [["run", "experiment", "state", "steps", "best", *map(printable, tests), "age"]]
    lines += [[*_cells(row), *(_number(row.metrics.get(name)) for name in tests), _age(row, now)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    faults = (printable(f"{row.run}: {row.message}") for row in rows if row.state == DAMAGED and row.message)
    return "".join(f"{line}\n" for line in [*text, *faults])


def _cells(row: Row) -> list[str]:
    steps = f"{row.step}/{'?' if row.total is None else row.total}"
    best = "-" if row.best is None else f"{row.monitor} {_number(row.best)} at {row.best_step}"
    return [printable(text) for text in (row.run, row.experiment, row.state, steps, best)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _age(row: Row, now: float) -> str:
    if row.updated is None:
        return "-"
    seconds = max(0.0, now - row.updated)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _as_json(row: Row) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    found = {name: plain(value) for name, value in asdict(row).items()}
    return found | {"metrics": {name: plain(value) for name, value in row.metrics.items()}}
