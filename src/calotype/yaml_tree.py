"""Reads and writes YAML as plain trees, and remembers on which line each key stood.

Unusual: the tree is built from parser events instead of by a YAML constructor. So there is nothing that could build a
Python object, a bomb of aliases or nesting is refused before it grows, a key that is given twice is an error, and every
key has its line. Scalars follow YAML 1.2's core schema: `off` and `no` are text, `1e-3` is a number, `1:30` is text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from calotype.errors import ConfigError, DataError

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_NODES = 20_000

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a document is, the error that tells what is wrong with it, and whether its keys may be numbers too."""

    what: str = "a config"
    error: type[ConfigError | DataError] = ConfigError
    numbers: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A file's tree with the line of each dotted key, counted from 1."""

    name: str
    tree: Any
    lines: dict[str, int] = field(default_factory=dict)

    def line(self, key: str) -> int | None:
        """The line of `key`, or of the nearest key above it that has one."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return self.lines.get(key)


def join(*parts: object) -> str:
    """A dotted key from its parts; empty parts are left out."""
    return ".".join(text for text in map(str, parts) if text)


def read(path: Path, rules: Rules | None = None) -> Document:
    """The YAML file at `path`. Raises the rules' error, naming the file and the line."""
    rules = rules or Rules()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise rules.error(f"{path}: can't be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise rules.error(f"{path}: {len(data)} bytes are too many for {rules.what} (limit {MAX_BYTES})")
    try:
        return parse(data.decode(), str(path), rules)
    except UnicodeDecodeError as error:
        raise rules.error(f"{path}: is no UTF-8 text: {error}") from error


def parse(text: str, name: str = "<text>", rules: Rules | None = None) -> Document:
    """The tree of one YAML document. Raises the rules' error, naming `name` and the line."""
    rules = rules or Rules()
    builder = _Builder(name, rules, iter(yaml.parse(text, Loader=_Loader)))
    try:
        return Document(name, builder.document(), builder.lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise rules.error(f"{where}: is no YAML: {getattr(error, 'problem', None) or error}") from error


class _Builder:
    """Turns parser events into plain values under limits of depth and size."""

    def __init__(self, name: str, rules: Rules, events: Iterator[Any]) -> None:
        self.name, self.rules = name, rules
        self.events = events
        self.lines: dict[str, int] = {}
        self.nodes = 0
        self.anchors: dict[str, tuple[Any, int]] = {}

    def document(self) -> Any:
        next(self.events)  # the stream starts
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        tree = self.value(next(self.events), "", 0)
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self.error(event, f"{self.rules.what} is one document; there is a second")
        return tree

    def error(self, event: Any, message: str) -> ConfigError | DataError:
        return self.rules.error(f"{self.name}:{event.start_mark.line + 1}: {message}")

    def count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self.error(event, f"more than {MAX_NODES} values once aliases are written out")

    def value(self, event: Any, key: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.error(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.tag not in _TEXT_TAGS:
            raise self.error(event, f"the tag {event.tag!r} is refused; {self.rules.what} is plain data")
        before = self.nodes
        self.count(event, 1)
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(key, depth)
        else:
            value = self.mapping(key, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = value, self.nodes - before
        return value

    def alias(self, event: Any) -> Any:
        if event.anchor not in self.anchors:
            raise self.error(event, f"the alias *{event.anchor} has no finished anchor")
        value, nodes = self.anchors[event.anchor]
        self.count(event, nodes)
        return copy.deepcopy(value)

    def sequence(self, key: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            path = join(key, len(items))
            self.lines[path] = event.start_mark.line + 1
            items.append(self.value(event, path, depth + 1))
        return items

    def mapping(self, key: str, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            name = self.value(event, "", depth + 1)
            if isinstance(name, int) and not isinstance(name, bool) and self.rules.numbers:
                name = str(name)
            if not isinstance(name, str):
                raise self.error(event, f"the key {name!r} is no text; write it in quotes")
            if name == "<<":
                raise self.error(event, "merge keys (<<) are not supported; write the values out")
            if name in items:
                raise self.error(event, f"the key {name!r} is given twice")
            path = join(key, name)
            self.lines[path] = event.start_mark.line + 1
            items[name] = self.value(next(self.events), path, depth + 1)
        return items

    @staticmethod
    def scalar(event: Any) -> Any:
        text: str = event.value
        if not event.implicit[0] or event.tag is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        return text


class _Dumper(yaml.SafeDumper):
    """Block style, lists of scalars on one line, no aliases; quotes all that `parse` would not read back as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    flow = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


_Dumper.add_representer(list, _list)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+0123456789."))


def dump(tree: Any) -> str:
    """`tree` as YAML; `parse` gives the same tree back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
