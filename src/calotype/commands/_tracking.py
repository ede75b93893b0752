"""The trackers of a run: those of its config, and those that the environment asks for; and runs that were tracked.

A tracker is known by its name in the group `tracking`, so one of one's own (`conf/tracking/mine.yaml`) can be synced
and fetched from like those that come with Calotype.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calotype.config.build import build
from calotype.config.compose import compose
from calotype.config.search import options, search_path
from calotype.errors import ConfigError, UsageError
from calotype.files import cache_folder

ASKED_BY = {"mlflow": "MLFLOW_TRACKING_URI", "polyaxon": "POLYAXON_RUN_UUID"}
"""Trackers, and the variable that asks for them where a config doesn't name them."""
_TRACKED = re.compile(r"([a-z][a-z0-9_]*):(.+)")


def node_of(name: str) -> dict[str, Any]:
    """The node of the tracker `name` in its group. Raises ConfigError for a name that the group doesn't have."""
    if name not in (known := options("tracking", search_path())):
        raise ConfigError(f"there is no tracker {name!r}; there are {', '.join(known)}", key="tracking")
    tree = compose([f"tracking={name}"]).tree["tracking"]
    return dict(tree[name])


def trackers(tree: Mapping[str, Any], notes: list[str]) -> tuple[list[Any], dict[str, str]]:
    """The trackers of a run, and what its header says of those that came by the environment. One that is asked for by
    the environment and can't be had adds to the `notes`: the run goes on without it.
    """
    built = [tracker for tracker in build(tree["tracking"], "tracking").values() if tracker is not None]
    found = []
    for name, variable in ASKED_BY.items():
        if not os.environ.get(variable) or name in tree["tracking"]:
            continue
        try:
            built.append(build(node_of(name), f"tracking.{name}"))
            found.append(f"{name}, for {variable} is set")
        except ConfigError as error:
            notes.append(f"{variable} is set, but {error.message}; the run goes on without that tracker")
    return built, {"tracking": "; ".join(found)} if found else {}


def tracked(run: str, runs: Path) -> Path | None:
    """A run folder made of what a server has of the run `NAME:ID`; None where `run` is no such name. Raises
    UsageError.
    """
    match = _TRACKED.fullmatch(run)
    if match is None or Path(run).exists():
        return None
    name, number = match.groups()
    tracker = build(node_of(name), f"tracking.{name}")
    if not hasattr(tracker, "fetch"):
        raise UsageError(f"{run}: nothing can be fetched from {name}")
    folder = cache_folder() / "tracked" / name / re.sub(r"[^\w-]", "_", number)
    tracker.fetch(number, runs, folder)
    return folder
