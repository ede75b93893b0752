"""Arguments that several verbs share: a config's file or groups, and overrides."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calotype.config.build import resolve_env
from calotype.config.check import check_schema
from calotype.config.compose import Config, compose
from calotype.config.search import groups, options, search_path


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add OVERRIDE..., `--config-dir` and `--cfg`; the help ends with the groups and their options."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="key=value, +key=value (new), ~key (remove), group=option, or a whole config: FILE.yaml, FILE.py",
    )
    add_config_dir(parser)
    parser.add_argument("--cfg", action="store_true", help="print the composed config and exit")
    parser.epilog = describe_groups()


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--config-dir`."""
    parser.add_argument(
        "--config-dir",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="a folder of config groups, before configs/ and conf/ here and the packaged ones (repeatable)",
    )


def asked(allow_changed: Collection[str], trust: Collection[str]) -> list[str]:
    """What is allowed and trusted, as arguments again."""
    allowed = [f"--allow-changed={','.join(allow_changed)}"] if allow_changed else []
    return [*allowed, *(f"--trust={name}" for name in trust)]


def config_from(args: argparse.Namespace) -> Config:
    """The config that the arguments ask for, composed and checked without torch. Raises ConfigError."""
    config = compose(args.overrides, config_dirs=args.config_dir)
    check_schema(config)
    return config


def describe_groups() -> str:
    """The groups and their options, one line each, experiments first."""
    search = search_path()
    names = sorted(groups(search), key=lambda name: (name != "experiment", name))
    lines = (f"  {name:12}{', '.join(options(name, search))}" for name in names)
    return "groups and their options:\n" + "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where data and runs are on this machine, environment variables filled in."""

    data: Path
    runs: Path


def paths(tree: Mapping[str, Any]) -> Paths:
    """The node `paths` of a config. Raises ConfigError for a variable that is not set."""
    resolved = resolve_env(tree["paths"], "paths")
    return Paths(Path(resolved["data"]), Path(resolved["runs"]))
