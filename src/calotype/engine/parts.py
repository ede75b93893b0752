"""What a run is made of, how it computes, and where it is: the three values that the loop works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from calotype.engine.averaging import EMA
from calotype.engine.schedule import AnyScheduler, EarlyStop
from calotype.types import Loader


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
    batch_transforms: Sequence[Callable[[dict[str, Any]], dict[str, Any]]] = ()
    ema: EMA | None = None
    early_stop: EarlyStop | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How the loop computes: what is left of the settings once they are resolved."""

    seed: int
    device: torch.device
    precision: int | str = 32
    shards: int = 1
    exact: bool = True
    channels_last: bool = False
    clip: float | None = None
    skip_nonfinite: bool = False
    schedule_by_step: bool = True
    warmup_steps: int = 0
    monitor: str = "val/loss"
    maximise: bool = False
    test: str | None = None
    warn_on_disk: bool = True


@dataclass(slots=True)
class LoopState:
    """Where the loop is: steps done, the monitor's values by step, the last value of each metric, why it ended."""

    step: int = 0
    scores: dict[int, float] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    ended: str | None = None
