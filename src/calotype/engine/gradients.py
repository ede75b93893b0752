"""The gradients of a batch: its shards, one after another or by several processes, added as one tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from calotype import faults
from calotype.engine.doubling import AllReduced, Doubling
from calotype.engine.memory import cut, fitting, release
from calotype.engine.parts import Options, Parts
from calotype.engine.precision import GradientNorm, Precision, backward
from calotype.engine.reduce import Buffers, RunningSum, Tree, merge
from calotype.engine.survey import Survey
from calotype.errors import ConfigError
from calotype.keys import key, seed_torch
from calotype.types import Batch, Counts, Shard, Term

Computed = tuple[Tensor, Mapping[str, Term]]
"""The whole batch's loss, and the sums of its terms over the shards that are computed here."""

Numbered = list[tuple[int, Shard]]
"""Shards and the numbers under which they draw."""


class Gradients:
    """Puts a batch's gradients into a task's parameters, and its statistics into the buffers."""

    def __init__(self, parts: Parts, options: Options, precision: Precision) -> None:
        self.parts, self.options, self.precision, self.world = parts, options, precision, parts.world
        self.task: Any = parts.task
        self.parameters: list[nn.Parameter] = [p for p in self.task.parameters() if p.requires_grad]
        self.norm: Callable[[list[Tensor]], Tensor] = GradientNorm(self.parameters)
        keeps_buffers = options.shards > 1 or options.skip_nonfinite or options.split or bool(options.splits)
        self.buffers = Buffers(self.task, getattr(self.task, "buffer_rule", None)) if keeps_buffers else None
        self.first_shard = self.world.rank * (options.shards // self.world.size)
        self.joint = self._adder() if self.world.size > 1 and (options.exact or options.split) else None
        self.pieces = 1
        self.factor = 1
        self.forward = precision.autocasting(self.task)
        self.prepares = options.channels_last or options.device.type != "cpu" or bool(parts.batch_transforms)

    def compute(self, batch: Batch, step: int, whole: Survey) -> Computed:
        """Put the whole batch's gradients in place, of which `batch` are the shards of this process."""
        if self.buffers:
            self.buffers.begin()
        # a tail of one shard goes the way it goes by several processes
        if self.options.shards > 1 or len(batch) > 1 or self.pieces > 1:
            return self._accumulate(batch, step, whole)
        return self.backward(0, batch[0], step, whole.counts)

    def numbered(self, batch: Batch) -> Numbered:
        """What is computed here in one pass each, and the number under which it draws, the same in any process."""
        return [
            ((self.first_shard + index) * self.pieces + number, piece)
            for index, shard in enumerate(batch)
            for number, piece in enumerate(cut(shard, self.pieces))
        ]

    def fitting(self, batch: Batch, step: int, counts: Counts) -> int | None:
        """In how many pieces more what is computed here would fit; None if none would."""
        shards = [shard for _, shard in self.numbered(batch)]
        found = fitting(shards, lambda shard: self.backward(0, shard, step, counts))
        self.drop()
        return found

    def present(self) -> list[Tensor]:
        """The gradients that are in place."""
        return [gradient for p in self.parameters if (gradient := p.grad) is not None]

    def gathered(self) -> AbstractContextManager[None]:
        """Within the context the whole weights are here."""
        return nullcontext()

    def drop(self) -> None:
        """Undo a step that was not computed to its end."""
        self.clear()
        if self.buffers:
            self.buffers.restore()

    def clear(self) -> None:
        """Take away the gradients that are in place."""
        for p in self.parameters:
            p.grad = None

    def backward(self, index: int, shard: Shard, step: int, counts: Counts) -> Computed:
        """Put one shard's gradients in place."""
        self.clear()
        return self.one_pass(index, shard, step, counts)

    def one_pass(self, index: int, shard: Shard, step: int, counts: Counts) -> Computed:
        """Add one shard's gradients to what is in place."""
        if self.prepares:
            shard = self.options.mixed(self.options.placed(shard), self.parts.batch_transforms, step, index)
        seed_torch(key(self.options.seed, "model", step, index), self.options.device)
        loss = self.forward(shard, counts)
        value = loss.value if self.factor == 1 else loss.value * self.factor
        backward(self.precision.scaled(value))
        if faults.hook:
            faults.fault("in_backward")
        return loss.value.detach(), loss.terms

    def _accumulate(self, batch: Batch, step: int, whole: Survey) -> Computed:
        """Each shard starts from the step's buffers; what all of them computed is added: gradients, changes of the
        buffers, losses.
        """
        buffers, has_room = cast(Buffers, self.buffers), True
        adder = self.joint or (Tree() if self.options.exact else RunningSum())
        shards = self.numbered(batch)
        if self.joint:
            self.joint.begin(len(shards))
        try:
            terms = self._push(adder, shards, step, whole.counts)
        except torch.OutOfMemoryError:
            has_room = False
        if not has_room:  # with the exception went the memory that it held, and to say so may need some
            self.clear()
            release()
            if self.joint:
                self.joint.give_up()
            raise torch.OutOfMemoryError
        if isinstance(adder, Doubling | AllReduced):
            leaf, agreed = adder.result(buffers.agreed)
            buffers.agree(agreed)
        else:
            leaf = adder.result()
        for p, gradient in zip(self.parameters, leaf, strict=False):
            p.grad = gradient
        buffers.finish(leaf[len(self.parameters) : -1], whole.items)
        return cast(Tensor, leaf[-1]).clone(), terms  # it is told later, when the leaf's memory has other words

    def _push(
        self, adder: Tree | RunningSum | Doubling | AllReduced, shards: Numbered, step: int, counts: Counts
    ) -> dict[str, Term]:
        buffers, terms = cast(Buffers, self.buffers), dict[str, Term]()
        for index, (number, shard) in enumerate(shards):
            if index:
                buffers.restore()
            loss, found = self.backward(number, shard, step, counts)
            merge(terms, found)
            # it is added in place, and a task may well give one tensor as its value and as a term
            adder.push([*(p.grad for p in self.parameters), *buffers.leaf(len(shard)), loss.float().clone()])
        return terms

    def _adder(self) -> Doubling | AllReduced:
        buffers = cast(Buffers, self.buffers)
        rest = [*buffers.means, torch.zeros((), device=self.options.device)]
        if self.options.exact:
            return Doubling(self.world, self.parameters, rest, buffers.agreeing, buffers.names)
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.task.modules()):
            raise ConfigError(
                "a step that doesn't fit is tried by each process apart, and SyncBatchNorm asks all; use stop",
                key="trainer.on_oom",
            )
        return AllReduced(self.world, [*self.parameters, *rest], buffers.agreeing)
