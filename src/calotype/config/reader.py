"""The YAML of configs: `yaml_tree` by its rules for them, and texts in a tree changed one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from calotype.yaml_tree import MAX_BYTES, MAX_DEPTH, Document, dump, join, parse, read

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Document", "dump", "join", "map_text", "parse", "read"]


def map_text(tree: Any, change: Callable[[str], str]) -> Any:
    """A copy of `tree` with `change` applied to each text value."""
    if isinstance(tree, dict):
        return {key: map_text(value, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_text(value, change) for value in tree]
    return change(tree) if isinstance(tree, str) else tree
