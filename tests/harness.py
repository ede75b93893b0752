"""Children that can really be killed: forked in milliseconds from one process that has imported torch and started no
thread.

That process is multiprocessing's fork server with `tests.warm` preloaded. A child trains as a user would, through
`calotype.train`. A plan of faults says what happens where: `after_step@3` is a SIGKILL at the third pass of that
point, `mid_write@2:disk` a full disk, `in_val@5:SIGTERM` a signal to the process itself, which may outlive it.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from calotype import faults

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])
KILLED = -signal.SIGKILL
INTERRUPTED = 75
HANGS = 15
"""Seconds that a plan's `hang` takes."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit code, what its function returned, `Type: message` of what it raised."""

    code: int
    value: Any
    error: str


def start(function: Callable[..., Any], *args: Any, env: dict[str, str] | None = None, pipe: Any = None) -> Any:
    """A child that runs `function(*args)` in a process group of its own; its exit code is the error's, if one is
    raised.
    """
    home = {name: os.environ[name] for name in ("CALOTYPE_HOME", "CALOTYPE_CACHE")}
    child = CONTEXT.Process(target=_run, args=(function, args, home | (env or {}), pipe))
    child.start()
    return child


def call(function: Callable[..., Any], *args: Any, timeout: float = 120, env: dict[str, str] | None = None) -> Outcome:
    """Run `function(*args)` in a child."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    child = start(function, *args, env=env, pipe=theirs)
    theirs.close()
    wait([ours, child.sentinel], timeout)  # not for the pipe's end alone: orphaned workers hold it for seconds
    value, error = None, ""
    with suppress(EOFError):
        value, error = ours.recv() if ours.poll() else (None, "")
    child.join(timeout)
    if child.is_alive():
        child.kill()
        child.join()
        raise TimeoutError(f"{function.__name__} took more than {timeout} s")
    return Outcome(int(child.exitcode), value, error)


def in_child(function: Callable[..., Any], *args: Any, timeout: float = 120, env: dict[str, str] | None = None) -> int:
    """Run `function(*args)` in a child; its exit code, negative for a signal."""
    return call(function, *args, timeout=timeout, env=env).code


def _run(function: Callable[..., Any], args: tuple[Any, ...], env: dict[str, str], pipe: Any) -> None:
    os.setpgid(0, 0)
    os.environ.update(env)
    # A child inherits how it was started; loader workers are forked, as in an ordinary run.
    multiprocessing.set_start_method("fork", force=True)
    value, error, code = None, "", 0
    try:
        value = function(*args)
    except KeyboardInterrupt:
        code = 130
    except Exception as raised:  # noqa: BLE001 - the code is what the test looks at
        traceback.print_exc()
        error, code = f"{type(raised).__name__}: {raised}", getattr(raised, "exit_code", 1)
    if pipe is not None:
        pipe.send((value, error))
    sys.exit(code)


def together(
    size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 120,
    only: Mapping[int, Mapping[str, str]] | None = None,
) -> list[Outcome]:
    """Run `function(*args)` as so many processes of one run, started as torchrun starts them; how each ended, by
    rank. A plan of faults is for one of them: `2/after_step@3` for the third; `only` is environment of some alone.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    common["LOCAL_WORLD_SIZE"] = str(size)
    envs = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank), **(only or {}).get(rank, {})} for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda env: call(function, *args, timeout=timeout, env=env), envs))


def hook(plan: str) -> Callable[[str], None]:
    """The hook of a plan: `point@n`, or `point@n:disk`, `point@n:hang`, or `point@n:` and the name of a signal; with
    `rank/` in front for one of several processes.
    """
    rank, slash, rest = plan.partition("/")
    if slash:
        return hook(rest) if os.environ.get("RANK", "0") == rank else lambda _: None
    where, _, action = plan.partition(":")
    if action != "hang" and not action.startswith("SIG"):
        return faults.planned(plan)
    name, _, count = where.partition("@")
    passes = 0

    def passing(point: str) -> None:
        nonlocal passes
        passes += point == name
        if point == name and passes == int(count) and action == "hang":
            time.sleep(HANGS)
        elif point == name and passes == int(count):
            os.kill(os.getpid(), signal.Signals[action])

    return passing


def train(config: str, plan: str = "", *overrides: str, **options: Any) -> None:
    """Train in this process with a plan of faults. For `in_child`."""
    import calotype

    if plan:
        faults.hook = hook(plan)
    calotype.train(config, *overrides, quiet=True, **options)


def train_aloud(config: str) -> None:
    """Train in this process with the config's trackers. For `call`."""
    import calotype

    calotype.train(config)


def resume(run: str, plan: str = "", allow_changed: Sequence[str] = ()) -> None:
    """Resume a run in this process. For `in_child`."""
    import calotype

    if plan:
        faults.hook = hook(plan)
    calotype.train(resume=run, quiet=True, allow_changed=allow_changed)


def passes(config: str) -> dict[str, int]:
    """Train in this process; how often each fault point was passed. For `call`."""
    counts: dict[str, int] = {}

    def count(point: str) -> None:
        counts[point] = counts.get(point, 0) + 1

    faults.hook = count
    train(config)
    return counts


def straight(config: str, runs: Path) -> Path:
    """Train from start to end; the run folder."""
    outcome = call(train, config)
    assert outcome.code == 0, outcome.error
    return only_run(runs)


def interrupted(config: str, runs: Path, plans: Sequence[str]) -> Path:
    """Train and resume with one plan after another, each of which must stop the run, then to the end; the run
    folder.
    """
    for number, plan in enumerate(plans):
        found = list(runs.glob("*/*/record.json"))
        code = in_child(resume, str(only_run(runs)), plan) if found else in_child(train, config, plan)
        wanted = INTERRUPTED if ":SIG" in plan else KILLED
        assert code == wanted, f"plan {number}, {plan}, ended with {code}"
    outcome = call(resume, str(only_run(runs)))
    assert outcome.code == 0, outcome.error
    return only_run(runs)


def only_run(runs: Path) -> Path:
    """The one run folder under `runs`."""
    (found,) = runs.glob("*/*/record.json")
    return found.parent


def lines(run: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The journal's steps, or its events of one kind."""
    found = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [line for line in found if line.get("event") == event]


def newest(run: Path) -> int:
    """The steps done in the newest whole checkpoint; 0 without one."""
    return max([0, *(int(folder.name[5:13]) for folder in (run / "checkpoints").glob("step-*"))])


def resumed_at(run: Path) -> list[int]:
    """The step of the checkpoint that each resume went on from."""
    return [entry["resumed_at"] for entry in json.loads((run / "record.json").read_text())["lineage"]]


def status(run: Path) -> dict[str, Any]:
    """The run's status file."""
    return dict(json.loads((run / "status.json").read_text()))


def last(run: Path) -> Path:
    """The folder of the last checkpoint."""
    return run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()


def final_hash(run: Path) -> str:
    """sha256 over the journal, the metrics and every byte of the last checkpoint."""
    digest = hashlib.sha256((run / "journal.jsonl").read_bytes())
    for file in sorted(last(run).iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    digest.update(json.dumps(status(run)["results"]).encode())
    return digest.hexdigest()


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` turns true within so many seconds."""
    return any(_each(condition, seconds))


def _each(condition: Callable[[], bool], seconds: float) -> Iterator[bool]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield condition()
        time.sleep(0.02)
    yield condition()


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
