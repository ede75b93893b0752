"""A run by several processes: how they are started, and what the first one hands to the others.

torchrun starts them, or `trainer.devices=N` by torch's own launcher. The first composes, locks the folder, writes the
record; the others get the config, the record and the checkpoint to go on from, as bytes, and compute.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype import errors
from calotype.config.compose import Config, compose
from calotype.errors import CalotypeError, ConfigError, Interrupted, PeerLost
from calotype.files import replace_json
from calotype.settings import seconds

if TYPE_CHECKING:
    from calotype.engine.checkpoint import Checkpoint
    from calotype.engine.distributed import World
    from calotype.record.folder import RunFolder

REPORT = "CALOTYPE_REPORT"
"""The file in which the first process tells the one that started it how the run ended."""
SHUTDOWN = 60
"""Seconds that processes have to end after a signal before they are killed."""
CTRL_C = 130


def launched() -> bool:
    """Whether this process is one of several that torchrun, or a launcher like it, started for this run."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this process is the only one of its run, or the one of several that writes."""
    return not launched() or os.environ["RANK"] == "0"


def wanted(config: Config) -> int:
    """How many processes this process is to start for the run; 1: none, it computes itself.

    Raises ConfigError where torchrun started another number than the config says.
    """
    devices = config.tree["trainer"].get("devices", "auto")
    if launched():
        if devices not in ("auto", size := int(os.environ["WORLD_SIZE"])):
            raise ConfigError(f"{devices}, and {size} processes were started; leave it at auto", key="trainer.devices")
        return 1
    return 1 if devices == "auto" else int(devices)


@contextmanager
def world_of(config: Config) -> Iterator[World]:
    """The processes of a run, met by the first of them; what it fails with is told to the others."""
    from calotype.engine.distributed import World

    if not launched():
        yield World()
        return
    world = World.join(seconds(config.tree["trainer"]["timeout"], "trainer.timeout"))
    with world.told():
        yield world
    world.leave()


def hand_out(
    world: World, folder: RunFolder, config: Config, checkpoint: Checkpoint | None, *, replanned: bool = False
) -> None:
    """Give the others what they need to compute their share of a run from `checkpoint` or its start on."""
    if world.size == 1:
        return
    about = {
        "folder": str(folder.path),
        "config": config.to_yaml(),
        "search": [str(path) for path in config.search],
        "record": folder.record(),
        "replanned": replanned,
        "checkpoint": checkpoint.folder.name if checkpoint else None,
    }
    world.share(json.dumps(about).encode())
    for name in FILES if checkpoint else ():
        world.share((checkpoint.folder / name).read_bytes() if checkpoint else None)


def nothing_to_do(world: World, folder: RunFolder) -> None:
    """Tell the others that a run is done."""
    if world.size > 1:
        status = folder.status()
        done = {"step": status["step"], "results": status["results"]}
        world.share(json.dumps({"folder": str(folder.path), "done": done}).encode())


FILES = ("model.safetensors", "training.safetensors", "training.json", "manifest.json")


def follow() -> tuple[Path, int, dict[str, float]]:
    """Compute another process's share of a run that the first one hands out; the run's folder, its steps, its metrics.

    Raises what ended the run, here or elsewhere.
    """
    from calotype.commands._assemble import assemble
    from calotype.commands._execute import compute
    from calotype.commands._inputs import frozen
    from calotype.engine.checkpoint import open_checkpoint
    from calotype.engine.distributed import World

    world = World.join(None)
    with world.told(), tempfile.TemporaryDirectory(prefix="calotype-share-") as temporary:
        about, here = json.loads(world.share(None)), Path(temporary)
        if done := about.get("done"):
            return Path(about["folder"]), done["step"], done["results"]
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
        state = compute(assembly, checkpoint, replanned=about["replanned"])
    world.leave()
    return Path(about["folder"]), state.step, state.results


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


def launch(devices: int, arguments: Sequence[str]) -> dict[str, Any]:
    """Run `calotype train` with these arguments as so many processes on this machine; what the first one reports.

    SIGTERM, SIGUSR1 and Ctrl-C go on to all of them. Raises what ended the run.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it tells exit codes as errors
    with tempfile.TemporaryDirectory(prefix="calotype-launch-") as temporary:
        report = Path(temporary) / "report.json"
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            signals_to_handle="SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT",
            shutdown_timeout=SHUTDOWN,
        )
        with _environment({REPORT: str(report)}):
            try:
                elastic_launch(config, sys.executable)("-m", "calotype", "train", *arguments)
            except (ChildFailedError, SignalException) as error:
                _raise_reported(report, error)
        found: dict[str, Any] = json.loads(report.read_text())
        return found


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


def reported(ended: dict[str, Any]) -> None:
    """Tell the process that started this one, if one did, how the run ended."""
    if is_first() and (path := os.environ.get(REPORT)):
        replace_json(Path(path), ended)


def report_of(error: BaseException) -> dict[str, Any]:
    """An error for `reported`."""
    if isinstance(error, KeyboardInterrupt):
        return {"type": "KeyboardInterrupt", "message": "", "key": None}
    message = error.message if isinstance(error, CalotypeError) else f"{type(error).__name__}: {error}"
    return {"type": type(error).__name__, "message": message, "key": getattr(error, "key", None)}


def _raise_reported(report: Path, error: Exception) -> None:
    """Raise what the first process reported; else that it is gone."""
    if not report.is_file():
        name = getattr(error, "sigval", None)
        by = f"stopped by {signal.Signals(name).name}" if name is not None else "a process was killed"
        raise Interrupted(f"{by}; `--resume` continues from the last checkpoint") from error
    found = json.loads(report.read_text())
    if "type" not in found:
        return
    if found["type"] == "KeyboardInterrupt":
        raise KeyboardInterrupt from error
    kind = getattr(errors, found["type"], None)
    if isinstance(kind, type) and issubclass(kind, CalotypeError):
        raise kind(found["message"], key=found["key"]) from error
    raise CalotypeError(found["message"]) from error
