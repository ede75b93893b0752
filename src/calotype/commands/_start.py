"""Where a network's first weights come from: `module.init_from` (of one's own) or `module.weights` (published).

The two differ in how the file is found and in nothing else. Published weights are looked for in Calotype's own folder,
then where huggingface_hub or torch.hub keeps what it fetched; a connection is never opened. Unusual: the digest that is
asked for chooses between the places, so another file in a cache doesn't stand in the way of the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.commands._model import chosen
from calotype.config.build import split_settings
from calotype.config.compose import compose
from calotype.config.published import Published, is_published, published
from calotype.engine.weights import Loaded, Place, take_over
from calotype.errors import CheckpointError
from calotype.files import sha256_file
from calotype.record.folder import RunFolder
from calotype.settings import InitFrom, ModuleSettings, Weights

if TYPE_CHECKING:
    from torch import nn

_CLOSE = 0.005
"""Means and deviations that are nearer than this are the same."""


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to start from, as the config's `module.<name>` has them."""

    name: str
    source: str
    min_loaded: float
    sha256: str | None = None
    into: str = ""

    @classmethod
    def of(cls, module: ModuleSettings) -> Start | None:
        """Those of a module; None where its network begins as it is drawn."""
        if module.weights is not None:
            found = Weights(module.weights) if isinstance(module.weights, str) else module.weights
            return cls("weights", found.source, found.min_loaded, found.sha256, found.into)
        if module.init_from is not None:
            own = InitFrom(module.init_from) if isinstance(module.init_from, str) else module.init_from
            return cls("init_from", own.path, own.min_loaded, None, own.into)
        return None

    @property
    def key(self) -> str:
        """The config's key."""
        return f"module.{self.name}"

    def published(self) -> Published | None:
        """What is published under the source's name; None for a path."""
        return published(self.source) if self.name == "weights" and is_published(self.source) else None

    def find(self, digest: str | None = None) -> Path:
        """The file, or a checkpoint's folder; of several the one with this sha256, or the one the config asks for.

        Raises CheckpointError that says what was looked at, and how to fetch what is published.
        """
        named = self.published()
        places = [Path(self.source)] if named is None else [named.folder / named.remote.name, named.elsewhere]
        there = [place for place in places if place.is_file() or (named is None and place.is_dir())]
        if not there:
            raise CheckpointError(_missing(self.source, named, places), key=self.key)
        wanted = self.sha256 or digest
        same = (place for place in there if len(there) > 1 and wanted and sha256_file(place) == wanted)
        return next(same, there[0])

    def begin(self, network: nn.Module, digest: str | None = None) -> Loaded:
        """Put the weights into a network, from the file of `find`. Raises CheckpointError for one that is missing,
        another one or unfit.
        """
        named = self.published()
        wanted = self.sha256 or (named.remote.sha256 if named else "")
        place = Place(self.into, self.min_loaded, self.key)
        loaded = take_over(network, self.find(digest), place, sha256=wanted)
        loaded.source = self.source
        return loaded

    def normalized_otherwise(self, own: Any) -> str | None:
        """What to tell where the weights were trained on images normalised otherwise than by `own`, the value of
        `module.normalize`; else None, also where it is none that this reads.
        """
        named = self.published()
        if named is None or not (named.mean and named.std):
            return None
        theirs = {"mean": list(named.mean), "std": list(named.std)}
        if own is None:
            told = "null"
        elif isinstance(own, Mapping) and not all(_close(own.get(part), values) for part, values in theirs.items()):
            told = _shown(own)
        else:
            return None
        return f"module.normalize is {told}, and {named.name} was trained with {_shown(theirs)}"


def _close(own: Any, theirs: list[float]) -> bool:
    """Of another number of channels is close: those are other images, and the first layer is new."""
    if not isinstance(own, list) or len(own) != len(theirs):
        return True
    return all(abs(a - b) < _CLOSE for a, b in zip(own, theirs, strict=True))


def _shown(normalize: Mapping[str, Any]) -> str:
    return f"{{mean: {normalize.get('mean')}, std: {normalize.get('std')}}}"


def _missing(source: str, named: Published | None, places: list[Path]) -> str:
    if named is None:
        return f"there is no file or folder {source}"
    looked = "".join(f"\n  {place}" for place in places)
    return (
        f"{named.name} is not on this machine; looked for{looked}\n"
        f"A run fetches nothing; do it with: calotype data download --weights {named.name}"
    )


def anchored(module: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The node `module` with its weights by a name that stands for the same from anywhere and later: a path in whole,
    from `folder`; a run's folder as that of its best checkpoint; published weights with their tag.
    """
    whole = dict(module)
    for name, place in (("init_from", "path"), ("weights", "source")):
        value = module.get(name)
        if value is not None:
            node = dict(value) if isinstance(value, Mapping) else {place: value}
            node[place] = _anchored(str(node[place]), folder, own=name == "init_from")
            whole[name] = node if isinstance(value, Mapping) else node[place]
    return whole


def _anchored(source: str, folder: Path, *, own: bool) -> str:
    if not own and is_published(source):
        return published(source).name
    place = folder.joinpath(Path(source).expanduser()).absolute()
    if own and (place / "record.json").is_file():
        place = chosen(RunFolder(place), "best").folder
    return str(place)


def other_inputs(tree: Mapping[str, Any]) -> list[str]:
    """In what images are normalised otherwise than those that the first weights were trained on, a line each; none
    where that isn't known. The weights fit all the same, so nothing else would tell.
    """
    module, task = split_settings(tree["module"], ModuleSettings, "module")
    start = Start.of(module)
    if start is None:
        return []
    if start.name == "weights":
        note = start.normalized_otherwise(task["normalize"]) if "normalize" in task else None
        return [note] if note else []
    run = RunFolder(Path(start.source).parent.parent)
    if not (run.path / "record.json").is_file():
        return []
    then, now = _normalised(compose([str(run.path / "config.yaml")]).tree), _normalised(tree)
    return [
        f"{key} is {_spelt(now[key])}, but was {_spelt(then[key])} in {run.name}, whose weights init_from takes: "
        "they get other inputs than they were trained on; give it that value again, unless this is meant"
        for key in then
        if then[key] != now[key]
    ]


def _spelt(value: Any) -> str:
    """A plain value as an override spells it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_spelt(item)}' for name, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_spelt, value))}]"
    return "null" if value is None else str(value)


def _normalised(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config normalises images, by key."""
    transforms = tree["data"].get("eval_transforms") or []
    targets = [node for node in transforms if str(node.get("_target_", "")).endswith(".Normalize")]
    return {"module.normalize": tree["module"].get("normalize"), "data.eval_transforms": targets}
