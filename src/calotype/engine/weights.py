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
from calotype.errors import CheckpointError
from calotype.files import sha256_file


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

    def share(self) -> float:
        """Share of the network's tensors that were loaded."""
        return len(self.loaded) / max(1, len(self.loaded) + len(self.reshaped) + len(self.new))


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


def take_over(network: nn.Module, path: Path, min_loaded: float, *, key: str, sha256: str = "") -> Loaded:
    """Take over the weights of a file or a checkpoint folder that have a place in `network`.

    A tensor of another shape ("reshaped") and one without a place ("skipped") are left out, one without a source is
    "new". Raises CheckpointError with the config's `key` for a file whose digest doesn't begin with `sha256`, before
    anything of it is read, and when less than `min_loaded` of the network's tensors find a source.
    """
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
    own = network.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in own.items():
            _take(tensor, weights.get(name), name, result)
    result.skipped = sorted(set(weights) - set(own))
    if result.share() < min_loaded:
        raise CheckpointError(
            f"{path} gives {result.share():.0%} of the network's tensors, less than min_loaded = {min_loaded:.0%}. "
            f"New: {_some(result.new)}; of another shape: {_some(result.reshaped)}; unused: {_some(result.skipped)}",
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
