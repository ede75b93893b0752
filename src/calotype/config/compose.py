"""Puts a config together: group files, or one YAML or Python file, then the overrides; all of it plain data.

Unusual: every key remembers which file and line, or which override, set it last and what that replaced (`origins`).
`${oc.env:X}` stays text in the tree and so in every record; it is resolved when objects are built.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from calotype.config.hydra_internals import Edit, Groups, Plan, resolve
from calotype.config.reader import Document, dump, join, map_text, read
from calotype.config.schema import NODES, TOP_LEVEL
from calotype.config.search import PACKAGED, groups, search_path
from calotype.errors import ConfigError
from calotype.settings import NEUTRAL

# `${` that was written as `\${`, so that it was no interpolation; the only ones that stay are those of oc.env
_LITERAL = re.compile(r"\$\{(?!oc\.env:)")
DATA_VARIABLES = ("CALOTYPE_DATA", "DATASET_PATH")
"""The folder of data sets where no file and no override says it; the second is what others call it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: a file's line, or an override's text; `previous` is what it replaced."""

    value: Any
    file: str = ""
    line: int | None = None
    override: str = ""
    previous: Origin | None = None

    def __str__(self) -> str:
        if self.override:
            return f"override {self.override!r}"
        if not self.file:
            return "default"
        return f"{_short(self.file)}:{self.line}" if self.line else _short(self.file)


@dataclass(frozen=True, slots=True)
class Config:
    """A composed config. `tree` is plain data; `packages` maps a node's key to the group that filled it."""

    tree: dict[str, Any]
    origins: dict[str, Origin] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    search: tuple[Path, ...] = ()

    def origin(self, key: str) -> Origin | None:
        """What set `key` last, or the nearest key above it that something set."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins.get(key)

    def where(self, key: str) -> str:
        """` (file:line)` of `key` for the end of a message; empty where it is not known."""
        origin = self.origin(key)
        return f" ({origin})" if origin else ""

    def to_yaml(self) -> str:
        """The tree as YAML, secrets unresolved; composing that file gives an equal config."""
        return dump(map_text(self.tree, lambda text: _LITERAL.sub(r"\\${", text)))

    def digest(self) -> str:
        """sha256 of what the run computes: the tree without the keys that change no bit, in canonical JSON."""
        text = json.dumps(_computed(self.placed()), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def placed(self) -> dict[str, Any]:
        """The tree, in which an argument in `data` or `module` that lies under one of `paths` is the place in it, not
        the machine's: `${paths.data}/images`.
        """
        return _rooted(self.tree, {path: f"${{paths.{name}}}" for name, path in _roots(self.tree).items()})

    def moved(self, was: Mapping[str, Any]) -> Config:
        """The config where what lies in `data` or `module` under a path of the tree `was` lies under the same one of
        this.
        """
        now = _roots(self.tree)
        roots = {path: now[name] for name, path in _roots(was).items() if now.get(name, path) != path}
        return replace(self, tree=_rooted(self.tree, roots))


def _roots(tree: Mapping[str, Any]) -> dict[str, str]:
    return {name: path for name, path in (tree.get("paths") or {}).items() if isinstance(path, str)}


def _rooted(tree: Mapping[str, Any], roots: Mapping[str, str]) -> dict[str, Any]:
    """The tree with other roots of the paths in `data` and `module`."""

    def change(text: str) -> str:
        found = next((root for root in roots if text == root or text.startswith(f"{root}/")), None)
        return text if found is None else roots[found] + text[len(found) :]

    return {key: map_text(value, change) if key in ("data", "module") else value for key, value in tree.items()}


def _computed(node: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """The tree without the keys of NEUTRAL."""
    named = ((name, value, f"{key}.{name}" if key else name) for name, value in node.items())
    kept = ((name, value, place) for name, value, place in named if not f"{place}.".startswith(NEUTRAL))
    return {name: _computed(value, place) if isinstance(value, Mapping) else value for name, value, place in kept}


def compose(overrides: Sequence[str] = (), *, config_dirs: Sequence[Path] = (), file: Path | None = None) -> Config:
    """The config of `overrides` over the groups, or over `file` (a whole config, `.yaml` or `.py`).

    A positional `x.yaml` or `x.py` among the overrides is the file. Raises ConfigError.
    """
    files, overrides = split_files(overrides)
    files += [file] if file is not None else []
    if len(files) > 1:
        raise ConfigError(f"two configs are given: {files[0]} and {files[1]}; one is the base, the rest are overrides")
    search = search_path(config_dirs)
    source = Groups(search)
    composition = _Composition(groups(search))
    if files:
        hint = f"; {files[0]} is a whole config: choose its parts by keys (module.optimizer=...)"
        plan = source.plan("base", overrides, hint)
        composition.merge_plan(plan, whole=_read_file(files[0]))
        composition.tree.setdefault("experiment", files[0].stem)
    else:
        plan = source.plan("config", overrides)
        composition.merge_plan(plan)
        composition.tree.setdefault("experiment", "unnamed")
    composition.fill_defaults()
    composition.take_environment()
    for edit in plan.edits:
        composition.edit(edit)
    packages = {entry.package: entry.group for entry in plan.entries if entry.package and entry.group}
    config = Config(_ordered(composition.tree), composition.origins, tuple(overrides), packages, tuple(search))
    with located(config):
        return replace(config, tree=resolve(config.tree))


@contextmanager
def located(config: Config) -> Iterator[None]:
    """Put the file and line, or the override, behind the message of a ConfigError that names a key."""
    try:
        yield
    except ConfigError as error:
        if error.key is None:
            raise
        raise ConfigError(error.message + config.where(error.key), key=error.key) from error


def split_files(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The config files among command line arguments, and the overrides."""
    files = [text for text in arguments if text.endswith((".yaml", ".py")) and "=" not in text]
    return [Path(text) for text in files], [text for text in arguments if text not in files]


class _Composition:
    """The tree while it grows, with the origin of each key."""

    def __init__(self, groups: Sequence[str]) -> None:
        self.groups = groups
        self.tree: dict[str, Any] = {}
        self.origins: dict[str, Origin] = {}

    def merge_plan(self, plan: Plan, whole: Document | None = None) -> None:
        """Merge the plan's files in order; a whole config over the defaults, under the groups named beside it."""
        named = [entry for entry in plan.entries if whole is not None and entry.group in plan.chosen]
        if plan.experiment:
            self.tree["experiment"] = plan.experiment
        for entry in plan.entries:
            if entry not in named:
                self.merge_document(entry.document, entry.package)
        if whole is not None:
            self.merge_whole(whole, plan)
        for entry in named:
            self.merge_document(entry.document, entry.package)

    def merge_whole(self, whole: Document, plan: Plan) -> None:
        """Merge a whole config. Trackers are a choice, not a default: they are the file's or those named with it."""
        tree = {name: value for name, value in whole.tree.items() if name not in plan.chosen or name != "tracking"}
        if "tracking" in tree:
            self.tree.pop("tracking", None)
        self.merge_document(replace(whole, tree=tree))

    def merge_document(self, document: Document, package: str = "") -> None:
        """Merge a file's tree at `package`."""

        def origin(key: str, value: Any) -> Origin:
            inner = key[len(package) + 1 :] if package else key
            return Origin(value, document.name, document.line(inner))

        tree = document.tree
        for part in reversed(package.split(".") if package else []):
            tree = {part: tree}
        self.merge(self.tree, tree, "", origin)

    def merge(self, base: dict[str, Any], incoming: dict[str, Any], key: str, origin: Callable[..., Origin]) -> None:
        """Nodes are merged key by key; lists and scalars replace what was there."""
        for name, value in incoming.items():
            path = join(key, name)
            if isinstance(value, dict) and isinstance(base.get(name), dict):
                self.merge(base[name], value, path, origin)
            else:
                base[name] = copy.deepcopy(value)
                self.mark(path, value, origin)

    def mark(self, key: str, value: Any, origin: Callable[..., Origin]) -> None:
        """Note that `origin` set `key` and all beneath it."""
        previous = self.origins.get(key)
        for inner in [inner for inner in self.origins if inner.startswith(f"{key}.")]:
            del self.origins[inner]
        self.origins[key] = replace(origin(key, value), previous=previous)
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, child in children:
            self.mark(join(key, name), child, origin)

    def fill_defaults(self) -> None:
        """Give every node of ours the keys that no file set, so that the tree, and the record, shows all of them."""
        for key, cls in NODES.items():
            node = self.tree.get(key)
            if not isinstance(node, dict):
                continue
            for item in fields(cls):
                default = item.default if item.default_factory is MISSING else item.default_factory()
                if item.name not in node and default is not MISSING:
                    node[item.name] = default
                    self.origins[join(key, item.name)] = Origin(default)

    def take_environment(self) -> None:
        """The first of DATA_VARIABLES in place of the packaged default of `paths.data`; what a file says stays."""
        variable, key = next((name for name in DATA_VARIABLES if os.environ.get(name)), None), "paths.data"
        packaged = self.origins.get(key)
        if variable and packaged and Path(packaged.file).is_relative_to(PACKAGED):
            folder = self.tree["paths"]["data"] = os.environ[variable]
            self.mark(key, folder, lambda _, value: Origin(value, f"the variable {variable}"))

    def edit(self, edit: Edit) -> None:
        """Apply one override. Raises ConfigError with the nearest name where the key is not there, and for a key within
        its value that is no text, which no file may have.
        """
        if odd := next(_odd_keys(edit.value), None):
            raise ConfigError(f"{edit.text!r}: the key {odd[0]!r} is no text; a file can have it in quotes")
        parent_key, _, name = edit.key.rpartition(".")
        parent = self._parent(parent_key, edit)
        index: Any = int(name) if isinstance(parent, list) and name.isdecimal() else name
        present = index < len(parent) if isinstance(index, int) else index in parent
        if edit.action in ("change", "delete") and not present:
            raise self._absent(edit)
        if edit.action == "delete":
            if edit.value is not None and parent[index] != edit.value:
                raise ConfigError(f"{edit.text!r}: the value there is {parent[index]!r}, so it is not deleted")
            del parent[index]
            return
        if edit.action == "add" and present and not isinstance(edit.value, dict) and parent[index] is not None:
            raise ConfigError(f"{edit.text!r}: the key is there already; leave the + out to change it")
        self._assign(parent, index, edit)

    def _assign(self, parent: Any, index: Any, edit: Edit) -> None:
        def origin(key: str, value: Any) -> Origin:
            return Origin(value, override=edit.text)

        old = parent[index] if isinstance(index, int) else parent.get(index)
        if isinstance(old, dict) and isinstance(edit.value, dict):
            self.merge(old, edit.value, edit.key, origin)
            return
        parent[index] = copy.deepcopy(edit.value)
        self.mark(edit.key, edit.value, origin)

    def _parent(self, key: str, edit: Edit) -> Any:
        node: Any = self.tree
        path = ""
        for name in key.split(".") if key else ():
            path = join(path, name)
            if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            elif isinstance(node, dict) and isinstance(node.get(name), dict | list):
                node = node[name]
            elif isinstance(node, dict) and edit.action in ("add", "force") and node.get(name) is None:
                node[name] = {}
                self.origins[path] = Origin({}, override=edit.text, previous=self.origins.get(path))
                node = node[name]
            else:
                raise self._absent(edit)
        return node

    def _absent(self, edit: Edit) -> ConfigError:
        parent, _, name = edit.key.rpartition(".")
        names = [*self.origins, *self.groups]
        within = [key for key in self.origins if key.endswith(f".{edit.key}")]
        nearest = within or get_close_matches(edit.key, names, 1) or get_close_matches(name, names, 1)
        message = f"{edit.text!r}: there is no key {edit.key}"
        if parent in self.origins and self.origins[parent].value is None:
            value = edit.text.partition("=")[2]
            return ConfigError(f"{message}, {parent} is null; write {parent}={{{name}: {value}}}")
        if nearest:
            return ConfigError(f"{message}; did you mean {nearest[0]}?")
        return ConfigError(message + ("" if edit.action == "delete" else f"; to add one write +{edit.text}"))


def _odd_keys(value: Any) -> Iterator[tuple[Any]]:
    """The keys in a value that are no text, each in a tuple."""
    if isinstance(value, dict):
        yield from ((key,) for key in value if not isinstance(key, str))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _odd_keys(item)


def _ordered(tree: dict[str, Any]) -> dict[str, Any]:
    rank = {name: index for index, name in enumerate(TOP_LEVEL)}
    return {name: tree[name] for name in sorted(tree, key=lambda name: rank.get(name, len(rank)))}


def _read_file(path: Path) -> Document:
    if path.suffix == ".py":
        from calotype.config.python import read_python

        return read_python(path)
    document = read(path)
    if not isinstance(document.tree, dict):
        raise ConfigError(f"{path}: a config holds keys with values, not a {type(document.tree).__name__}")
    return document


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
