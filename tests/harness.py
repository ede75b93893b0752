"""Children that can really be killed: forked in milliseconds from one process that has imported torch and started no
thread.

That process is multiprocessing's fork server with `tests.warm` preloaded. A child trains as a user would, through
`calotype.train`; a plan of faults (`after_step@3`, `mid_write@2:disk`) says where it is killed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calotype import faults

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])
KILLED = -signal.SIGKILL


def start(function: Callable[..., Any], *args: Any, env: dict[str, str] | None = None) -> Any:
    """A child that runs `function(*args)` in a process group of its own; its exit code is the error's, if one is
    raised.
    """
    child = CONTEXT.Process(
        target=_run, args=(function, args, {"CALOTYPE_HOME": os.environ["CALOTYPE_HOME"]} | (env or {}))
    )
    child.start()
    return child


def in_child(function: Callable[..., Any], *args: Any, timeout: float = 120, env: dict[str, str] | None = None) -> int:
    """Run `function(*args)` in a child; its exit code, negative for a signal."""
    child = start(function, *args, env=env)
    child.join(timeout)
    if child.is_alive():
        child.kill()
        child.join()
        raise TimeoutError(f"{function.__name__} took more than {timeout} s")
    return int(child.exitcode)


def _run(function: Callable[..., Any], args: tuple[Any, ...], env: dict[str, str]) -> None:
    os.setpgid(0, 0)
    os.environ.update(env)
    try:
        function(*args)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the code is what the test looks at
        traceback.print_exc()
        sys.exit(getattr(error, "exit_code", 1))


def train(config: str, plan: str = "", *overrides: str, **options: Any) -> None:
    """Train in this process with a plan of faults. For `in_child`."""
    import calotype

    if plan:
        faults.hook = faults.planned(plan)
    calotype.train(config, *overrides, quiet=True, **options)


def resume(run: str, plan: str = "") -> None:
    """Resume a run in this process. For `in_child`."""
    import calotype

    if plan:
        faults.hook = faults.planned(plan)
    calotype.train(resume=run, quiet=True)


def only_run(runs: Path) -> Path:
    """The one run folder under `runs`."""
    (found,) = runs.glob("*/*/record.json")
    return found.parent


def final_hash(run: Path) -> str:
    """sha256 over the journal, the metrics and every byte of the last checkpoint."""
    digest = hashlib.sha256((run / "journal.jsonl").read_bytes())
    last = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    for file in sorted(last.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    digest.update(json.dumps(json.loads((run / "status.json").read_text())["results"]).encode())
    return digest.hexdigest()
