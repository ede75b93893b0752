"""`calotype config`: show a config, explain where a value comes from, compare two configs."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calotype.commands._arguments import add_config_dir, describe_groups
from calotype.config.check import check_schema, value_at
from calotype.config.compose import Config, compose
from calotype.config.reader import dump, join
from calotype.config.schema import NODES, describe, did_you_mean, hints, nearest_keys
from calotype.config.search import options, search_path
from calotype.errors import UsageError

HELP = """Show and compare configs; nothing is imported, built or opened.

  calotype config show [OVERRIDE ...]          the composed config as YAML
  calotype config explain KEY [OVERRIDE ...]   where a value comes from and what is allowed there
  calotype config diff A B                     A, B: a .yaml or .py file, a run folder or an experiment; exit 5 if
                                               they differ"""
ABSENT = "(absent)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("action", choices=("show", "explain", "diff"))
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="see above")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_config_dir(parser)
    parser.epilog = describe_groups()


def run(args: argparse.Namespace) -> int:
    """Run the action; 5 where `diff` finds a difference."""
    actions = {"show": _show, "explain": _explain, "diff": _diff}
    return actions[args.action](args)


def _show(args: argparse.Namespace) -> int:
    config = compose(args.arguments, config_dirs=args.config_dir)
    _print(json.dumps(config.tree, indent=2) if args.json else config.to_yaml().rstrip())
    check_schema(config)
    return 0


def _explain(args: argparse.Namespace) -> int:
    if not args.arguments:
        raise UsageError("config explain needs a KEY, such as trainer.max_epochs")
    key, *overrides = args.arguments
    config = compose(overrides, config_dirs=args.config_dir)
    if key not in config.origins:
        nearest = nearest_keys(key, config.origins)
        raise UsageError(f"there is no key {key}; {nearest}`calotype config show` lists all")
    facts = _facts(config, key)
    _print(json.dumps({"key": key, **facts}, indent=2) if args.json else _as_text(key, facts))
    return 0


def _facts(config: Config, key: str) -> dict[str, Any]:
    origin = config.origins[key]
    facts: dict[str, Any] = {"value": value_at(config.tree, key), "from": str(origin)}
    if isinstance(origin.value, str) and "${" in origin.value:
        facts["written"] = origin.value
    replaced = []
    while (origin := origin.previous) is not None:  # type: ignore[assignment]
        replaced.append({"value": origin.value, "from": str(origin)})
    facts["replaced"] = replaced
    node, _, name = key.partition(".")
    if node in NODES and name in (allowed := hints(NODES[node])):
        facts["allowed"] = describe(allowed[name])
        facts["about"] = inspect.getdoc(NODES[node])
    return facts


def _as_text(key: str, facts: dict[str, Any]) -> str:
    value = facts["value"]
    lines = [
        f"{key}:\n{_indented(dump(value))}" if isinstance(value, dict | list) and value else f"{key} = {_one(value)}"
    ]
    lines.append(f"  from      {facts['from']}")
    if "written" in facts:
        lines.append(f"  written   {facts['written']}")
    lines += [f"  replaced  {_one(item['value'])}  ({item['from']})" for item in facts["replaced"]]
    if "allowed" in facts:
        lines += [f"  allowed   {facts['allowed']}", _indented(facts["about"])]
    return "\n".join(lines)


def _diff(args: argparse.Namespace) -> int:
    if len(args.arguments) != 2:
        raise UsageError("config diff compares two: a .yaml or .py file, a run folder or an experiment each")
    first, second = (dict(_leaves(_load(name, args.config_dir).tree)) for name in args.arguments)
    keys = [*first, *(key for key in second if key not in first)]
    different = [key for key in keys if _differ(first.get(key, ABSENT), second.get(key, ABSENT))]
    if args.json:
        sides = (("a", first), ("b", second))
        rows = [{"key": key, **{side: leaves[key] for side, leaves in sides if key in leaves}} for key in different]
        _print(json.dumps({"equal": not different, "different": rows}, indent=2))
    else:
        for key in different:
            _print(f"{key}: {_one(first.get(key, ABSENT))} -> {_one(second.get(key, ABSENT))}")
    return 5 if different else 0


def _load(name: str, config_dirs: list[Path]) -> Config:
    path = Path(name)
    if (path / "config.yaml").is_file():
        return compose(config_dirs=config_dirs, file=path / "config.yaml")
    if path.suffix in (".yaml", ".py"):
        return compose(config_dirs=config_dirs, file=path)
    experiments = options("experiment", search_path(config_dirs))
    if name not in experiments:
        raise UsageError(
            f"{name} is no file, no run folder and no experiment; {did_you_mean(name, experiments, 'experiments')}"
        )
    return compose([f"experiment={name}"], config_dirs=config_dirs)


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if not items:
        yield key, tree
    for name, value in items:
        yield from _leaves(value, join(key, name))


def _differ(first: Any, second: Any) -> bool:
    return first != second or type(first) is not type(second)


def _one(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())


def _print(text: str) -> None:
    print(text)  # noqa: T201
