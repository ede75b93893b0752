"""A run by several processes: how they are started, and what the first one hands to the others.

torchrun starts them, or `trainer.devices=N` by torch's own launcher. The first composes, locks the folder, writes the
record; the others get the config, the record and the checkpoint to go on from, as bytes, and compute.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from calotype.commands._signals import Signals
from calotype.config.compose import Config, compose
from calotype.errors import (
    CONTINUE,
    CTRL_C,
    CalotypeError,
    ConfigError,
    Interrupted,
    NonFiniteError,
    PeerLost,
    retold,
    told,
)
from calotype.files import replace_json
from calotype.settings import seconds

if TYPE_CHECKING:
    from calotype.engine.checkpoint import Checkpoint
    from calotype.engine.distributed import World

REPORT = "CALOTYPE_REPORT"
"""The file in which the first process tells the one that started it what came of it."""
QUIET = "CALOTYPE_QUIET"
"""Set for processes that are started for a run that is to tell nothing."""
SIGNALS = "TORCHELASTIC_SIGNALS_TO_HANDLE"
"""Where torch's launcher notes which signals it handles; here it handles none."""
PARENT_DEATH = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def launched() -> bool:
    """Whether this process is one of several that torchrun, or a launcher like it, started for this run."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the only one of its run, or the one of several that writes."""
    return not launched() or os.environ["RANK"] == "0"


def is_told_elsewhere() -> bool:
    """Whether what this process finds is for the one that started it to tell, or for the first."""
    return REPORT in os.environ or not is_first()


def is_quiet() -> bool:
    """Whether the process that started this one wants nothing told."""
    return QUIET in os.environ


def end_with_launcher() -> None:
    """Have Linux kill this process when what launched it is gone, however that ended: a run leaves no orphan. Nothing
    is lost by it but the steps since the last checkpoint.
    """
    if launched() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)


def wanted(config: Config) -> int:
    """How many processes this process is to start for the run; 1: none, it computes itself.

    Raises ConfigError where torchrun started another number than the config says.
    """
    return to_start(config.tree["trainer"]["devices"], "trainer.devices")


def to_start(devices: int | str, key: str) -> int:
    """How many processes to start where `devices` are asked for, a number or auto."""
    if launched():
        if devices not in ("auto", size := int(os.environ["WORLD_SIZE"])):
            raise ConfigError(f"{devices}, and {size} processes were started; leave it at auto", key=key)
        return 1
    return 1 if devices == "auto" else int(devices)


def patience(config: Config) -> float:
    """Seconds that a process may keep others waiting."""
    return seconds(config.tree["trainer"]["timeout"], "trainer.timeout")


@contextmanager
def world_of(config: Config) -> Iterator[World]:
    """The processes of a run, met by the first of them; what it fails with is told to the others."""
    from calotype.engine.distributed import World

    if not launched():
        yield World()
        return
    world = World.join(patience(config))
    with world.told():
        yield world
    world.leave()


def hand_out(
    world: World,
    config: Config,
    record: Mapping[str, Any],
    checkpoint: Checkpoint | None,
    **how: Any,
) -> None:
    """Give the others what they need to compute their share of a run from `checkpoint` or its start on; `how` is of
    `compute` and of the plan, as plain values.
    """
    if world.size == 1:
        return
    about = {
        "config": config.to_yaml(),
        "search": [str(path) for path in config.search],
        "record": record,
        "checkpoint": checkpoint.folder.name if checkpoint else None,
        "how": how,
    }
    world.share(json.dumps(about).encode())
    if checkpoint:
        from calotype.engine.checkpoint import FILES

        for name in FILES:
            world.share((checkpoint.folder / name).read_bytes())


def dismiss(world: World, found: Mapping[str, Any]) -> None:
    """Let the others go, and tell them, and the process that started this one, what came of it, as plain values."""
    if world.size > 1:
        world.share(json.dumps({"found": found}).encode())
    reported(found)


def follow() -> dict[str, Any]:
    """Compute another process's share of what the first one hands out; what came of it. Raises what ended the run, here
    or elsewhere.
    """
    from calotype.engine.distributed import World

    world = World.join(None)
    with world.told():
        while "found" not in (about := json.loads(world.share(None))):
            with tempfile.TemporaryDirectory(prefix="calotype-share-") as temporary:
                _compute(about, world, Path(temporary))
    world.leave()
    return dict(about["found"])


def _compute(about: Mapping[str, Any], world: World, here: Path) -> None:
    from calotype.commands._assemble import assemble
    from calotype.commands._execute import compute
    from calotype.commands._inputs import frozen
    from calotype.engine.checkpoint import FILES, open_checkpoint
    from calotype.engine.plan import Reached

    (here / "config.yaml").write_text(about["config"])
    config = compose([str(here / "config.yaml")], config_dirs=[Path(path) for path in about["search"]])
    checkpoint = None
    if about["checkpoint"]:
        place = here / about["checkpoint"]
        place.mkdir()
        for name in FILES:
            (place / name).write_bytes(world.share(None))
        checkpoint = open_checkpoint(place)
    assembly = assemble(config.tree, frozen(about["record"]), begins=checkpoint is None, world=world)
    if plan := about["how"].get("plan"):
        assembly.plan = replace(assembly.plan, **plan)
        assembly.options = replace(assembly.options, splits=dict(about["how"]["splits"]))
    with suppress(Reached, NonFiniteError) if plan else nullcontext():
        compute(assembly, checkpoint, replanned=about["how"].get("replanned", False))


@contextmanager
def spoken_for() -> Iterator[None]:
    """Leave without a word where another process has the word: the first for the others, who started it for the
    first.
    """
    try:
        yield
    except (CalotypeError, KeyboardInterrupt) as error:
        if REPORT not in os.environ and (is_first() or isinstance(error, PeerLost)):
            raise
        sys.exit(CTRL_C if isinstance(error, KeyboardInterrupt) else error.exit_code)


# --- started by this process


def launch(devices: int, config: Config, *arguments: str, quiet: bool = False) -> dict[str, Any]:
    """Run `calotype` with these arguments, which give `config`, as so many processes on this machine; what the first
    one reports.

    SIGTERM, SIGUSR1 and Ctrl-C go on to all of them; a second one ends them at once. Raises what ended the run.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def pass_on(number: int) -> None:
        raise SignalException(f"got signal {number}", signal.Signals(number))

    with tempfile.TemporaryDirectory(prefix="calotype-launch-") as temporary:
        report = Path(temporary) / "report.json"
        how = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            signals_to_handle="",
            logs_specs=DefaultLogsSpecs(log_dir=temporary),  # torch leaves its own folder behind
            shutdown_timeout=max(1, round(patience(config))),
        )
        signals = Signals(first=pass_on, at_once=lambda: leave(signals))
        environment = {REPORT: str(report), SIGNALS: ""} | ({QUIET: "1"} if quiet else {})
        with signals.caught(), _silent(), _environment(environment):
            try:
                elastic_launch(how, sys.executable)("-m", "calotype", *arguments)
            except (ChildFailedError, SignalException) as error:
                _raise_reported(report, error)
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def leave(signals: Signals) -> NoReturn:
    """End this process at once, and with it those that it started."""
    sys.stderr.write(f"calotype: stopped at once by a second signal; {CONTINUE}\n")
    sys.stderr.flush()
    os._exit(CTRL_C if signals.asked() == "SIGINT" else Interrupted.exit_code)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch's launcher logs: it tells exit codes and signals as errors."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def reported(found: Mapping[str, Any]) -> None:
    """Tell the process that started this one, if one did."""
    if is_first() and (path := os.environ.get(REPORT)):
        replace_json(Path(path), found)


@contextmanager
def reporting() -> Iterator[None]:
    """Within the context, what ends it is reported."""
    try:
        yield
    except BaseException as error:
        reported(told(error) | {"stopped": isinstance(error, KeyboardInterrupt)})
        raise


def _raise_reported(report: Path, error: Exception) -> None:
    """Raise what the first process reported; else that it is gone."""
    if not report.is_file():
        number = getattr(error, "sigval", None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt from error
        by = f"stopped by {signal.Signals(number).name}" if number is not None else "a process was killed"
        raise Interrupted(f"{by}; {CONTINUE}") from error
    found = json.loads(report.read_text())
    if found.get("stopped"):
        raise KeyboardInterrupt from error
    if "type" in found:
        raise retold(found) from error
