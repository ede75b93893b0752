"""Weights that timm and torchvision publish, by the names they have there: what file that is, and where it may lie.

`timm/NAME[.TAG]` is a model of timm with a tag of its weights, by default the one timm itself would take;
`torchvision/ENUM.MEMBER` one of torchvision's enums of weights. Anything else is a file's path. Nothing is looked for
or fetched here. Unusual: the folders in which huggingface_hub and torch.hub keep what they fetched count as places,
so weights that a machine already has are found; both are only looked at, by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.config.schema import did_you_mean
from calotype.errors import ConfigError
from calotype.files import cache_folder

if TYPE_CHECKING:
    from calotype.fetch import Remote

FILES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
"""How the name of a file of weights ends."""

FORMS = f"timm/NAME, torchvision/NAME_Weights.MEMBER or the path of a file ({', '.join(FILES[:2])})"
_HUB_FILE = "model.safetensors"
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True, slots=True)
class Published:
    """Published weights: their `name` with the tag or member spelled out; the file to fetch; `elsewhere`, where another
    tool would have put it; mean and standard deviation of the images they were trained on, () where that isn't told.
    """

    name: str
    remote: Remote
    elsewhere: Path
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def folder(self) -> Path:
        """Calotype's own folder for it, in which the file has the name of `remote`."""
        return cache_folder() / "weights" / self.name.partition("/")[0]


def is_published(source: str) -> bool:
    """Whether `source` is the name of published weights; else it is a path. Raises ConfigError for what is neither."""
    if Path(source).suffix in FILES:
        return False
    if source.startswith(("timm/", "torchvision/")):
        return True
    raise ConfigError(f"{source!r} is no source of weights; write {FORMS}")


def published(source: str) -> Published:
    """What is published under a name. Raises ConfigError with the nearest name for one that isn't there."""
    package, _, name = source.partition("/")
    return _timm(name) if package == "timm" else _torchvision(name)


def _timm(name: str) -> Published:
    from timm.models import get_pretrained_cfg, list_models

    from calotype.fetch import Remote

    try:
        found = get_pretrained_cfg(name)
    except RuntimeError:
        model, _, tag = name.partition(".")
        tags = [full.partition(".")[2] for full in list_models(f"{model}.*", pretrained=True)]
        raise ConfigError(f"timm has no weights {tag!r} of {model}; {did_you_mean(tag, tags)}") from None
    if found is None:
        model = name.partition(".")[0]
        raise ConfigError(f"timm has no model {model!r}; {_near(model, list_models())}")
    whole = ".".join(filter(None, (found.architecture, found.tag)))
    if found.hf_hub_id:
        file = found.hf_hub_filename or _HUB_FILE
        endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        address = f"{endpoint}/{found.hf_hub_id}/resolve/main/{file}"
        remote = Remote(f"{whole}{Path(file).suffix}", 0, "", (address,))
        elsewhere = _hub_cache(found.hf_hub_id, file)
    elif found.url:
        remote = _remote(str(found.url))
        elsewhere = _torch_cache() / remote.name
    else:
        raise ConfigError(f"timm publishes no weights of {name}")
    return Published(f"timm/{whole}", remote, elsewhere, tuple(found.mean), tuple(found.std))


def _torchvision(name: str) -> Published:
    from torchvision.models import get_model_weights, list_models

    enums: dict[str, Any] = {kind.__name__: kind for kind in map(get_model_weights, list_models())}
    enum, _, member = name.partition(".")
    if enum not in enums:
        raise ConfigError(f"torchvision has no weights {enum!r}; {_near(enum, enums)}")
    members = enums[enum].__members__
    if member not in members:
        raise ConfigError(f"{enum} has no member {member!r}; {did_you_mean(member, members)}")
    found = members[member]
    images, remote = found.transforms(), _remote(found.url)
    mean, std = (tuple(getattr(images, part, ())) for part in ("mean", "std"))
    return Published(f"torchvision/{enum}.{found.name}", remote, _torch_cache() / remote.name, mean, std)


def _near(name: str, names: Collection[str]) -> str:
    """The nearest name; a hundred others are not listed."""
    told = did_you_mean(name, names)
    return told if told.startswith("did") else "the names are those of its documentation"


def _remote(url: str) -> Remote:
    """A file by its address, whose name has the first digits of its sha256, as torch.hub's have."""
    from calotype.fetch import Remote

    name = url.rpartition("/")[2]
    digest = _DIGEST.search(name)
    return Remote(name, 0, digest[1] if digest else "", (url,))


def _hub_cache(repository: str, file: str) -> Path:
    """Where huggingface_hub keeps a file, or the folder in which it would."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return Path(found) if isinstance(found, str) else folder


def _torch_cache() -> Path:
    """The folder of checkpoints of torch.hub, which also timm uses."""
    home = os.environ.get("TORCH_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"
