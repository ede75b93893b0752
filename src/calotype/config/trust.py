"""Decides whether a config that somebody else wrote, such as one inside a model file, may be built.

A config that the user wrote or named is code and runs freely; it never comes here. Everything is judged as data first:
the whole tree is walked, and any name, argument, key or value off the list refuses all of it before a single import.
Only then are the targets imported, and each object's own module is compared with its name, so that an alias
(`pkg.models.os.system`) in a trusted package leads nowhere. Unusual: rules are about exact names, never prefixes; a
prefix is what the user gives by hand with `--trust PKG`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from calotype.config.allowed import ALLOWED, CONSTANTS
from calotype.config.build import SPECIAL, locate
from calotype.config.reader import MAX_DEPTH, join
from calotype.config.schema import NODES, hints
from calotype.errors import RefusedError


def check_trusted(tree: Any, trust: Collection[str] = ()) -> None:
    """Refuse `tree` unless all it names is on the exact allow-list or in a package of `trust`.

    `tree` is a whole config, or a node inside `module` or `data`. Raises RefusedError naming the key, the target and
    `--trust PKG`; when the refusal is about the tree itself, nothing has been imported.
    """
    for package in trust:
        root = package.partition(".")[0]
        if root in sys.stdlib_module_names or not all(part.isidentifier() for part in package.split(".")):
            raise RefusedError(f"--trust {package}: name a package of your own; Python's own library can't be trusted")
    targets = list(_judged(tree, "", trust, 0))
    for key, target in targets:
        _check_identity(key, target, trust)


def _judged(tree: Any, key: str, trust: Collection[str], depth: int) -> Iterator[tuple[str, str]]:
    """The targets of `tree` with their keys, each judged as data; raises RefusedError at the first that fails."""
    if depth > MAX_DEPTH:
        raise RefusedError(f"is nested deeper than {MAX_DEPTH} levels", key=key)
    if isinstance(tree, dict):
        _check_keys(tree, key)
        if "_target_" in tree:
            yield key, _judged_target(tree, key, trust)
        for name, value in tree.items():
            yield from _judged(value, join(key, name), trust, depth + 1)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _judged(value, join(key, index), trust, depth + 1)
    elif isinstance(tree, str):
        if "${" in tree:
            raise RefusedError(f"{tree!r}: an interpolation could read this machine's environment", key=key or None)
    elif tree is not None and not isinstance(tree, bool | int | float):
        raise RefusedError(f"a {type(tree).__name__} is no plain data", key=key or None)


def _check_keys(node: Mapping[Any, Any], key: str) -> None:
    for name in node:
        if not isinstance(name, str):
            raise RefusedError(f"the key {name!r} is no text", key=key or None)
        hidden = name.startswith("_") and name not in SPECIAL
        if hidden or "class_path" in name or name in ("()", "hydra"):
            raise RefusedError(
                "such a key could name code to run; it is not taken from a config of unknown origin",
                key=join(key, name),
            )


def _judged_target(node: Mapping[str, Any], key: str, trust: Collection[str]) -> str:
    target = node["_target_"]
    if not isinstance(target, str):
        raise RefusedError(f"_target_ is {target!r}, not a dotted name", key=key or None)
    if _package(target, trust) is not None:
        return target
    if target not in ALLOWED:
        nearest = get_close_matches(target, ALLOWED, 1, 0.85)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        package = target.partition(".")[0]
        raise RefusedError(
            f"{target} is not on the list of what a config of unknown origin may name.{hint} If you know where it "
            f"comes from and trust it, allow its package with --trust {package}",
            key=key or None,
        )
    _check_arguments(node, target, key)
    return target


def _check_arguments(node: Mapping[str, Any], target: str, key: str) -> None:
    rule = ALLOWED[target]
    if rule is None:
        return
    if "_args_" in node:
        raise RefusedError(f"{target} takes its arguments by name here", key=join(key, "_args_"))
    settings = hints(NODES[key]) if key in NODES else {}
    for name, value in node.items():
        if name in SPECIAL or name in settings:
            continue
        if name not in rule or not rule[name](value):
            raise RefusedError(
                f"{target} may not be given {name}={value!r} by a config of unknown origin, because it could download "
                "or open files; compose a config of your own for that",
                key=join(key, name),
            )


def _check_identity(key: str, target: str, trust: Collection[str]) -> None:
    """Import what `target` names and refuse it if it really lives in another package."""
    found = locate(target)
    if target in CONSTANTS:
        return
    package = _package(target, trust) or target.partition(".")[0]
    home = str(getattr(found, "__module__", None))
    name = str(getattr(found, "__qualname__", None))
    if not (home == package or home.startswith(f"{package}.")) or not f".{target}".endswith(f".{name}"):
        raise RefusedError(f"{target} is really {home}.{name}, which is not in {package}", key=key or None)


def _package(target: str, trust: Collection[str]) -> str | None:
    """The trusted package that `target` lies in by name."""
    return next((package for package in trust if target.startswith(f"{package}.")), None)
