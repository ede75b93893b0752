"""From a checked config to the objects of a run. Plug-ins are found by name here and nowhere else in commands or
engine.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from calotype.commands._limits import prepare
from calotype.commands._skipped import Skipped, leave_out
from calotype.commands._start import Start
from calotype.config.build import build, locate, split_settings
from calotype.config.build import settings as read_settings
from calotype.config.check import check_alone, check_processes
from calotype.engine.averaging import EMA
from calotype.engine.data_parallel import run_in_parallel
from calotype.engine.device import set_up
from calotype.engine.distributed import World
from calotype.engine.parts import Options, Parts
from calotype.engine.plan import Plan
from calotype.engine.precision import affordable
from calotype.engine.schedule import AnyScheduler, EarlyStop, build_scheduler
from calotype.engine.setup import (
    build_optimizer,
    check_batch_norm,
    check_network,
    own_generators,
    synchronise_batch_norm,
)
from calotype.engine.sharded import sharded
from calotype.engine.weights import Loaded
from calotype.errors import ConfigError, DataError
from calotype.keys import key, seed_everything
from calotype.settings import CheckpointSettings, DataSettings, Duration, ModuleSettings, TrainerSettings
from calotype.types import DataSet, Source

PIPELINES = {"native": "calotype.data.loader"}


@dataclass(frozen=True, slots=True)
class Settings:
    """A config's own nodes as values; `task` and `dataset` are the nodes of their targets."""

    seed: int
    trainer: TrainerSettings
    checkpoint: CheckpointSettings
    module: ModuleSettings
    data: DataSettings
    task: dict[str, Any]
    dataset: dict[str, Any]

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Settings:
        """Read them from a checked tree."""
        trainer = read_settings(tree["trainer"], TrainerSettings, "trainer")
        checkpoint = read_settings(tree["checkpoint"], CheckpointSettings, "checkpoint")
        module, task = split_settings(tree["module"], ModuleSettings, "module")
        data, dataset = split_settings(tree["data"], DataSettings, "data")
        return cls(int(tree["seed"]), trainer, checkpoint, module, data, task, dataset)

    def begun(self) -> Settings:
        """The same of a run that has begun: a checkpoint brings all weights, and files of initial ones may be gone."""
        return replace(self, module=replace(self.module, init_from=None, weights=None))

    def maximise(self) -> bool:
        """Whether a higher monitor is better."""
        mode = self.checkpoint.mode
        return not self.module.monitor.endswith("loss") if mode == "auto" else mode == "max"


@dataclass(frozen=True, slots=True)
class Frozen:
    """What `auto` became at the first launch; it is part of the arithmetic and stays as recorded. `weights` is the
    sha256 of those a run began with.
    """

    shards: int
    threads: int
    reduce: Literal["exact", "fast"]
    deterministic: Literal["strict", "warn", "off"]
    accelerator: Literal["cpu", "cuda"]
    devices: int = 1
    skipped: Skipped | None = None
    weights: str | None = None

    def recorded(self) -> dict[str, Any]:
        """As the record has it; what was left out of the data stands with the data, weights by themselves."""
        return {name: value for name, value in asdict(self).items() if name not in ("skipped", "weights")}

    @classmethod
    def of(cls, trainer: TrainerSettings, world: World) -> Frozen:
        """Resolve the settings on this machine, for so many processes."""
        cuda = trainer.accelerator == "cuda" or (trainer.accelerator == "auto" and torch.cuda.is_available())
        return cls(
            shards=world.size if trainer.shards == "auto" else trainer.shards,
            threads=max(1, _cores() // world.local_size) if trainer.threads == "auto" else trainer.threads,
            reduce=("fast" if cuda or trainer.strategy in ("fsdp", "dp") else "exact")
            if trainer.reduce == "auto"
            else trainer.reduce,
            deterministic="strict" if trainer.deterministic == "auto" else trainer.deterministic,
            accelerator="cuda" if cuda else "cpu",
            devices=world.size,
        )


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(slots=True)
class Data:
    """The data set's splits, its loaders and the transforms of whole shards; `foreign` names transforms with a random
    generator of their own; `category_ids` are the numbers of the classes in the data set's annotations, if it has some.
    """

    classes: Sequence[str]
    sources: dict[str, Source]
    train: Any
    held_out: Callable[[str, int | None, int | None], Any]
    batch_transforms: list[Any]
    foreign: list[str]
    skipped: Skipped | None = None
    category_ids: list[int] | None = None

    def loader(self, split: str, limit: int | None = None, sample: int | None = None) -> Any:
        """The loader that evaluates a split, or `sample` samples of it; None where there is no such split."""
        return self.held_out(split, limit, sample) if split in self.sources else None


@dataclass(slots=True)
class Assembly:
    """Everything a run needs, built."""

    parts: Parts
    options: Options
    plan: Plan
    frozen: Frozen
    checkpoint: CheckpointSettings
    data: Data
    inexact: list[str] = field(default_factory=list)
    loaded: Loaded | None = None
    strategy: str = "auto"
    profiler: str | None = None
    notes: list[str] = field(default_factory=list)


def assemble(
    tree: Mapping[str, Any], frozen: Frozen | None = None, *, begins: bool = True, world: World | None = None
) -> Assembly:
    """Build the objects of a run. `frozen` is what a run recorded; without it `auto` is resolved here. Unless it
    `begins` a checkpoint brings all weights, and none to start from are looked for. Of several processes each builds
    its own.
    """
    settings, world = Settings.of(tree), world or World()
    if not begins:
        settings = settings.begun()
    frozen = frozen or Frozen.of(settings.trainer, world)
    check_alone(settings.trainer, world.size)
    check_processes(world.size, frozen.shards, exact=frozen.reduce == "exact")
    device = set_up(frozen.accelerator, frozen.threads, frozen.deterministic, world.local_rank)
    part = (world.rank, world.size)
    data = load_data(settings, frozen.shards, frozen.skipped, pin=device.type == "cuda", part=part)
    frozen = replace(frozen, skipped=data.skipped)
    task, loaded = build_task(settings, device, data.classes, frozen.weights)
    data.foreign += _foreign_in(task, settings)
    if settings.trainer.on_oom == "stop":
        check_tail(data.train.order, frozen, world)
    if settings.trainer.sync_batchnorm:
        synchronise_batch_norm(task, device)
    if settings.trainer.strategy == "dp" and device.type == "cuda":
        run_in_parallel(task.network)
    check_batch_norm(task, data.train.order.smallest_shard())
    plan = Plan.of(settings.trainer, settings.checkpoint, data.train.steps_per_epoch)
    options = _options(settings, frozen, plan, device)
    fsdp = settings.trainer.strategy == "fsdp"
    if fsdp and world.size > 1:
        options = sharded(options, task, world)
    parts = _parts(settings, task, plan, data, world)
    inexact = [f"{name} draws from a generator of its own" for name in data.foreign]
    notes = prepare(parts.train, [loader for loader in (parts.val, parts.train_eval, parts.test) if loader])
    notes += ["one process has nothing to share; trainer.strategy=fsdp changes nothing"] * (fsdp and world.size == 1)
    if options.precision != str(settings.trainer.precision):
        notes.append(f"{settings.trainer.precision} is for CUDA; this CPU computes {options.precision} instead")
    strategy, profiler = settings.trainer.strategy, settings.trainer.profiler
    return Assembly(parts, options, plan, frozen, settings.checkpoint, data, inexact, loaded, strategy, profiler, notes)


def check_tail(order: Any, frozen: Frozen, world: World) -> None:
    """Raises ConfigError for a tail batch in which a process would have fewer shards than another: what torch's DDP
    and FSDP2 exchange in a pass would find nobody.
    """
    if frozen.reduce == "fast" and world.size > 1 and order.size(order.steps_per_epoch - 1) < frozen.shards:
        raise ConfigError(
            "the last batch of an epoch has fewer samples than trainer.shards; drop it, or set trainer.reduce=exact",
            key="data.drop_last",
        )


def load_data(
    settings: Settings,
    shards: int,
    skipped: Skipped | None = None,
    *,
    pin: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Data:
    """The data set and its loaders, without what is known to be `skipped` or is found to be broken. `part`: which of
    how many processes it is for.

    Raises DataError for a missing train split, ConfigError for foreign generators.
    """
    dataset: DataSet = build(settings.dataset, "data")
    pipeline: Any = importlib.import_module(PIPELINES[settings.data.pipeline])
    if "train" not in dataset.splits:
        raise DataError(f"the data set has no train split; it has {', '.join(dataset.splits)}", key="data")
    sources = {name: dataset.split(name) for name in ("train", "val", "test") if name in dataset.splits}
    sources, skipped = leave_out(sources, settings.data, skipped)
    train = pipeline.train_loader(
        pipeline.ShardReader(
            sources["train"], build(settings.data.train_transforms, "data.train_transforms"), seed=settings.seed
        ),
        settings.data,
        shards=shards,
        limit=settings.trainer.limit_train_batches,
        pin=pin,
        part=part,
    )
    transforms = build(settings.data.eval_transforms, "data.eval_transforms")

    def held_out(split: str, limit: int | None, sample: int | None) -> Any:
        reader = pipeline.ShardReader(sources[split], transforms, seed=settings.seed, judges=True)
        return pipeline.eval_loader(reader, settings.data, limit=limit, sample=sample, pin=pin, part=part)

    batch_transforms = [
        build(node, f"data.batch_transforms.{index}", **_told(node, dataset.classes))
        for index, node in enumerate(settings.data.batch_transforms)
    ]
    foreign = {
        "train_transforms": pipeline.foreign_generators(train.reader),
        "eval_transforms": pipeline.foreign_generators(pipeline.ShardReader(sources["train"], transforms)),
        "batch_transforms": pipeline.foreign_batch_generators(train.reader, batch_transforms),
    }
    if settings.data.foreign_generators == "refuse":
        _refuse_foreign(foreign)
    return Data(
        dataset.classes,
        sources,
        train,
        held_out,
        batch_transforms,
        [name for names in foreign.values() for name in names],
        skipped,
        [int(number) for number in getattr(dataset, "category_ids", None) or ()] or None,
    )


def _refuse_foreign(found: Mapping[str, list[str]]) -> None:
    for place, names in found.items():
        if names:
            raise ConfigError(
                f"{', '.join(names)} draws from a random generator of its own, so no run with it can be repeated or "
                "resumed exactly; use one that draws from torch's, NumPy's or Python's global generator, or set "
                "data.foreign_generators=allow (the record then says exact: false)",
                key=f"data.{place}",
            )


def _foreign_in(task: Any, settings: Settings) -> list[str]:
    """Random generators that the task keeps; refused as those of transforms are."""
    found = own_generators(task)
    if found and settings.data.foreign_generators == "refuse":
        raise ConfigError(
            f"{', '.join(found)} is a random generator of the task's own, so no run with it can be resumed exactly; "
            "draw from torch's global one, or set data.foreign_generators=allow (the record then says exact: false)",
            key="module",
        )
    return found


def _told(node: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What the data set tells a target that has these parameters and was given no value: the classes, their number."""
    facts = {"num_classes": len(classes), "classes": tuple(classes)}
    asked = inspect.signature(locate(node["_target_"])).parameters
    return {name: fact for name, fact in facts.items() if name in asked and node.get(name) is None}


def build_task(
    settings: Settings, device: torch.device, classes: Sequence[str], weights: str | None = None
) -> tuple[Any, Loaded | None]:
    """The task on its device, its weights drawn under the key of their role or taken over from a file, of several the
    one with the sha256 `weights`.

    A task or a metric that has a parameter `num_classes` or `classes` (their names), and is not told, gets the data
    set's; a network whose `num_classes` or `classes` (as some libraries call their number) is null gets the number.
    """
    trainer, start = settings.trainer, Start.of(settings.module)
    seed_everything(key(settings.seed, "init"))
    node = dict(settings.task)
    if isinstance(network := node.get("network"), Mapping):
        asked = [name for name in ("num_classes", "classes") if network.get(name, 0) is None]
        node["network"] = {**network, **dict.fromkeys(asked, len(classes))}
    if isinstance(metrics := node.get("metrics"), Mapping):
        node["metrics"] = {name: {**metric, **_told(metric, classes)} for name, metric in metrics.items()}
    task = build(node, "module", **_told(node, classes))
    if settings.module.inference is not None:
        if not hasattr(task, "inference"):
            raise ConfigError(f"{type(task).__name__} asks its network in one way only", key="module.inference")
        task.inference = build(settings.module.inference, "module.inference")
    check_network(task, "module.network" if "network" in settings.task else "module")
    loaded = start.begin(task.network, weights) if start else None
    task.to(device)
    if trainer.channels_last:
        task.to(memory_format=torch.channels_last)
    if trainer.compile:
        task.network.compile(**(trainer.compile if isinstance(trainer.compile, dict) else {}))
    return task, loaded


def _parts(settings: Settings, task: Any, plan: Plan, data: Data, world: World) -> Parts:
    trainer, module = settings.trainer, settings.module
    factory = build({**module.optimizer, "_partial_": True}, "module.optimizer")
    optimizer = build_optimizer(factory, task, module.param_groups)
    ema, early, mode = trainer.ema, trainer.early_stopping, "max" if settings.maximise() else "min"
    return Parts(
        task=task,
        optimizer=optimizer,
        train=data.train,
        val=data.loader("val", trainer.limit_val_batches),
        train_eval=data.loader("train", sample=trainer.train_eval) if trainer.train_eval else None,
        test=data.loader("test", trainer.limit_test_batches) if trainer.test else None,
        scheduler=_scheduler(settings, optimizer, plan),
        batch_transforms=data.batch_transforms,
        world=world,
        ema=EMA(task.network, ema.decay, ema.warmup) if ema else None,
        early_stop=EarlyStop(early.patience, early.min_delta, mode) if early else None,  # type: ignore[arg-type]
    )


def _scheduler(settings: Settings, optimizer: torch.optim.Optimizer, plan: Plan) -> AnyScheduler | None:
    """The schedule, told the run's length in calls of its `step`."""
    module = settings.module
    if module.lr_scheduler is None:
        return None
    if plan.total is None:
        raise ConfigError("a schedule needs the run's length; set max_epochs or max_steps", key="trainer.max_epochs")
    factory = build({**module.lr_scheduler, "_partial_": True}, "module.lr_scheduler")
    if module.lr_interval == "step":
        made = build_scheduler(factory, optimizer, plan.total, plan.steps_per_epoch)
        if isinstance(made, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise ConfigError("ReduceLROnPlateau steps with the validations; use epoch", key="module.lr_interval")
        return made
    return build_scheduler(factory, optimizer, -(-plan.total // plan.steps_per_epoch), 1)


def _options(settings: Settings, frozen: Frozen, plan: Plan, device: torch.device) -> Options:
    trainer, module, warmup = settings.trainer, settings.module, 0
    if module.lr_warmup is not None:
        warmup = Duration.parse(module.lr_warmup, "st", "module.lr_warmup").steps(plan.steps_per_epoch, plan.total)
    return Options(
        seed=settings.seed,
        device=device,
        precision=affordable(trainer.precision, device, trainer.accelerator),
        shards=frozen.shards,
        exact=frozen.reduce == "exact",
        channels_last=trainer.channels_last,
        clip=trainer.gradient_clip_val,
        skip_nonfinite=trainer.on_nonfinite == "skip",
        schedule_by_step=module.lr_interval == "step" and module.lr_scheduler is not None,
        warmup_steps=warmup,
        monitor=module.monitor,
        maximise=settings.maximise(),
        test=trainer.test,
        warn_on_disk=settings.checkpoint.on_error == "warn",
        split=trainer.on_oom == "split",
    )
