"""What a mirror says of a run besides its scalars: parameters and tags, from the run folder's files.

Parameters are the leaves of config.yaml, in which secrets are names of variables, and a few under the plain names that
tables of runs are read by ("num epochs", "pytorch version"). Where the data and runs lie on a machine, and tracking
itself, are left out: they are no part of what a run is.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LEFT_OUT = ("paths", "tracking")
PLAIN = {
    "num epochs": ("trainer", "max_epochs"),
    "max steps": ("trainer", "max_steps"),
    "batch size": ("data", "batch_size"),
    "eval batch size": ("data", "eval_batch_size"),
    "num workers": ("data", "workers"),
    "learning rate": ("module", "optimizer", "lr"),
    "optimizer": ("module", "optimizer", "_target_"),
    "model": ("module", "network", "_target_"),
    "precision": ("trainer", "precision"),
}
"""Parameters by plain names, and where they stand in a config."""


@dataclass(frozen=True, slots=True)
class About:
    """A run: its name (experiment/id), when it began in seconds since 1970, its commit, what it is made of."""

    name: str
    began: float | None
    commit: str | None
    params: dict[str, str]
    tags: dict[str, str]

    @property
    def experiment(self) -> str:
        """The experiment it is a run of."""
        return self.name.partition("/")[0]

    @classmethod
    def read(cls, folder: Path, tags: Mapping[str, Any]) -> About:
        """Read config and record; what isn't there is left out. `tags` are the user's own."""
        record = _mapping(_text(folder / "record.json"))
        tree = _mapping(_text(folder / "config.yaml"))
        name = str(record.get("run") or f"{folder.parent.name}/{folder.name}")
        repository = _mapping(record.get("repository"))
        commits = [_mapping(repository.get(part)).get("commit") for part in ("project", "calotype")]
        commit = next((str(found) for found in commits if found), None)
        found = {"calotype.run": name, "experiment": name.partition("/")[0], "calotype": record.get("calotype")}
        found |= {"git commit": commit, "config digest": record.get("config_digest"), "exact": record.get("exact")}
        found |= tags
        told = {name: _plain(value) for name, value in found.items() if value is not None}
        return cls(name, _seconds(record.get("created")), commit, _params(tree, record), told)


def _params(tree: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, Any] = {}
    for name, place in PLAIN.items():
        node: Any = tree
        for part in place:
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is not None:
            found[name] = node
    packages, machine = _mapping(record.get("packages")), _mapping(record.get("machine"))
    found |= {"pytorch version": packages.get("torch"), "torchvision version": packages.get("torchvision")}
    found |= {"python version": machine.get("python"), "shards": _mapping(record.get("frozen")).get("shards")}
    found |= dict(_leaves("", {name: node for name, node in tree.items() if name not in LEFT_OUT}))
    return {name: _plain(value) for name, value in found.items() if value is not None}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a config by dotted key; a list is one."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}" if key else str(name), item)
    elif key:
        yield key, value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _text(path: Path) -> Any:
    """A file of YAML or JSON, which is YAML too."""
    try:
        text = path.read_text()
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _seconds(created: Any) -> float | None:
    try:
        return datetime.datetime.fromisoformat(str(created)).timestamp()
    except ValueError:
        return None
