"""`calotype track sync RUN`: bring a run's mirrors up to date from its files, as often as one likes.

The code is the mirror's own, in the foreground. What a server has already is not sent again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from calotype.commands._progress import Progress
from calotype.commands._text import count, printable
from calotype.commands._tracking import node_of
from calotype.commands.status import add_run, runs_folder
from calotype.config.build import build
from calotype.config.check import check_schema
from calotype.config.compose import Config, compose
from calotype.config.trust import check_trusted
from calotype.errors import UsageError
from calotype.record.folder import RunFolder

HELP = """Bring a run's mirrors at tracking servers up to date from its files; what is there already is not sent again.

  calotype track sync last
  calotype track sync last --tracker mlflow    also a run that was not tracked, to
                                               MLFLOW_TRACKING_URI or else runs/mlflow.db

Exits 1 when something could not be sent."""
KB = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_run(parser)
    parser.add_argument(
        "--tracker", action="append", metavar="NAME", help="this mirror, new or not (by default all that the run has)"
    )
    parser.add_argument("--trust", action="append", default=[], metavar="PKG", help="allow targets of this package")
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def run(args: argparse.Namespace) -> int:
    """Run the verb; 0, or 1 where a mirror is not up to date."""
    folder = RunFolder.find(args.run, runs_folder(args.runs))
    state = str(folder.status().get("state"))
    found = {name: _synced(tracker, folder, state) for name, tracker in _mirrors(folder, args).items()}
    if args.json:
        sys.stdout.write(json.dumps({"run": str(folder.path), "mirrors": found}) + "\n")
    else:
        sys.stdout.write("".join(_told(name, sent) for name, sent in found.items()))
    return int(not all(sent["complete"] for sent in found.values()))


def _mirrors(folder: RunFolder, args: argparse.Namespace) -> dict[str, Any]:
    """The trackers of a run that mirror it, by name. Raises UsageError where there is none."""
    config = compose([str(folder.path / "config.yaml")])
    nodes = {name: node for name, node in config.tree["tracking"].items() if node is not None}
    _check(config, folder, args.trust)
    begun = [path.stem for path in sorted((folder.path / "tracking").glob("*.lock"))]
    for name in args.tracker or begun:
        nodes[name] = nodes.get(name) or node_of(name)
    wanted = set(args.tracker or nodes)
    built = {name: build(node, f"tracking.{name}") for name, node in nodes.items() if name in wanted}
    found = {name: tracker for name, tracker in built.items() if hasattr(tracker, "sync")}
    if missing := [name for name in args.tracker or () if name not in found]:
        raise UsageError(f"{missing[0]} writes into the run folder itself; there is nothing to bring up to date")
    if not found:
        raise UsageError(f"{folder.name} has no mirror; make one with --tracker mlflow")
    return found


def _check(config: Config, folder: RunFolder, trust: Collection[str]) -> None:
    """Raises RefusedError for a config of somebody else's with targets of unknown origin."""
    from calotype.commands._inputs import is_ours

    check_schema(config)
    if not is_ours(folder):
        check_trusted(config.tree["tracking"], trust)


def _synced(tracker: Any, folder: RunFolder, state: str) -> dict[str, Any]:
    """What `sync` says, as plain values."""
    bar: list[Progress] = []

    def progress(done: int, total: int) -> None:
        line = bar[0] if bar else Progress(-(-total // KB), f"KB of scalars to {tracker.name}")
        bar[:] = [line]
        line.advance(-(-done // KB) - line.done)

    try:
        sent: dict[str, Any] = asdict(tracker.sync(folder.path, state, progress))
    finally:
        for line in bar:
            line.__exit__(None, None, None)
    return sent


def _told(name: str, sent: dict[str, Any]) -> str:
    amounts = f"{count(sent['points'], 'value')} and {count(sent['files'], 'file')} sent"
    if not sent["complete"]:
        return printable(f"{name}: not up to date, {amounts}: {sent['trouble']}") + "\n"
    return printable(f"{name}: up to date, {amounts}; run {sent['run']}") + "\n"
