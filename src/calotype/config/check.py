"""First stage of checking: what a tree may hold, from settings.py, without torch and without importing any target.

`load_and_check` does all of it: compose, this stage, then the targets and their arguments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calotype.config.build import split_settings
from calotype.config.compose import Config, compose, located
from calotype.config.published import is_published
from calotype.config.reader import join
from calotype.config.schema import NODES, TOP_LEVEL, did_you_mean, settings
from calotype.errors import ConfigError
from calotype.settings import (
    CheckpointSettings,
    DataSettings,
    Duration,
    ModuleSettings,
    PathSettings,
    TrainerSettings,
    seconds,
)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CREDENTIALS = re.compile(r"://[^/@\s$]*:[^/@\s$]+@")
_DURATIONS = ("trainer.val_check_interval", "checkpoint.every", "module.lr_warmup")
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, math.inf),
    "trainer.max_epochs": (1, math.inf),
    "trainer.max_steps": (1, math.inf),
    "trainer.shards": (1, math.inf),
    "trainer.threads": (1, math.inf),
    "trainer.gradient_clip_val": (1e-12, math.inf),
    "trainer.ema.decay": (0, 1),
    "trainer.early_stopping.patience": (0, math.inf),
    "trainer.early_stopping.min_delta": (0, math.inf),
    "trainer.limit_train_batches": (1, math.inf),
    "trainer.limit_val_batches": (1, math.inf),
    "trainer.limit_test_batches": (1, math.inf),
    "trainer.log_every_n_steps": (1, math.inf),
    "trainer.train_eval": (1, math.inf),
    "data.batch_size": (1, math.inf),
    "data.eval_batch_size": (1, math.inf),
    "data.workers": (0, math.inf),
    "data.prefetch": (1, math.inf),
    "checkpoint.keep_best": (0, math.inf),
    "checkpoint.keep_last": (1, math.inf),
    "module.init_from.min_loaded": (0, 1),
    "module.weights.min_loaded": (0, 1),
}


def load_and_check(overrides: Sequence[str] = (), *, config_dirs: Sequence[Path] = ()) -> Config:
    """Compose and check in both stages. Raises ConfigError."""
    from calotype.config.targets import check_targets

    config = compose(overrides, config_dirs=config_dirs)
    check_schema(config)
    check_targets(config)
    return config


def check_schema(config: Config) -> None:
    """Keys, types, missing values, durations, ranges, and values that another setting overrules.

    Raises ConfigError naming the key, the value, what is allowed, and the line or override that set it.
    """
    with located(config):
        _check_top_level(config.tree)
        _check_missing(config.tree, "")
        trainer = settings(config.tree["trainer"], TrainerSettings, "trainer")
        checkpoint = settings(config.tree["checkpoint"], CheckpointSettings, "checkpoint")
        settings(config.tree["paths"], PathSettings, "paths")
        data: DataSettings = _plug_in(config.tree, "data")
        module: ModuleSettings = _plug_in(config.tree, "module")
        _check_ranges(config.tree)
        _check_durations(config.tree)
        _check_param_groups(module)
        _check_weights(module)
        _check_devices(trainer)
        _check_shards(trainer, data)
        _check_overruled(trainer, checkpoint)
        _check_validated(trainer, module)


def value_at(tree: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for name in key.split("."):
        if isinstance(tree, list):
            tree = tree[int(name)] if name.isdecimal() and int(name) < len(tree) else None
        else:
            tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _check_top_level(tree: dict[str, Any]) -> None:
    for name in tree:
        if name not in TOP_LEVEL:
            raise ConfigError(f"is no key of a config; {did_you_mean(name, TOP_LEVEL)}", key=name)
    for name in TOP_LEVEL:
        if name not in tree:
            raise ConfigError("is missing from the config", key=name)
        if name not in ("seed", "experiment") and not isinstance(tree[name], dict):
            raise ConfigError(f"{tree[name]!r} is not allowed; allowed: a node", key=name)
    if not isinstance(tree["seed"], int) or isinstance(tree["seed"], bool):
        raise ConfigError(f"{tree['seed']!r} is not allowed; allowed: an integer", key="seed")
    experiment = tree["experiment"]
    if not isinstance(experiment, str) or not _EXPERIMENT.fullmatch(experiment):
        raise ConfigError(f"{experiment!r} is no name for a folder; use letters, digits, . _ -", key="experiment")
    for name, tracker in tree["tracking"].items():
        if tracker is not None and not (isinstance(tracker, dict) and "_target_" in tracker):
            raise ConfigError(
                f"{tracker!r} is not allowed; allowed: a node with a _target_, null", key=f"tracking.{name}"
            )


def _check_missing(tree: Any, key: str) -> None:
    if tree == "???":
        raise ConfigError(f"has no value yet; set it with {key}=...", key=key)
    if isinstance(tree, str) and _CREDENTIALS.search(tree):
        raise ConfigError(
            "is an address with a password in it, which the run's record would keep; put the address into an "
            "environment variable X and write ${oc.env:X} here",
            key=key,
        )
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        _check_missing(value, join(key, name))


def _plug_in(tree: dict[str, Any], key: str) -> Any:
    if not isinstance(tree[key].get("_target_"), str):
        raise ConfigError("needs a _target_, the dotted name of its class", key=key)
    own, _ = split_settings(tree[key], NODES[key], key)
    return own


def _check_ranges(tree: dict[str, Any]) -> None:
    for key, (low, high) in _RANGES.items():
        value = value_at(tree, key)
        if isinstance(value, int | float) and not low <= value <= high:
            allowed = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
            raise ConfigError(f"{value} is not allowed; allowed: {allowed}", key=key)


def _check_durations(tree: dict[str, Any]) -> None:
    for key in _DURATIONS:
        value = value_at(tree, key)
        if value is not None:
            Duration.parse(value, "ep", key)
    seconds(tree["data"].get("timeout", "120s"), "data.timeout")
    if tree["trainer"].get("max_time") is not None:
        seconds(tree["trainer"]["max_time"], "trainer.max_time")


def _check_param_groups(module: ModuleSettings) -> None:
    for index, group in enumerate(module.param_groups):
        key = f"module.param_groups.{index}"
        if not isinstance(group, dict) or not isinstance(group.get("pattern"), str):
            raise ConfigError(f"{group!r} needs a pattern of parameter names", key=key)
        try:
            re.compile(group["pattern"])
        except re.error as error:
            raise ConfigError(
                f"{group['pattern']!r} is no regular expression: {error}", key=f"{key}.pattern"
            ) from error


def _check_weights(module: ModuleSettings) -> None:
    start = module.weights
    if start is None:
        return
    if module.init_from is not None:
        raise ConfigError(
            f"is set, and so is module.init_from = {module.init_from!r}; a network begins with one of them. Set the "
            "other to null",
            key="module.weights",
        )
    digest = None if isinstance(start, str) else start.sha256
    if digest is not None and not _SHA256.fullmatch(digest):
        raise ConfigError(f"{digest!r} is no sha256: that is 64 hex digits in lower case", key="module.weights.sha256")
    try:
        is_published(start if isinstance(start, str) else start.source)
    except ConfigError as error:
        raise ConfigError(error.message, key="module.weights") from error


def _check_devices(trainer: TrainerSettings) -> None:
    seconds(trainer.timeout, "trainer.timeout")
    devices, shards = trainer.devices, trainer.shards
    if trainer.strategy in ("fsdp", "dp"):
        _check_fast(trainer)
    if trainer.sync_batchnorm and trainer.reduce == "exact":
        raise ConfigError(
            "statistics over all processes are no function of a shard, which reduce: exact adds; use fast",
            key="trainer.sync_batchnorm",
        )
    if not isinstance(devices, int) or devices == 1:
        return
    if devices < 1:
        raise ConfigError(f"{devices} is not allowed; allowed: auto, 1 or more", key="trainer.devices")
    check_alone(trainer, devices)
    check_processes(devices, devices if shards == "auto" else shards, exact=_is_exact(trainer))


def check_alone(trainer: TrainerSettings, processes: int) -> None:
    """Raises ConfigError for what one process does and several can't."""
    if processes > 1 and trainer.strategy in ("single", "dp"):
        raise ConfigError(
            f"{trainer.strategy} is one process, and {processes} are wanted; use auto or ddp", key="trainer.strategy"
        )


def check_processes(devices: int, shards: int, *, exact: bool) -> None:
    """Raises ConfigError for a number of processes that can't share the shards of a batch."""
    if exact:
        _check_power("trainer.devices", devices)
    if shards % devices:
        raise ConfigError(
            f"{devices} processes can't share {shards} shards evenly; set trainer.shards={devices} or a multiple",
            key="trainer.devices",
        )


def _is_exact(trainer: TrainerSettings) -> bool:
    """Whether that is certain; on a machine with CUDA `auto` is not."""
    certain = trainer.accelerator == "cpu" and trainer.strategy not in ("fsdp", "dp")
    return trainer.reduce == "exact" or (trainer.reduce == "auto" and certain)


def _check_power(key: str, number: int) -> None:
    if number & (number - 1):
        below = 1 << (number.bit_length() - 1)
        raise ConfigError(
            f"{number} is no power of two, and reduce: exact adds shards as a tree; use {below} or {2 * below}, or "
            "trainer.reduce=fast",
            key=key,
        )


def _check_fast(trainer: TrainerSettings) -> None:
    """What doesn't go with torch's FSDP or DataParallel, or was never tried with it."""
    fsdp, name = trainer.strategy == "fsdp", trainer.strategy
    adds = "parts of them" if fsdp else "those of each device"
    refused = {
        "reduce": (trainer.reduce == "exact", f"exact adds whole gradients as a tree, {name} {adds}; use fast"),
        "on_oom": (trainer.on_oom == "split" and fsdp, "split tries a shard in one process, fsdp has parts of weights"),
        "channels_last": (trainer.channels_last and fsdp, "fsdp divides weights row by row"),
        "compile": (bool(trainer.compile), f"compile is not available with {name} yet"),
        "sync_batchnorm": (trainer.sync_batchnorm and not fsdp, "statistics are over processes, and dp is one"),
    }
    for key, (wrong, reason) in refused.items():
        if wrong:
            raise ConfigError(f"{reason}, or trainer.strategy=ddp", key=f"trainer.{key}")


def _check_shards(trainer: TrainerSettings, data: DataSettings) -> None:
    shards = trainer.shards
    if not isinstance(shards, int):
        return
    if trainer.reduce != "fast" and trainer.strategy not in ("fsdp", "dp"):
        _check_power("trainer.shards", shards)
    if data.batch_size < shards:
        raise ConfigError(f"a batch of {data.batch_size} can't be cut into {shards} shards", key="data.batch_size")


def _check_overruled(trainer: TrainerSettings, checkpoint: CheckpointSettings) -> None:
    defaults = TrainerSettings()
    if trainer.max_epochs is None and trainer.max_steps is None and trainer.max_time is None:
        raise ConfigError("the run has no end; set max_epochs, max_steps or max_time", key="trainer.max_epochs")
    if trainer.val_epochs is not None and trainer.val_check_interval not in (None, defaults.val_check_interval):
        raise ConfigError(
            f"{trainer.val_check_interval} is overruled by trainer.val_epochs={trainer.val_epochs}; keep one of them",
            key="trainer.val_check_interval",
        )
    if trainer.on_oom == "split" and trainer.reduce != "fast":
        raise ConfigError(
            "split cuts shards, which are part of exact arithmetic; set reduce=fast", key="trainer.on_oom"
        )
    if trainer.test == "best" and checkpoint.keep_best == 0:
        raise ConfigError(
            "best is not kept: checkpoint.keep_best is 0; set trainer.test to last or null", key="trainer.test"
        )


def _check_validated(trainer: TrainerSettings, module: ModuleSettings) -> None:
    """What goes by the monitor needs validation during the run."""
    if trainer.val_check_interval is not None or trainer.val_epochs:
        return
    plateau = str((module.lr_scheduler or {}).get("_target_")).endswith(".ReduceLROnPlateau")
    for key, used in (("trainer.early_stopping", trainer.early_stopping), ("module.lr_scheduler", plateau)):
        if used:
            reason = "trainer.val_check_interval is null, so there is no validation before the end"
            raise ConfigError(f"has nothing to go by: {reason}", key=key)
