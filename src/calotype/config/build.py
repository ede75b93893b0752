"""Builds objects from a plain tree. A node with `_target_` is a call of what it names; everything else is data.

Keys of a node: `_target_` (dotted name), `_args_` (positional arguments), `_partial_` (true: a functools.partial);
the others are keyword arguments. A target that can't be called and gets no arguments, such as `torch.float32`, is the
object itself. Unusual: `${oc.env:X}` is resolved here and nowhere earlier, so a secret is in no tree and no record.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from calotype.config.reader import join
from calotype.config.schema import hints, settings
from calotype.errors import CalotypeError, ConfigError

__all__ = ["build", "locate", "resolve_env", "settings", "split_settings"]

S = TypeVar("S")
SPECIAL = ("_target_", "_args_", "_partial_")
_ENV = re.compile(r"\$\{oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:,\s*([^}]*?)\s*)?\}")


def split_settings(node: Mapping[str, Any], cls: type[S], key: str = "") -> tuple[S, dict[str, Any]]:
    """The keys of `node` that belong to the settings class `cls`, as an instance of it, and the rest of the node.

    Nested settings are built, nodes with a `_target_` stay plain. Raises ConfigError naming the key at fault.
    """
    names = hints(cls)
    own = {name: value for name, value in node.items() if name in names}
    return settings(own, cls, key), {name: value for name, value in node.items() if name not in names}


def locate(dotted: str) -> Any:
    """The object a dotted name stands for, importing no module but those on the way to it.

    Raises ConfigError that tells a name that doesn't exist from a package that isn't installed or fails to import.
    """
    parts = dotted.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{dotted!r} is no dotted name such as torch.optim.AdamW")
    found: Any = _import(parts[0], dotted)
    for index, part in enumerate(parts[1:], 1):
        if not hasattr(found, part) and hasattr(found, "__path__"):
            _import(".".join(parts[: index + 1]), dotted, parent=found)
        if not hasattr(found, part):
            raise _unknown(dotted, ".".join(parts[:index]), part, found)
        found = getattr(found, part)
    return found


def build(node: Any, key: str = "", /, **extra: Any) -> Any:
    """The objects that `node` describes, innermost first; `extra` are arguments for the outermost call.

    `key` is the node's place in the config, for messages. What a constructor raises becomes a ConfigError that names
    the key; an error of Calotype's own keeps its type and gets the key.
    """
    if isinstance(node, Mapping):
        values = {name: build(value, join(key, name)) for name, value in node.items() if name != "_target_"}
        return _call(node["_target_"], {**values, **extra}, key) if "_target_" in node else values
    if isinstance(node, list | tuple):
        return [build(value, join(key, index)) for index, value in enumerate(node)]
    return resolve_env(node, key)


def resolve_env(tree: Any, key: str = "") -> Any:
    """A copy of `tree` with `${oc.env:X}` and `${oc.env:X,default}` filled in; never to be recorded or shown.

    Raises ConfigError naming the key and the variable that is not set.
    """
    if isinstance(tree, Mapping):
        return {name: resolve_env(value, join(key, name)) for name, value in tree.items()}
    if isinstance(tree, list):
        return [resolve_env(value, join(key, index)) for index, value in enumerate(tree)]
    if not isinstance(tree, str):
        return tree

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1], match[2])
        if found is None:
            raise ConfigError(f"the environment variable {match[1]} is not set", key=key or None)
        return found

    return _ENV.sub(value, tree)


def _call(target: Any, values: dict[str, Any], key: str) -> Any:
    if not isinstance(target, str):
        raise ConfigError(f"_target_ is {target!r}; it must be a dotted name", key=key or None)
    positional = values.pop("_args_", [])
    partial = values.pop("_partial_", False)
    try:
        found = locate(target)
        if not callable(found) and not positional and not values:
            return found
        return functools.partial(found, *positional, **values) if partial else found(*positional, **values)
    except CalotypeError as error:
        error.key = error.key or key or None
        raise
    except Exception as error:
        raise ConfigError(f"{target} failed: {type(error).__name__}: {error}", key=key or None) from error


def _import(name: str, dotted: str, parent: Any = None) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ConfigError(f"{dotted}: importing {name} needs {error.name}, which is not installed") from error
        if parent is None:
            raise ConfigError(f"{dotted}: there is no package {name!r}; is it installed, or in this folder?") from error
    except Exception as error:
        raise ConfigError(f"{dotted}: importing {name} failed: {type(error).__name__}: {error}") from error
    return None


def _unknown(dotted: str, parent: str, part: str, found: Any) -> ConfigError:
    names = [name for name in dir(found) if not name.startswith("_")]
    names += [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", ()))]
    nearest = get_close_matches(part, names, 1)
    hint = f"; did you mean {parent}.{nearest[0]}?" if nearest else ""
    return ConfigError(f"{dotted}: {parent} has no {part!r}{hint}")
