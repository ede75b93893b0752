"""Configs written in Python: the same plain tree, made by a file's module-level names.

    from calotype.config.python import T

    seed = 1
    module = T("calotype.tasks.classification.Classification", network=T("timm.create_model", model_name="resnet18"),
               optimizer=T("torch.optim.AdamW", lr=1e-3))

`T` makes a plain node; nothing is built while the file is read. A file may hold one dict `config` instead of the names.
hydra-zen's builders (dataclasses with a `_target_`) are lowered to the same nodes; what can't be lowered is refused
with its line. Such a file runs as the code it is, so only a path on this machine is taken, and none in a checkpoint.
"""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from calotype.config.reader import Document, join
from calotype.config.schema import TOP_LEVEL
from calotype.config.targets import SUPPLIED
from calotype.errors import ConfigError, RefusedError

_ZEN = ("hydra_zen.funcs.zen_processing", "hydra_zen._utils.zen_processing")
_RUN_NAME = "__calotype__"
_GET = "hydra_zen.funcs.get_obj"


class Node(dict[str, Any]):
    """A plain node that remembers the line it was written on."""

    line: int | None = None


def T(target: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: N802 - as in T(arget)
    """A node: a call of `target` (a dotted name, or a function or class that has one) with these arguments."""
    node = Node(_target_=target if isinstance(target, str) else public_name(target))
    if args:
        node["_args_"] = list(args)
    node.update(kwargs)
    node.line = sys._getframe(1).f_lineno
    return node


def public_name(value: Any) -> str:
    """The shortest dotted name under which `value` is found. Raises ConfigError where it has none."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name or "<" in name or module in ("__main__", _RUN_NAME):
        raise ConfigError(f"{value!r} has no dotted name")
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        found: Any = sys.modules.get(".".join(parts[:length]))
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is value:
            return ".".join((*parts[:length], name))
    raise ConfigError(f"{value!r} is not what {module}.{name} names")


def read_python(path: Path) -> Document:
    """The tree that the Python file at `path` describes. Raises ConfigError, RefusedError naming file and line."""
    if "://" in str(path) or ":/" in str(path):
        raise RefusedError(f"{path}: a Python config is code; only a file on this machine is run")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    for folder in path.resolve().parents:
        if folder.name == "checkpoints" or (folder / "manifest.json").exists():
            raise RefusedError(f"{path}: a Python config is code and is not taken from a checkpoint")
    lines = _assignments(path)
    try:
        names = runpy.run_path(str(path), run_name=_RUN_NAME)
    except Exception as error:
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"{path}:{_failing_line(error, path)}: {kind}{error}") from error
    tree = names["config"] if isinstance(names.get("config"), dict) else _top_level(names, path, lines)
    lowering = _Lowering(path, lines)
    return Document(str(path), lowering.lower(dict(tree), "", lines.get("config", 0)), lowering.lines)


def _top_level(names: dict[str, Any], path: Path, lines: dict[str, int]) -> dict[str, Any]:
    for name, value in names.items():
        if name.startswith("_") or name in TOP_LEVEL or callable(value) or isinstance(value, ModuleType):
            continue
        if nearest := get_close_matches(name, TOP_LEVEL, 1, 0.75):
            raise ConfigError(
                f"{path}:{lines.get(name, 1)}: nothing reads {name!r}; did you mean {nearest[0]}? "
                f"A helper is better called _{name}"
            )
    return {name: names[name] for name in TOP_LEVEL if name in names}


def _assignments(path: Path) -> dict[str, int]:
    """The line of each module-level assignment. Raises ConfigError on a syntax error."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}:{getattr(error, 'lineno', 1)}: {error}") from error
    found: dict[str, int] = {}
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        found.update((item.id, statement.lineno) for item in targets if isinstance(item, ast.Name))
    return found


def _failing_line(error: BaseException, path: Path) -> int:
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class _Lowering:
    """Turns what a file holds into plain data, and notes the line of each key."""

    def __init__(self, path: Path, assignments: dict[str, int]) -> None:
        self.path = path
        self.assignments = assignments
        self.lines: dict[str, int] = {}

    def lower(self, value: Any, key: str, line: int) -> Any:
        line = getattr(value, "line", None) or line if isinstance(value, Node) else line
        if key:
            self.lines[key] = line
        if isinstance(value, dict):
            return self._mapping(value, key, line)
        if isinstance(value, list | tuple):
            return [self.lower(item, join(key, index), line) for index, item in enumerate(value)]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Path):
            return str(value)
        if is_dataclass(value) and hasattr(value, "_target_"):
            return self.lower(self._builder(value, key, line), key, line)
        raise self._refused(f"{value!r} is no plain data", key, line)

    def _mapping(self, value: dict[Any, Any], key: str, line: int) -> dict[str, Any]:
        for name in value:
            if not isinstance(name, str):
                raise self._refused(f"the key {name!r} is no text", key, line)
        first = self.assignments if not key else {}
        return {name: self.lower(item, join(key, name), first.get(name, line)) for name, item in value.items()}

    def _builder(self, value: Any, key: str, line: int) -> dict[str, Any]:
        """A hydra-zen builder, a dataclass or an instance of one, as a node."""
        values = {item.name: self._field(value, item, key, line) for item in fields(value)}
        target = values.pop("_target_", None) or value._target_
        partial = values.pop("_partial_", False)
        if target in _ZEN:
            target, partial = values.pop("_zen_target"), values.pop("_zen_partial", partial)
        if target == _GET:  # the object itself: a partial without arguments where it can be called
            target = values.pop("path")
            partial = callable(_found(target))
        for name in SUPPLIED.get(key, ()):  # a full signature has them without a value
            if name in values and values[name] in (None, "???"):
                del values[name]
        unknown = [name for name in values if name.startswith("_") and name != "_args_"]
        if unknown:
            raise self._refused(f"a builder with {', '.join(unknown)} can't be written as a plain node", key, line)
        return {"_target_": self._short(target), **({"_partial_": True} if partial else {}), **values}

    def _field(self, value: Any, item: Any, key: str, line: int) -> Any:
        if not isinstance(value, type):
            return getattr(value, item.name)
        if item.default is not MISSING:
            return item.default
        if item.default_factory is not MISSING:
            return item.default_factory()
        return "???"

    def _short(self, target: str) -> str:
        found = _found(target)
        try:
            return target if found is None else public_name(found)
        except ConfigError:
            return target

    def _refused(self, message: str, key: str, line: int) -> ConfigError:
        return ConfigError(
            f"{message}; a config holds numbers, text, lists, dicts and T(...) ({self.path}:{line})", key=key
        )


def _found(target: str) -> Any:
    """What a dotted name stands for, where its module has been imported already; None elsewhere."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if (found := sys.modules.get(".".join(parts[:length]))) is not None:
            for part in parts[length:]:
                found = getattr(found, part, None)
            return found
    return None
