"""`strategy: fsdp`: torch's FSDP2, by which each process keeps a part of every weight, gradient and optimizer state.

A layer's weights come together when it computes and are freed after it; gradients are added once a batch and each
process gets its part of the sum. Parts are torch's DTensors (`divided.py`). Unusual: losses are shares of the batch's
already, so gradients are added and not averaged; an evaluation, in which a process may have no batch, has the whole
weights throughout; buffers are whole everywhere and the first process's count, as under DDP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from calotype.engine.distributed import World
from calotype.engine.divided import divided_alike, part
from calotype.engine.gradients import Computed, Gradients
from calotype.engine.parts import Options, Parts
from calotype.engine.precision import GradientNorm, Precision
from calotype.engine.reduce import merge
from calotype.engine.survey import Survey
from calotype.errors import ConfigError, Interrupted
from calotype.types import Batch, Counts, Shard, Term

LARGEST, SMALLEST = 1 / 4, 1 / 256
"""A unit, whose weights come together at once, is a module with at most the first share of the network's weights; one
with less than the second stays with what it is in.
"""


def sharded(options: Options, task: nn.Module, world: World) -> Options:
    """Divide a task's parameters among the processes, in place; the options to train it with. Raises ConfigError for
    what torch can't divide, and for a run that adds exactly.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if options.exact:
        raise ConfigError("the run began with trainer.reduce=exact, which fsdp can't do", key="trainer.strategy")
    _check(task)
    network: Any = task.network
    with world.talking():
        mesh = init_device_mesh(options.device.type, (world.size,))
        for module in units(network):
            fully_shard(module, mesh=mesh)
        for module in (network, task):  # the rest, which backward needs first, stays together after forward
            fully_shard(module, mesh=mesh, reshard_after_forward=False)
    for module in _sharded(task):
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)
    for method in ("predict", "evaluate"):
        if hasattr(task, method):
            register_fsdp_forward_method(task, method)
    return replace(options, sharded=True)


def units(network: nn.Module) -> Iterator[nn.Module]:
    """The largest modules within a network that have at most a quarter of its weights."""
    names = dict[int, list[str]]()
    for name, p in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    total = _size(network)

    def walk(module: nn.Module, prefix: str) -> Iterator[nn.Module]:
        for name, child in module.named_children():
            inside = f"{prefix}{name}."
            own = [*child.parameters()]
            tied = any(not found.startswith(inside) for p in own for found in names[id(p)])
            if _size(child) < total * SMALLEST or not own or tied:
                continue
            divides = any(map(_size, child.children())) and not isinstance(child, nn.MultiheadAttention)
            called = type(child).forward is not nn.Module.forward  # a list of modules is not, its items are
            if called and (_size(child) <= total * LARGEST or not divides):
                yield child
            elif divides:
                yield from walk(child, inside)

    return walk(network, "")


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _check(task: nn.Module) -> None:
    for name, p in task.named_parameters():
        problem = "is a scalar; make it a tensor of one" if p.dim() == 0 else ""
        if not p.is_contiguous():
            problem = "is not laid out row by row"
        if problem:
            raise ConfigError(f"torch's FSDP can't divide parameter {name}, which {problem}", key="trainer.strategy")


def _sharded(task: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in task.modules() if isinstance(module, FSDPModule)]


class Sharded(Gradients):
    """Gradients by FSDP2 into the parts of this process; the task is one that `sharded` divided."""

    def __init__(self, parts: Parts, options: Options, precision: Precision) -> None:
        super().__init__(parts, options, precision)
        self.norm = JointNorm(self.parameters, self.world)
        self.own = [*self.task.buffers()]
        self.checked = False

    def compute(self, batch: Batch, step: int, whole: Survey) -> Computed:
        """Put this process's part of the whole batch's gradients in place; `batch` are its shards."""
        if self.buffers:
            self.buffers.begin()
        if not self.checked and self.parts.optimizer.state:
            self._check_optimizer()
        total, terms = torch.zeros((), device=self.options.device), dict[str, Term]()
        self.clear()
        shards = self.numbered(batch)
        for index, (number, shard) in enumerate(shards):
            self._synchronise(index == len(shards) - 1)
            with self.world.talking():
                loss, found = self.one_pass(number, shard, step, whole.counts)
            total += loss
            merge(terms, found)
        self.world.add(total)
        self.world.copy(self.own)
        return total, terms

    def _synchronise(self, last: bool) -> None:
        """Whether the next backward pass is the batch's last, after which gradients are added."""
        self.task.set_requires_gradient_sync(last)
        self.task.set_is_last_backward(last)

    def present(self) -> list[Tensor]:
        """The parts of this process."""
        return [part(gradient) for gradient in super().present()]

    def backward(self, index: int, shard: Shard, step: int, counts: Counts) -> Computed:
        """No process can try a shard by itself. Raises Interrupted: one is tried where a step doesn't fit."""
        raise Interrupted(
            f"step {step} doesn't fit into memory; go on with more processes by --allow-changed machine, or start anew "
            "with more trainer.shards, which is another run"
        )

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within the context each process has the whole weights, so that it computes without the others."""
        modules = _sharded(self.task)
        with self.world.talking():
            for module in modules:
                module.set_reshard_after_forward(False, recurse=False)
                module.unshard()
        try:
            yield
        finally:
            for module in modules:
                module.set_reshard_after_forward(module not in (self.task, self.task.network), recurse=False)
                module.reshard()

    def _check_optimizer(self) -> None:
        """Raises ConfigError for an optimizer whose state no checkpoint could give back in parts."""
        optimizer = self.parts.optimizer
        for p, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.dim() and not divided_alike(value, p):
                    raise ConfigError(
                        f"{type(optimizer).__name__} keeps {name}, which can't be divided as its parameter is; take "
                        "one that keeps values for each element (torch.optim.AdamW, SGD, ...), or trainer.strategy=ddp",
                        key="module.optimizer",
                    )
        self.checked = True


class JointNorm:
    """The 2-norm of gradients of which each process has a part, the same bits with all."""

    def __init__(self, parameters: Sequence[Tensor], world: World) -> None:
        self.own, self.world = GradientNorm([part(p) for p in parameters]), world

    def __call__(self, gradients: list[Tensor]) -> Tensor:
        """The norm of the gradients whose parts these are."""
        norm: Tensor = torch.linalg.vector_norm(self.world.every(self.own(gradients)))
        return norm
