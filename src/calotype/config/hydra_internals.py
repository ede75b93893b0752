"""The one file that touches Hydra and OmegaConf.

Hydra decides which group files are merged, in which order and into which package, and parses overrides; OmegaConf
resolves interpolations. Files are read by our own reader and merged by `compose`, because a value's file and line are
lost in Hydra's own merge. Unusual: no plug-in of Hydra's is looked for, so none can run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from hydra import version
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from packaging.version import Version

from calotype.config.reader import Document, map_text, read
from calotype.errors import ConfigError

Action = Literal["change", "add", "force", "delete"]
_ACTIONS: dict[OverrideType, Action] = {
    OverrideType.CHANGE: "change",
    OverrideType.ADD: "add",
    OverrideType.FORCE_ADD: "force",
    OverrideType.DEL: "delete",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A config file in the order of merging: `package` is the dotted key it is merged at."""

    name: str
    package: str
    document: Document

    @property
    def group(self) -> str:
        """The group it is an option of; empty for the primary config."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Edit:
    """One override of a key: `text` as it was typed."""

    text: str
    key: str
    action: Action
    value: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """What to merge, what to edit afterwards, the groups that overrides chose an option of, or none, and the
    experiment, empty for none.
    """

    entries: tuple[Entry, ...]
    edits: tuple[Edit, ...]
    chosen: frozenset[str]
    experiment: str


class _Source(FileConfigSource):
    """A folder of group files, read by our reader."""

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path) / self._normalize_file_name(config_path)
        document = read(path)
        tree = {} if document.tree is None else document.tree
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: a config file holds keys with values, not a {type(tree).__name__}")
        header = self._get_header_dict(path.read_text(encoding="utf-8")[:512])
        defaults = OmegaConf.create({"defaults": tree.pop("defaults", [])})
        result = ConfigResult(provider=self.provider, path=str(path), config=defaults, header=header)
        result.document = Document(document.name, tree, document.lines)  # type: ignore[attr-defined]
        return result


class _Repository(ConfigRepository):
    """The search path, without Hydra's plug-ins."""

    def initialize_sources(self, config_search_path: Any) -> None:
        self.sources = [_Source(item.provider, item.path) for item in config_search_path.get_path()]


class Groups:
    """The config groups along a search path; the first folder that has a file wins."""

    def __init__(self, search: Sequence[Path]) -> None:
        path = ConfigSearchPathImpl()
        for folder in search:
            path.append(provider="calotype", path=str(folder))
        if not isinstance(version.getbase(), Version):
            version.setbase("1.3")
        self._repository = CachingConfigRepository(_Repository(path))

    def plan(self, primary: str, overrides: Sequence[str], hint: str = "") -> Plan:
        """The files and edits for `primary` under `overrides`.

        Raises ConfigError on anything Hydra refuses; `hint` ends the message of a group that can't be chosen.
        """
        parsed = [self._parse(text) for text in overrides]
        chosen = {item.key_or_group for item in parsed if self._chooses_group(item)}
        result = _translated(lambda: self._defaults_list(primary, parsed), suffix=hint)
        entries = []
        for default in result.defaults:
            loaded: Any = self._repository.load_config(default.config_path or primary)
            name = default.config_path or primary
            package = (default.package or "").removeprefix("_global_").removeprefix(".")
            entries.append(Entry(name, package, loaded.document))
        edits = (
            Edit(str(item.input_line), item.key_or_group, _ACTIONS[item.type], item.value())
            for item in result.config_overrides
        )
        experiment = result.overrides.known_choices.get("experiment") or ""
        return Plan(tuple(entries), tuple(edits), frozenset(chosen), experiment.rpartition("/")[2])

    def _defaults_list(self, primary: str, parsed: list[Override]) -> DefaultsList:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a defaults list without _self_ means that _self_ comes last
            return create_defaults_list(self._repository, primary, parsed, prepend_hydra=False, skip_missing=False)

    def _chooses_group(self, item: Override) -> bool:
        return self._repository.group_exists(item.key_or_group) and not isinstance(item.value(), dict)

    def _parse(self, text: str) -> Override:
        item: Override = _translated(lambda: OverridesParser.create().parse_override(text), f"{text!r} is no override")
        if item.is_sweep_override():
            raise ConfigError(f"{text!r} lists several values; put a list in brackets and text with commas in quotes")
        if item.package is not None and not self._repository.group_exists(item.key_or_group):
            raise ConfigError(f"{text!r}: there is no group {item.key_or_group!r}")
        if self._chooses_group(item) and not item.is_delete():
            self._check_options(item)
        return item

    def _check_options(self, item: Override) -> None:
        if item.value() is None:
            item._value = []  # nothing chosen: `tracking=null`
        value: Any = item.value()
        for option in value if isinstance(value, list) else [value]:
            if not self._repository.config_exists(f"{item.key_or_group}/{option}"):
                options: list[str] = self._repository.get_group_options(item.key_or_group)
                nearest = get_close_matches(str(option), options, 1)
                did_you_mean = f"did you mean {nearest[0]}? " if nearest else ""
                raise ConfigError(
                    f"{item.key_or_group} has no option {option!r}; {did_you_mean}there are: {', '.join(options)}"
                )


def _translated(call: Callable[[], Any], prefix: str = "", suffix: str = "") -> Any:
    """The result of `call`; what Hydra or OmegaConf raises becomes a ConfigError on one line."""
    try:
        return call()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        text = str(error).partition("\nConfig search path")[0].partition("\nSee https://")[0]
        message = "; ".join(line.strip() for line in text.splitlines() if line.strip())
        raise ConfigError("".join((f"{prefix}: " if prefix else "", message, suffix))) from error


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with every interpolation replaced by its value, and `${oc.env:X}` left as it is written.

    Raises ConfigError naming the key whose interpolation leads nowhere.
    """
    escaped = map_text(tree, _escape)
    try:
        resolved: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(escaped), resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        message = str(error.msg or error).partition("\n")[0]
        raise ConfigError(message, key=str(error.full_key) if error.full_key else None) from error
    return resolved


def _escape(text: str) -> str:
    before, found, after = text.partition("${oc.env:")
    if not found:
        return text
    if before.count("${") > before.count("}"):
        raise ConfigError(f"{text!r}: oc.env can't stand inside another interpolation; it is resolved last")
    return f"{before}\\{found}{_escape(after)}"
