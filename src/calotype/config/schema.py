"""Turns plain values into the types of settings.py, or says what would have been allowed.

The rules are strict on purpose: a bool is no integer, text is no number, an integer is a float, and a literal must be
equal in value and type.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import SequenceMatcher, get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from calotype.config.reader import join
from calotype.errors import ConfigError
from calotype.settings import CheckpointSettings, DataSettings, ModuleSettings, PathSettings, TrainerSettings

S = TypeVar("S")
TOP_LEVEL = ("seed", "experiment", "module", "data", "trainer", "checkpoint", "tracking", "paths", "vars")
NODES: dict[str, type[Any]] = {
    "module": ModuleSettings,
    "data": DataSettings,
    "trainer": TrainerSettings,
    "checkpoint": CheckpointSettings,
    "paths": PathSettings,
}
_NEAR, _FAR = 0.6, 0.4
_NAMES = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def hints(cls: Any) -> dict[str, Any]:
    """The resolved annotations of a settings class, field by field."""
    return get_type_hints(cls)


def settings(node: Mapping[str, Any], cls: type[S], key: str = "") -> S:
    """`node` as an instance of the settings class `cls`; absent keys take its defaults.

    Raises ConfigError naming the key that is unknown, missing or of another type.
    """
    allowed = hints(cls)
    for name in node:
        if name not in allowed:
            raise ConfigError(f"is no key here; {did_you_mean(name, allowed)}", key=join(key, name))
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in node and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError("is missing", key=join(key, item.name))
    return cls(**{name: conform(value, allowed[name], join(key, name)) for name, value in node.items()})


def conform(value: Any, hint: Any, key: str = "") -> Any:
    """`value` as the type `hint` asks for. Raises ConfigError that lists what is allowed."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(value, Mapping):
        for member in members:
            if isinstance(member, type) and is_dataclass(member):
                return settings(value, member, key)
    for member in members:
        if _fits(value, member):
            return _converted(value, member, key)
    raise ConfigError(f"{value!r} is not allowed; {_expected(value, hint)}", key=key)


def did_you_mean(name: str, names: Any, label: str = "there are") -> str:
    """`did you mean x?` where one of `names` is near, else all of them."""
    nearest = get_close_matches(name, [str(item) for item in names], 1)
    return f"did you mean {nearest[0]}?" if nearest else f"{label}: {', '.join(map(str, names))}"


def nearest_keys(name: str, keys: Iterable[str]) -> str:
    """The few of `keys` that are nearest, as the start of a sentence; a name without dots is also compared with the
    keys' last parts.
    """

    def likeness(key: str) -> float:
        parts = (key,) if "." in name else (key, key.rpartition(".")[2])
        return max(SequenceMatcher(None, name, part).ratio() for part in parts)

    ranked = sorted(((likeness(key), key) for key in keys), key=lambda item: -item[0])
    near = [key for ratio, key in ranked if ratio >= _NEAR][:3]
    if near:
        return f"did you mean {' or '.join(filter(None, [', '.join(near[:-1]), near[-1]]))}? "
    far = [key for ratio, key in ranked if ratio >= _FAR][:3]
    return f"the nearest: {', '.join(far)}; " if far else ""


def describe(hint: Any) -> str:
    """What a type allows, in words."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return ", ".join(dict.fromkeys(describe(member) for member in get_args(hint)))
    if origin is Literal:
        return ", ".join(str(value) for value in dict.fromkeys(map(str, get_args(hint))))
    if origin is list:
        return "a list" if get_args(hint) == (Any,) else f"a list of {_plural(get_args(hint)[0])}"
    if origin is dict or is_dataclass(hint):
        names = f" of {', '.join(hints(hint))}" if is_dataclass(hint) else ""
        return f"a node{names}"
    return _NAMES.get(hint, "any value")


def _plural(hint: Any) -> str:
    return {int: "integers", float: "numbers", str: "texts"}.get(hint, "nodes")


def _expected(value: Any, hint: Any) -> str:
    literals = [item for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal for item in get_args(kind)]
    nearest = get_close_matches(str(value), [item for item in literals if isinstance(item, str)], 1, 0.5)
    return f"allowed: {describe(hint)}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(value == item and type(value) is type(item) for item in get_args(hint))
    if origin in (list, dict):
        return isinstance(value, origin)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _converted(value: Any, hint: Any, key: str) -> Any:
    if hint is float:
        return float(value)
    if get_origin(hint) is list:
        (item,) = get_args(hint)
        return [conform(element, item, join(key, index)) for index, element in enumerate(value)]
    return value
