"""What is done to a network before its first step: parameter groups, weights to start from, and checks of what can
be saved, of batch norm and of the optimizer.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from calotype.engine.checkpoint import MODEL, open_checkpoint, read_tensors
from calotype.errors import CheckpointError, ConfigError
from calotype.files import sha256_file


def build_optimizer(
    factory: Callable[..., Optimizer], task: nn.Module, groups: Sequence[Mapping[str, Any]]
) -> Optimizer:
    """The optimizer over the task's parameters, `groups` first in their order, then the rest.

    A group is {pattern: ..., option: value, ...}; a parameter goes to the first pattern its name matches. `1d` matches
    parameters of at most one dimension (biases, norms). Raises ConfigError for a pattern that takes no parameter, and
    for an optimizer that calls a closure.
    """
    left = {name: p for name, p in task.named_parameters() if p.requires_grad}
    if not left:
        raise ConfigError("the task has no parameter to train", key="module")
    made: list[dict[str, Any]] = []
    for index, group in enumerate(groups):
        options = {name: value for name, value in group.items() if name != "pattern"}
        taken = [name for name, p in left.items() if _matches(str(group["pattern"]), name, p)]
        if not taken:
            raise ConfigError(
                f"{group['pattern']!r} matches no parameter that is left; names are like {', '.join(list(left)[:3])}",
                key=f"module.param_groups.{index}.pattern",
            )
        made.append({"params": [left.pop(name) for name in taken], **options})
    if left:
        made.append({"params": list(left.values())})
    _refuse_closure(getattr(factory, "func", factory))  # first: some of them take no groups and fail for that
    try:
        optimizer = factory(made)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{type(error).__name__}: {error}", key="module.optimizer") from error
    _refuse_closure(type(optimizer))
    return optimizer


def _refuse_closure(kind: Any) -> None:
    """Raises ConfigError for a class of optimizers whose `step` can't be called without arguments."""
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        return
    _, *parameters = inspect.signature(kind.step).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(item.default is item.empty and item.kind not in optional for item in parameters):
        raise ConfigError(
            f"{kind.__name__} calls a closure that computes the loss anew, possibly several times a step; optimizers "
            "that do are not supported. Take one that steps from the gradients alone, as torch.optim.AdamW (Adam, ...) "
            "and torch.optim.SGD do",
            key="module.optimizer",
        )


def _matches(pattern: str, name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() <= 1 if pattern == "1d" else re.search(pattern, name) is not None


def own_generators(module: nn.Module) -> list[str]:
    """Names of random generators that parts of a module keep: their state is in no checkpoint and under no key."""
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    return [
        f"{name or type(part).__name__}.{attribute}"
        for name, part in module.named_modules()
        for attribute, value in vars(part).items()
        if isinstance(value, kinds)
    ]


def check_network(task: nn.Module, key: str) -> None:
    """Raises ConfigError with `key` for a module that no model file can hold: its parameters have no shape yet, or the
    network's state dict has something of it that is no tensor.
    """
    for name, module in task.named_modules():
        if any(map(is_lazy, [*module.parameters(recurse=False), *module.buffers(recurse=False)])):
            raise ConfigError(
                f"{name} is a {type(module).__name__}, whose parameters have no shape before its first batch, so they "
                "can be neither drawn under the seed's key nor saved; take the class that is told its sizes",
                key=key,
            )
    network: Any = task.network
    modules = dict(task.named_modules())
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            owner, _, entry = f"network.{name}".rpartition(".")
            raise ConfigError(
                f"{owner}, a module of type {type(modules.get(owner, network)).__name__}, has a {type(value).__name__} "
                f"in its state dict ({entry}); a model file holds tensors alone, so keep it in a buffer",
                key=key,
            )


def check_batch_norm(task: nn.Module, smallest_shard: int) -> None:
    """Raises ConfigError where batch norm would have to normalise over one sample."""
    if smallest_shard == 1 and any(isinstance(module, _BatchNorm) for module in task.modules()):
        raise ConfigError(
            "the network has batch norm and a shard of a batch holds one sample, which it can't normalise; "
            "raise data.batch_size, lower trainer.shards or set data.drop_last=true",
            key="data.batch_size",
        )


@dataclass(slots=True)
class Loaded:
    """What became of each tensor when weights were taken over, by name."""

    loaded: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    sha256: str = ""

    def share(self) -> float:
        """Share of the network's tensors that were loaded."""
        return len(self.loaded) / max(1, len(self.loaded) + len(self.reshaped) + len(self.new))


def init_from(network: nn.Module, path: Path, min_loaded: float) -> Loaded:
    """Take over the weights of a safetensors file or a checkpoint folder that have a place in `network`.

    A tensor of another shape ("reshaped") and one without a place ("skipped") are left out, one without a source is
    "new". Raises CheckpointError when less than `min_loaded` of the network's tensors find a source.
    """
    file = path / MODEL if path.is_dir() else path
    weights = open_checkpoint(path).model() if path.is_dir() else read_tensors(file)
    own, result = network.state_dict(keep_vars=True), Loaded(sha256=sha256_file(file))
    with torch.no_grad():
        for name, tensor in own.items():
            _take(tensor, weights.get(name), name, result)
    result.skipped = sorted(set(weights) - set(own))
    if result.share() < min_loaded:
        raise CheckpointError(
            f"{path} gives {result.share():.0%} of the network's tensors, less than min_loaded = {min_loaded:.0%}. "
            f"New: {_some(result.new)}; of another shape: {_some(result.reshaped)}; unused: {_some(result.skipped)}",
            key="module.init_from",
        )
    return result


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
