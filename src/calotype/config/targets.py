"""Second stage of checking: every `_target_` of a config exists and takes the arguments that it is given.

Only the targets' modules are imported; nothing is built, no data is opened and nothing is fetched. What the engine
passes itself counts as given: `params` of an optimizer; `optimizer`, `total_steps` and `steps_per_epoch` of a schedule.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from calotype.config.build import SPECIAL, locate
from calotype.config.compose import Config, located
from calotype.config.downloads import refuse_downloads
from calotype.config.published import is_published, published
from calotype.config.reader import join
from calotype.config.schema import NODES, did_you_mean, hints
from calotype.config.search import options
from calotype.errors import ConfigError

SUPPLIED: Mapping[str, tuple[str, ...]] = {
    "module.optimizer": ("params",),
    "module.lr_scheduler": ("optimizer", "total_steps", "steps_per_epoch"),
}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def nodes(tree: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, with its dotted key, outermost first."""
    if isinstance(tree, dict) and "_target_" in tree:
        yield key, tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        yield from nodes(value, join(key, name))


def check_targets(config: Config) -> None:
    """Import each target's module and check the node's arguments against its signature.

    Raises ConfigError naming the key, the file and line that set it, the nearest name, and the group to choose instead
    where an argument is left over from a target that was replaced.
    """
    tree = {name: value for name, value in config.tree.items() if name != "vars"}
    for key, node in nodes(tree):
        with located(config):
            found = _located_target(node, key)
        _check_node(config, key, node, found)
        with located(config):
            refuse_downloads(key, node, found)
    _check_param_groups(config)
    with located(config):
        _check_weights(config.tree["module"])


def _located_target(node: dict[str, Any], key: str) -> Any:
    target = node["_target_"]
    if not isinstance(target, str):
        raise ConfigError(f"{target!r} must be a dotted name", key=f"{key}._target_")
    try:
        return locate(target)
    except ConfigError as error:
        raise ConfigError(error.message, key=f"{key}._target_") from error


def _check_node(config: Config, key: str, node: dict[str, Any], found: Any) -> None:
    own = hints(NODES[key]) if key in ("module", "data") else {}
    given = [name for name in node if name not in SPECIAL and name not in own]
    parameters = _parameters(found)
    if parameters is None:
        return
    for name in given:
        if name.startswith("_") and name.endswith("_") and len(name) > 2:
            raise ConfigError(
                f"is no special key; {did_you_mean(name, SPECIAL)}{config.where(join(key, name))}", key=key
            )
    named = {item.name: item for item in parameters if item.kind in _NAMED}
    if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters):
        for name in given:
            if name not in named:
                raise _unexpected(config, key, node, name, [*named, *own])
    _check_positional(config, key, node, parameters)
    missing = _missing(parameters, given, len(node.get("_args_", ())), SUPPLIED.get(key, ()))
    if missing and not node.get("_partial_"):
        raise ConfigError(
            f"{node['_target_']} needs {' and '.join(missing)}{config.where(join(key, '_target_'))}; "
            f"add it with +{join(key, missing[0])}=...",
            key=key,
        )


def _parameters(found: Any) -> list[inspect.Parameter] | None:
    """The parameters of a call of `found`; None where Python can't tell."""
    if not callable(found):
        return []
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return None


def _check_positional(config: Config, key: str, node: dict[str, Any], parameters: list[inspect.Parameter]) -> None:
    positional = node.get("_args_", [])
    if not isinstance(positional, list):
        raise ConfigError(f"{positional!r} is not allowed; allowed: a list{config.where(key)}", key=join(key, "_args_"))
    slots = [item.name for item in parameters if item.kind in _POSITIONAL]
    if len(positional) > len(slots) and not any(item.kind is inspect.Parameter.VAR_POSITIONAL for item in parameters):
        raise ConfigError(
            f"{node['_target_']} takes {len(slots)} positional argument{'s' * (len(slots) != 1)}, not {len(positional)}"
            f"{config.where(key)}",
            key=join(key, "_args_"),
        )
    twice = [name for name in slots[: len(positional)] if name in node]
    if twice:
        raise ConfigError(f"is given by position too{config.where(join(key, twice[0]))}", key=join(key, twice[0]))


def _missing(
    parameters: list[inspect.Parameter], given: list[str], positional: int, supplied: tuple[str, ...]
) -> list[str]:
    slots = [item.name for item in parameters if item.kind in _POSITIONAL][:positional]
    return [
        item.name
        for item in parameters
        if item.default is inspect.Parameter.empty
        and item.kind in (*_NAMED, inspect.Parameter.POSITIONAL_ONLY)
        and item.name not in (*given, *slots, *supplied)
    ]


def _unexpected(config: Config, key: str, node: dict[str, Any], name: str, names: list[str]) -> ConfigError:
    target = node["_target_"]
    path = join(key, name)
    message = f"{target} takes no argument {name!r}"
    argument, chosen = config.origin(path), config.origin(join(key, "_target_"))
    replaced = chosen.previous if chosen else None
    while replaced and argument and replaced.file != argument.file:
        replaced = replaced.previous
    if argument and argument.file and replaced:
        return ConfigError(
            f"{message}; it is left over from {replaced.value} ({argument}), which {chosen} replaced. "
            f"{_offer(config, key)}drop it with ~{path}",
            key=path,
        )
    return ConfigError(f"{message}; {did_you_mean(name, names, 'it takes')}{config.where(path)}", key=path)


def _offer(config: Config, key: str) -> str:
    group = config.packages.get(key)
    if group is None:
        return ""
    return f"Choose a group instead ({group}={'|'.join(options(group, config.search))}) or "


def _check_param_groups(config: Config) -> None:
    """The keys of a parameter group, its pattern aside, are arguments of the optimizer."""
    module = config.tree["module"]
    parameters = _parameters(locate(module["optimizer"]["_target_"])) or []
    names = [item.name for item in parameters if item.name != "params"]
    for index, group in enumerate(module.get("param_groups") or []):
        for name in group:
            if name != "pattern" and name not in names:
                path = f"module.param_groups.{index}.{name}"
                message = f"{module['optimizer']['_target_']} takes no argument {name!r}"
                raise ConfigError(f"{message}; {did_you_mean(name, names, 'it takes')}{config.where(path)}", key=path)


def _check_weights(module: Mapping[str, Any]) -> None:
    """Weights that are named are published."""
    start = module.get("weights")
    source = start["source"] if isinstance(start, Mapping) else start
    if source is None or not is_published(source):
        return
    try:
        published(source)
    except ConfigError as error:
        raise ConfigError(error.message, key="module.weights") from error
