"""`reduce: fast` on several processes: torch's DistributedDataParallel, synchronised once a batch.

Its order of adding is its own, so another number of processes gives other bits, the same number the same. Two things
are unusual. DDP lays its buckets anew after its first backward pass (pytorch#35137), so a process that is resumed would
add in another order for one step: here each begins with two passes that count for nothing. And the buffers of the first
process go to the others after a batch, not before the next one, so that whatever comes between (an average, an
evaluation, a checkpoint) sees the same ones everywhere.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from calotype.engine.gradients import Computed, Gradients
from calotype.engine.parts import Options, Parts
from calotype.engine.precision import Precision
from calotype.engine.reduce import merge
from calotype.engine.survey import Survey
from calotype.errors import Interrupted
from calotype.types import Batch, Counts, Shard, Term

_KNOWN = inspect.signature(DistributedDataParallel.__init__).parameters
BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _KNOWN else "broadcast_buffers"
"""What DDP calls its own copying of buffers, by its release."""
WARM_UP = 2
"""Passes after which DDP's buckets stay as they are."""


class Replicated(Gradients):
    """Gradients by DDP. Its mean over the processes is undone: our losses are shares of the batch's already."""

    def __init__(self, parts: Parts, options: Options, precision: Precision) -> None:
        super().__init__(parts, options, precision)
        cuda = [options.device.index] if options.device.type == "cuda" else None
        how: Any = {BUFFERS: False, "device_ids": cuda}
        self.replica = DistributedDataParallel(self.task, **how)
        self.forward = precision.autocasting(self.replica)
        self.factor = self.world.size
        self.own = [*self.task.buffers()]
        self.settled = False

    def compute(self, batch: Batch, step: int, whole: Survey) -> Computed:
        """Put the whole batch's gradients in place, of which `batch` are the shards of this process."""
        if not self.settled:
            self._settle(batch, step, whole)
        if self.buffers:
            self.buffers.begin()
        loss, terms = self._passes(batch, step, whole)
        self.world.add(loss)
        self.world.copy(self.own)
        return loss, terms

    def backward(self, index: int, shard: Shard, step: int, counts: Counts) -> Computed:
        """Put one shard's gradients in place, as a trial in which no other process takes part. Raises Interrupted where
        batch norm asks the others.
        """
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.task.modules()):
            raise Interrupted(
                f"step {step} doesn't fit into memory; go on with more trainer.shards, which is another run"
            )
        with self.replica.no_sync():
            return super().backward(index, shard, step, counts)

    def _passes(self, batch: Batch, step: int, whole: Survey) -> tuple[Tensor, dict[str, Term]]:
        total, terms = torch.zeros((), device=self.options.device), dict[str, Term]()
        self.clear()
        shards = self.numbered(batch)
        for index, (number, shard) in enumerate(shards):
            with self.world.talking(), nullcontext() if index == len(shards) - 1 else self.replica.no_sync():
                loss, found = self.one_pass(number, shard, step, whole.counts)
            total += loss
            merge(terms, found)
        return total, terms

    def _settle(self, batch: Batch, step: int, whole: Survey) -> None:
        before = [buffer.clone() for buffer in self.own]
        for _ in range(WARM_UP):
            self._passes(batch, step, whole)
        for buffer, value in zip(self.own, before, strict=True):
            buffer.copy_(value)
        self.settled = True
