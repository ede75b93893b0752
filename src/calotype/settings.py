"""What the config's own nodes may hold: names, types and defaults, in one place and without torch.

`config.check` derives the schema from these classes, `configs/*/default.yaml` spells out the same defaults, and the
engine takes the built instances. A node with a `_target_` holds these keys beside the arguments of its target.

Durations are written `10ep`, `500st`, `5%` (of the whole run), `90s`/`30m`/`2h` where time is meant, or a plain integer
in the unit of its key.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from calotype.errors import ConfigError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ep|st|%)")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


NEUTRAL = (
    "paths.",
    "tracking",
    "vars",
    "data.workers",
    "data.prefetch",
    "data.timeout",
    "trainer.devices",
    "trainer.timeout",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "checkpoint.on_error",
)
"""Keys, or beginnings of keys, that change no bit of a run."""


@dataclass(frozen=True, slots=True)
class Duration:
    """A length of training: `amount` epochs ("ep"), steps ("st") or per cent of the run ("%")."""

    amount: float
    unit: Literal["ep", "st", "%"]

    @classmethod
    def parse(cls, value: str | int | Duration, unit: Literal["ep", "st"], key: str | None = None) -> Duration:
        """Read `10ep`, `500st`, `5%` or an integer in `unit`. Raises ConfigError naming `key`."""
        if isinstance(value, Duration):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value, unit)
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ConfigError(f"{value!r} is no duration; write 10ep, 500st, 5% or an integer ({unit})", key=key)
        return cls(float(match[1]), match[2])  # type: ignore[arg-type]

    def steps(self, steps_per_epoch: int, total: int | None = None) -> int:
        """The duration in steps, rounded to the nearest. A share of the run needs `total`, the run's steps."""
        if self.unit == "st":
            return round(self.amount)
        if self.unit == "ep":
            return round(self.amount * steps_per_epoch)
        if total is None:
            raise ConfigError(f"{self.amount:g}% is a share of the run, whose length this key defines; write ep or st")
        return round(self.amount / 100 * total)


def seconds(value: str | float, key: str | None = None) -> float:
    """A time such as `90s`, `30m`, `2h`, `1d` or a number of seconds. Raises ConfigError naming `key`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(f"{value!r} is no time; write 90s, 30m, 2h, 1d or a number of seconds", key=key)
    return float(match[1]) * _SECONDS[match[2]]


@dataclass(frozen=True, slots=True)
class EMASettings:
    """Exponential moving average of the weights: `decay` per step; `warmup` starts with min(decay, (1+t)/(10+t))."""

    decay: float = 0.999
    warmup: bool = False


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stop when `module.monitor` has not improved by more than `min_delta` at more than `patience` validations
    running.
    """

    patience: int = 5
    min_delta: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """Node `trainer`."""

    max_epochs: int | None = 10
    max_steps: int | None = None
    max_time: str | int | float | None = None
    precision: Literal[32, "32", "bf16-mixed", "16-mixed"] = 32
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Literal["auto"] | int = "auto"
    strategy: Literal["auto", "single", "ddp", "fsdp", "dp"] = "auto"
    sync_batchnorm: bool = False
    timeout: str | int | float = "10m"
    shards: Literal["auto"] | int = "auto"
    reduce: Literal["auto", "exact", "fast"] = "auto"
    threads: Literal["auto"] | int = "auto"
    deterministic: Literal["auto", "strict", "warn", "off"] = "auto"
    channels_last: bool = False
    compile: bool | dict[str, Any] = False
    gradient_clip_val: float | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"
    on_oom: Literal["stop", "split"] = "stop"
    ema: EMASettings | None = None
    val_check_interval: str | int | None = "1ep"
    val_epochs: list[int] | None = None
    val_before_training: bool = False
    train_eval: int | None = None
    early_stopping: EarlyStopping | None = None
    test: Literal["best", "last"] | None = "best"
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    log_every_n_steps: int = 50
    profiler: Literal["simple", "pytorch"] | None = None


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Node `data` beside the arguments of its data set. Batch sizes are global; `workers` and `prefetch` change no
    bit. `crop_size` is there for transforms to name it, as ${data.crop_size}.
    """

    batch_size: int = 64
    eval_batch_size: int = 256
    crop_size: int | None = None
    workers: int = 2
    prefetch: int = 2
    pipeline: Literal["native"] = "native"
    shuffle: bool = True
    sampling: Literal["uniform", "class_balanced"] = "uniform"
    drop_last: bool = True
    timeout: str | int | float = "120s"
    on_error: Literal["error", "skip"] = "error"
    foreign_generators: Literal["refuse", "allow"] = "refuse"
    train_transforms: list[Any] = field(default_factory=list)
    eval_transforms: list[Any] = field(default_factory=list)
    batch_transforms: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class InitFrom:
    """Weights to start from: a safetensors file, a checkpoint folder, or a run folder, whose best checkpoint is meant;
    the part of the network that they are `into`, if not all of it; and the least share of its tensors it must give.
    """

    path: str
    min_loaded: float = 0.5
    into: str = ""


@dataclass(frozen=True, slots=True)
class Weights:
    """Published weights to start from: `timm/NAME[.TAG]`, `torchvision/NAME_Weights.MEMBER` or a file; the sha256 it
    must have; the part of the network that they are `into`, such as its backbone, if not all of it; and the least share
    of its tensors it must give. They are looked for on this machine and never fetched.
    """

    source: str
    sha256: str | None = None
    min_loaded: float = 0.5
    into: str = ""


@dataclass(frozen=True, slots=True)
class ModuleSettings:
    """Node `module` beside the arguments of its task: how the weights are updated.

    `param_groups` is a list of {pattern: regular expression of parameter names, any optimizer argument: value}; the
    first match takes a parameter, `pattern: 1d` matches biases and every parameter of at most one dimension.
    `inference` is a node of how the network is asked at evaluation and prediction, of a task that leaves a choice.
    """

    optimizer: dict[str, Any]
    param_groups: list[dict[str, Any]] = field(default_factory=list)
    lr_scheduler: dict[str, Any] | None = None
    lr_interval: Literal["epoch", "step"] = "epoch"
    lr_warmup: str | int | None = None
    monitor: str = "val/loss"
    init_from: str | InitFrom | None = None
    weights: str | Weights | None = None
    inference: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CheckpointSettings:
    """Node `checkpoint`. `mode: auto` minimises a monitor that ends in "loss" and maximises any other."""

    every: str | int | None = "1ep"
    keep_best: int = 1
    keep_last: int = 1
    mode: Literal["auto", "min", "max"] = "auto"
    on_error: Literal["warn", "stop"] = "warn"


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Node `paths`: where things lie on this machine; outside the config's digest."""

    data: str = "data"
    runs: str = "runs"
