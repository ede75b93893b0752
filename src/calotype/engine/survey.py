"""What every process must know of a batch before its first backward: counts over all shards, ids and digests for the
journal, and whether the run is to end after this step.

A process reads its own shards only. What it says of them is one message a step; all add the counts shard by shard, in
the same order, so they divide by the same number to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from calotype.engine.distributed import World
from calotype.engine.reduce import merge
from calotype.types import Batch, Shard

if TYPE_CHECKING:
    from calotype.types import IntArray

CountsOf = Callable[[Shard], Mapping[str, float]]


@dataclass(slots=True)
class Survey:
    """A whole batch: its counts, the ids and input digest of each shard. `signal` and `late` say whether a process was
    asked to stop, and whether the run's time was up, before the step. `others` are the shards of other processes,
    without their fields.
    """

    counts: dict[str, float]
    ids: list[IntArray]
    digests: list[bytes]
    signal: str | None = None
    late: bool = False
    others: list[Shard] = field(default_factory=list)

    @property
    def items(self) -> int:
        """The batch's samples."""
        return sum(map(len, self.ids))


def survey(batch: Batch, counts_of: CountsOf) -> Survey:
    """The survey of a batch that is all here."""
    counts: dict[str, float] = {}
    for shard in batch:
        merge(counts, _floats(counts_of(shard)))
    return Survey(counts, [shard.ids for shard in batch], [shard.digest for shard in batch])


def joint_survey(batch: Batch, counts_of: CountsOf, world: World, signal: str | None, *, late: bool) -> Survey:
    """The survey of a batch of which each process has a part, by rank."""
    counts = [_floats(counts_of(shard)) for shard in batch]
    about = {"counts": counts, "signal": signal, "late": late}
    result = Survey({}, [], [])
    for rank, word in enumerate(world.gather(pack(about, batch))):
        said, shards = unpack(word)
        result.signal = result.signal or said["signal"]
        result.late = result.late or (rank == 0 and said["late"])
        for shard, found in zip(shards, said["counts"], strict=True):
            result.ids.append(shard.ids)
            result.digests.append(shard.digest)
            merge(result.counts, found)
        result.others += shards if rank != world.rank else []
    return result


def _floats(counts: Mapping[str, float]) -> dict[str, float]:
    return {name: float(count) for name, count in counts.items()}


def pack(about: Mapping[str, Any], batch: Batch) -> bytes:
    """Plain values, and of each shard what it is without its fields, as bytes."""
    parts = [array.tobytes() for shard in batch for array in (shard.ids, shard.contents) if array is not None]
    shards = [[len(shard), shard.digest.hex(), shard.contents is not None] for shard in batch]
    return json.dumps([about, shards]).encode() + b"\n" + b"".join(parts)


def unpack(word: bytes) -> tuple[dict[str, Any], Batch]:
    """What `pack` was given."""
    head, _, rest = word.partition(b"\n")
    about, shards = json.loads(head)
    batch, numbers, start = [], np.frombuffer(rest, np.int64), 0
    for length, digest, known in shards:
        ids, start = numbers[start : start + length], start + length
        contents = numbers[start : start + 2 * length].view(np.uint64).reshape(length, 2) if known else None
        start += 2 * length if known else 0
        batch.append(Shard(ids, {}, bytes.fromhex(digest), contents))
    return about, batch
