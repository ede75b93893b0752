"""What a run is made of, how it computes, and where it is: the three values that the loop works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.optim import Optimizer

from calotype.engine.averaging import EMA
from calotype.engine.distributed import World
from calotype.engine.schedule import AnyScheduler, EarlyStop
from calotype.keys import key, seed_everything
from calotype.types import Loader, Shard

Transforms: TypeAlias = "Sequence[Callable[[dict[str, Any]], dict[str, Any]]]"


@dataclass(slots=True)
class Parts:
    """The objects a run is made of. `task` satisfies types.Task and is an nn.Module on its device."""

    task: Any
    optimizer: Optimizer
    train: Loader
    val: Loader | None = None
    train_eval: Loader | None = None
    test: Loader | None = None
    scheduler: AnyScheduler | None = None
    batch_transforms: Transforms = ()
    ema: EMA | None = None
    early_stop: EarlyStop | None = None
    world: World = field(default_factory=World)


@dataclass(frozen=True, slots=True)
class Options:
    """How the loop computes: what is left of the settings once they are resolved. `splits` gives the pieces of a shard
    from a step on, for a run that repeats one.
    """

    seed: int
    device: torch.device
    precision: int | str = 32
    shards: int = 1
    exact: bool = True
    sharded: bool = False
    channels_last: bool = False
    clip: float | None = None
    skip_nonfinite: bool = False
    schedule_by_step: bool = True
    warmup_steps: int = 0
    monitor: str = "val/loss"
    maximise: bool = False
    test: str | None = None
    warn_on_disk: bool = True
    split: bool = False
    splits: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def placed(self, shard: Shard) -> Shard:
        """A shard on the device, its images in the memory format."""
        memory_format = torch.channels_last if self.channels_last else None
        if memory_format is None and self.device.type == "cpu":
            return shard
        return shard.to(self.device, memory_format)

    def mixed(self, shard: Shard, transforms: Transforms, step: int, index: int) -> Shard:
        """A shard after the transforms of whole shards, drawn under the key of its step and number."""
        if not transforms:
            return shard
        seed_everything(key(self.seed, "batch", step, index), self.device)
        fields: Any = dict(shard.fields)
        for transform in transforms:
            fields = transform(fields)
        return Shard(shard.ids, fields, shard.digest, shard.contents)


@dataclass(slots=True)
class LoopState:
    """Where the loop is: steps done, the monitor's values by step, the last value of each metric, why it ended. A shard
    is cut into `pieces` where it would not fit into memory.
    """

    step: int = 0
    scores: dict[int, float] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    ended: str | None = None
    pieces: int = 1
