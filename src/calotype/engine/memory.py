"""What a step does that doesn't fit into memory.

Where the arithmetic is exact the number of shards is part of it, so the run stops, and says how many would have fitted:
it has tried. With `trainer.on_oom: split` (and `reduce: fast`) the shards are cut further and the step is computed
again, from the same state and batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from calotype.types import Batch, Shard

if TYPE_CHECKING:
    from calotype.types import IntArray


class NoRoomElsewhere(torch.OutOfMemoryError):
    """Another process has no room for its part of the batch."""


def cut(shard: Shard, pieces: int) -> Batch:
    """A shard in so many pieces as even as can be; in fewer where it has fewer samples."""
    if pieces == 1:
        return [shard]
    rows: list[IntArray] = np.array_split(np.arange(len(shard)), pieces)
    return [_rows(shard, int(found[0]), int(found[-1]) + 1) for found in rows if len(found)]


def _rows(shard: Shard, start: int, stop: int) -> Shard:
    return Shard(shard.ids[start:stop], {name: value[start:stop] for name, value in shard.fields.items()})


def release() -> None:
    """Give back what a failed step held. Only after its exception is gone, which holds its tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fitting(batch: Batch, compute: Callable[[Shard], object]) -> int | None:
    """The least power of two of pieces in which a shard can be computed; None if not even a single sample can."""
    largest = max(batch, key=len)
    pieces = 2
    while pieces < 2 * len(largest):
        release()
        try:
            compute(cut(largest, pieces)[0])
        except torch.OutOfMemoryError:
            pieces *= 2
        else:
            return pieces
    return None
