"""`calotype status RUN`: how a run is doing; exits with the run's code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path

from calotype.commands._text import printable
from calotype.errors import RunFolderError, UsageError
from calotype.record.folder import RunFolder

HELP = """Say how a run is doing, and exit with its code: 0 done or running, 75 to be resumed.

  calotype status last
  calotype status auto experiment=digits       the run that `train --resume auto experiment=digits` goes on with"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="with the word auto as RUN: the run's config")
    parser.add_argument("--config-dir", action="append", type=Path, default=[], metavar="DIR", help="as for train")
    parser.add_argument("--json", action="store_true", help="print the status as one JSON object")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN and `--runs`."""
    parser.add_argument("run", metavar="RUN", help="a run folder, an id, or the word last")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where runs are (paths.runs; by default runs)")


def runs_folder(runs: str | Path | None, overrides: Collection[str] = ()) -> Path:
    """Where runs are: what `--runs` or an override `paths.runs=` says. Raises UsageError where they say two things."""
    told = [text for text in overrides if text.lstrip("+").startswith("paths.runs=")]
    if not told:
        return Path("runs" if runs is None else runs)
    from calotype.commands._arguments import paths
    from calotype.config.compose import compose

    named = paths(compose(told).tree).runs
    if runs is not None and Path(runs).resolve() != named.resolve():
        raise UsageError(f"--runs {runs} and paths.runs={named} are two folders; give one of them")
    return named


def _named(args: argparse.Namespace) -> RunFolder:
    if other := [text for text in args.overrides if not text.lstrip("+").startswith("paths.runs=")]:
        raise UsageError(f"{other[0]} goes with the word auto: calotype status auto {other[0]}")
    return RunFolder.find(args.run, runs_folder(args.runs, args.overrides))


def _newest_of(args: argparse.Namespace) -> RunFolder:
    """The newest run of the config. Raises UsageError where there is none."""
    from calotype.commands._arguments import config_from, paths
    from calotype.commands._inputs import anchored
    from calotype.commands.train import find_same

    if args.runs is not None:
        raise UsageError(f"--runs {args.runs}: with the word auto it is paths.runs={args.runs}")
    config = anchored(config_from(args))
    if folder := find_same(config):
        return folder
    raise UsageError(f"there is no run of this config under {paths(config.tree).runs / config.tree['experiment']}")


def run(args: argparse.Namespace) -> int:
    """Run the verb; the run's exit code."""
    folder = _newest_of(args) if args.run == "auto" else _named(args)
    status = folder.status()
    if args.json:
        sys.stdout.write(json.dumps({"run": folder.name, **status}) + "\n")
    else:
        steps = f"step {status.get('step', 0)} of {status.get('total') or '?'}"
        message = f": {status['message']}" if status.get("message") else ""
        sys.stdout.write(printable(f"{folder.name}  {status.get('state', 'unknown')}  {steps}{message}") + "\n")
    code = status.get("exit_code") or 0
    if not isinstance(code, int):
        raise RunFolderError(f"{folder.path / 'status.json'} is no status: its exit_code is {code!r}")
    return code
