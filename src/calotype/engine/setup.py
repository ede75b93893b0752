"""What is done to a network before its first step: parameter groups, and checks of what can be saved, of batch norm and
of the optimizer. Weights to start from are in engine.weights.
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from calotype.errors import ConfigError


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


def synchronise_batch_norm(task: Any, device: torch.device) -> None:
    """Have batch norm in the task's network take its statistics over all processes, by torch's SyncBatchNorm. Raises
    ConfigError where torch has none.
    """
    if device.type != "cuda":
        raise ConfigError(
            "torch's SyncBatchNorm is for CUDA alone; leave it out here, or use GroupNorm, which needs no other sample",
            key="trainer.sync_batchnorm",
        )
    task.network = nn.SyncBatchNorm.convert_sync_batchnorm(task.network)  # type: ignore[no-untyped-call]
