"""Arguments with which a target of timm or torchvision would fetch weights while it is built.

They are refused before anything is built, with what to write instead: `module.weights` takes the same weights from a
local file or a cache, checks them, and puts their digest into the record. So a run opens no connection, and needs none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from calotype.config.build import SPECIAL
from calotype.config.published import published
from calotype.config.reader import join
from calotype.errors import ConfigError

_FETCHING: Mapping[str, tuple[str, ...]] = {
    "timm": ("pretrained", "pretrained_backbone", "checkpoint_path", "encoder_weights"),
    "torchvision": ("weights", "weights_backbone", "pretrained", "pretrained_backbone", "encoder_weights"),
}
_HUB = ("hf-hub:", "hf_hub:")


def refuse_downloads(key: str, node: Mapping[str, Any], found: Any) -> None:
    """Raises ConfigError for a node whose call of `found` would fetch weights, also by a default of its own."""
    given = _arguments(node, found)
    library = str(getattr(found, "__module__", "")).partition(".")[0]
    model = str(given.get("model_name") or given.get("name") or getattr(found, "__name__", ""))
    if library == "timm" and model.startswith(_HUB):
        raise ConfigError(
            f"{model} is read from the Hub, and a run fetches nothing; name the architecture alone, and the weights "
            "by module.weights",
            key=join(key, "model_name"),
        )
    for name in _FETCHING.get(library, ("encoder_weights",)):
        value = given.get(name)
        if value is None or value is False or value == "":
            continue
        off = "false" if name.startswith("pretrained") else "null"
        place = join(key, name)
        raise ConfigError(
            f"{_shown(value)} {_what(name)}; write module.weights={_instead(library, name, model, value)} instead, and "
            f"set {'this to ' if name in node else f'+{place}='}{off}",
            key=place,
        )


def _arguments(node: Mapping[str, Any], found: Any) -> dict[str, Any]:
    """The arguments of the call by name, defaults among them; those of the node alone where Python can't tell."""
    named = {name: value for name, value in node.items() if name not in SPECIAL}
    try:
        bound = inspect.signature(found).bind_partial(*node.get("_args_", ()), **named)
    except (TypeError, ValueError):
        return named
    bound.apply_defaults()
    return {**bound.arguments, **bound.kwargs}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("_target_"))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _what(name: str) -> str:
    if name == "checkpoint_path":
        return "would be unpickled, and its digest would be in no record"
    return "would fetch weights while the network is built, and a run fetches nothing"


def _instead(library: str, name: str, model: str, value: Any) -> str:
    """The source to write for it."""
    if name == "checkpoint_path":
        return str(value)
    if name not in ("pretrained", "weights"):
        return "SOURCE"
    try:
        return published(f"timm/{model}" if library == "timm" else f"torchvision/{_member(model, value)}").name
    except (ConfigError, ValueError, KeyError):
        return "SOURCE"


def _member(model: str, value: Any) -> str:
    """The name of a member of torchvision's weights for a model. Raises ValueError, KeyError."""
    from torchvision.models import get_model_weights

    enum = get_model_weights(model)
    member = "DEFAULT" if value is True else str(getattr(value, "name", value)).rpartition(".")[2]
    return f"{enum.__name__}.{enum[member].name}"
