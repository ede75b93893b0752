"""A table of runs: what differs in their configs, and their metrics.

    python examples/compare_runs.py runs/digits

A run is a folder of plain files, so this reads them with json and yaml and needs nothing of Calotype.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


def leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for everything in a config."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    if not items:
        yield key, tree
    for name, value in items:
        yield from leaves(value, f"{key}.{name}" if key else str(name))


def table(folder: Path, metrics: list[str]) -> list[list[str]]:
    """Head and rows: the run, each key whose value is not the same in all runs, each metric."""
    runs = sorted(file.parent for file in folder.rglob("status.json"))
    configs = [dict(leaves(yaml.safe_load((run / "config.yaml").read_text()))) for run in runs]
    everywhere = {key: [config.get(key) for config in configs] for config in configs for key in config}
    keys = [key for key, values in everywhere.items() if any(value != values[0] for value in values)]
    rows = [["run", *keys, *metrics]]
    for run, config in zip(runs, configs, strict=True):
        results = json.loads((run / "status.json").read_text()).get("results") or {}
        measured = (f"{results[name]:.4f}" if name in results else "-" for name in metrics)
        rows.append([run.name, *(str(config.get(key, "-")) for key in keys), *measured])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metrics", nargs="+", default=["val/accuracy", "test/accuracy"])
    args = parser.parse_args()
    rows = table(args.folder, args.metrics)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
