"""Weights to start from: a file's tensors put into a network, with a table of what became of each.

Whoever looks for the file is elsewhere (commands._start); here a checkpoint's folder, a safetensors file and one of
PyTorch's own are read alike. Unusual: what doesn't fit is left as it was drawn under the seed's key and told, instead
of being an error or being adapted; too little that fits is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from calotype.engine.checkpoint import MODEL, open_checkpoint, read_tensors
from calotype.engine.torch_file import is_torch_file, read_torch_file
from calotype.errors import CheckpointError, ConfigError
from calotype.files import sha256_file


@dataclass(frozen=True, slots=True)
class Place:
    """Where weights go: the part of the network by its name, "" for all of it; the least share of its tensors that they
    must give; and the config's key that said so.
    """

    into: str = ""
    min_loaded: float = 0.0
    key: str = ""

    @property
    def prefix(self) -> str:
        """How the names of the part's tensors begin."""
        return f"{self.into}." if self.into else ""


@dataclass(slots=True)
class Loaded:
    """What became of each tensor when weights were taken over, by name, and the file they came from.

    `entry` is the part of the file that held them, "" for all of it; `source` is what the config calls it under `key`.
    """

    loaded: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    key: str = ""
    source: str = ""
    file: str = ""
    entry: str = ""
    sha256: str = ""

    def share(self, prefix: str = "") -> float:
        """Share of the network's tensors that were loaded, of those whose names begin like this."""
        had, others = (
            sum(name.startswith(prefix) for name in names) for names in (self.loaded, [*self.reshaped, *self.new])
        )
        return had / max(1, had + others)


def weights_file(path: Path) -> Path:
    """The file of weights that `path` stands for: that of a checkpoint's folder, or itself."""
    return path / MODEL if path.is_dir() else path


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint folder, a safetensors file or one of PyTorch's, and the entry of the file they were
    in. Raises CheckpointError naming the file.
    """
    if path.is_dir():
        return open_checkpoint(path).model(), ""
    try:
        theirs = is_torch_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    if theirs:
        return read_torch_file(path)
    try:
        return read_tensors(path), ""
    except CheckpointError as error:
        if path.suffix == ".safetensors":
            raise
        raise CheckpointError(
            f"{path} begins neither as torch.save writes nor is it safetensors; fetch or write it again"
        ) from error


def take_over(network: nn.Module, path: Path, place: Place, *, sha256: str = "") -> Loaded:
    """Take over the weights of a file or a checkpoint folder that have a place in `network`, or in a part of it.

    A tensor of another shape ("reshaped") and one without a place ("skipped") are left out, one without a source is
    "new". Raises CheckpointError with the config's key for a file whose digest doesn't begin with `sha256`, before
    anything of it is read, and when too little of the place's tensors find a source; ConfigError for a part that the
    network doesn't have.
    """
    key = place.key
    result = Loaded(key=key, file=str(weights_file(path)), sha256=_digest(path, key))
    if not result.sha256.startswith(sha256):
        raise CheckpointError(
            f"{result.file} has the sha256 {result.sha256} instead of {sha256}; it is another file, or is damaged",
            key=key,
        )
    try:
        weights, result.entry = read_weights(path)
    except CheckpointError as error:
        error.key = error.key or key
        raise
    own, prefix = network.state_dict(keep_vars=True), place.prefix
    if not any(name.startswith(prefix) for name in own):
        parts = ", ".join(name for name, _ in network.named_children())
        raise ConfigError(f"the network has no part {place.into!r}; it has {parts}", key=f"{key}.into")
    weights = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            _take(tensor, weights.get(name), name, result)
    result.skipped = sorted(set(weights) - set(own))
    if result.share(prefix) < place.min_loaded:
        whole = f"the network's {place.into}" if place.into else "the network's"
        raise CheckpointError(
            f"{path} gives {result.share(prefix):.0%} of {whole} tensors, less than min_loaded = "
            f"{place.min_loaded:.0%}. New: {_some([name for name in result.new if name.startswith(prefix)])}; "
            f"of another shape: {_some(result.reshaped)}; unused: {_some(result.skipped)}",
            key=key,
        )
    return result


def _digest(path: Path, key: str) -> str:
    try:
        return sha256_file(weights_file(path))
    except OSError as error:
        raise CheckpointError(f"{weights_file(path)} can't be read: {error.strerror}", key=key) from error


def _take(tensor: Tensor, source: Tensor | None, name: str, result: Loaded) -> None:
    if source is None:
        result.new.append(name)
    elif source.shape != tensor.shape:
        result.reshaped.append(f"{name} {tuple(source.shape)} -> {tuple(tensor.shape)}")
    else:
        tensor.copy_(source)
        result.loaded.append(name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") or "none"
