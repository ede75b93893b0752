"""torchrun as others use it: it restarts a run, a queue does, agents on several nodes meet; the bits stay those of one
process.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.launched import CALOTYPE, TORCHRUN, all_gone, ranks_of, started, under_way
from tests.toys.configs import toy, write

EPOCHS = 24
"""Long enough to be stopped three times."""


def configured(folder: Path, root: Path, **trainer: Any) -> tuple[str, Path]:
    """A config that is trained for a while, and its folder of runs."""
    folder.mkdir(exist_ok=True)
    tree = toy("classification", root, folder / "runs", trainer=trainer, data={"workers": 1})
    return write(tree, folder / "config.yaml"), folder / "runs"


def hash_of_straight(folder: Path, root: Path, **trainer: Any) -> str:
    """The bits of the run by one process."""
    return harness.final_hash(harness.straight(*configured(folder / "straight", root, **trainer)))


@pytest.mark.guarantee(
    "torchrun --max-restarts goes on with a run whose process was killed, in the same folder and bits",
    condition="--resume auto; CPU, trainer.reduce=exact",
)
@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_restarts(rank: int, parity_root: Path, tmp_path: Path) -> None:
    config, runs = configured(tmp_path / "restarted", parity_root, max_epochs=EPOCHS)
    agent = [*TORCHRUN, "--standalone", "--max-restarts=3", "--nproc_per_node=2"]
    with started([*agent, "-m", "calotype", "train", "--resume", "auto", config]) as child:
        assert under_way(runs, 4), child.stderr
        (victim,) = [pid for pid in ranks_of(runs.parent, rank) if pid != child.pid]
        os.kill(victim, signal.SIGKILL)
        _, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    assert all_gone(runs.parent, 10)
    run = harness.only_run(runs)
    assert harness.status(run)["state"] == "done" and len(harness.resumed_at(run)) == 1
    assert harness.final_hash(run) == hash_of_straight(tmp_path, parity_root, max_epochs=EPOCHS)


@pytest.mark.guarantee(
    "A requeue loop with --resume auto ends in the same bits, and once more changes nothing",
    condition="SIGTERM each time; two processes",
)
@pytest.mark.long
def test_a_requeue_loop(parity_root: Path, tmp_path: Path) -> None:
    config, runs = configured(tmp_path / "requeued", parity_root, max_epochs=EPOCHS)
    command, lives = [*CALOTYPE, "train", "--resume", "auto", config, "trainer.devices=2"], 0
    code = harness.INTERRUPTED
    while code == harness.INTERRUPTED:
        lives += 1
        with started(command) as child:
            assert harness.until(partial(further, child, runs, 30 * lives), 90)
            child.send_signal(signal.SIGTERM)
            _, stderr = child.communicate(timeout=60)
        code = child.returncode
        assert code in {0, harness.INTERRUPTED}, stderr
    run = harness.only_run(runs)
    assert lives > 2 and len(harness.resumed_at(run)) == lives - 1
    assert harness.final_hash(run) == hash_of_straight(tmp_path, parity_root, max_epochs=EPOCHS)
    before = contents(run)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "done after" in done.stderr, done.stderr
    assert contents(harness.only_run(runs)) == before
    assert all_gone(runs.parent, 10)


def further(child: subprocess.Popen[str], runs: Path, steps: int) -> bool:
    """Whether a run has come so far, or ended."""
    return under_way(runs, steps, 0) or child.poll() is not None


def contents(run: Path) -> dict[str, str]:
    """A digest of every file of a run but the lock, which says who held it last."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- two agents


def two_agents(config: str, *arguments: str) -> list[list[str]]:
    """The commands of two nodes with a process each, which meet on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--local-addr=127.0.0.1"]
    agent = [*TORCHRUN, "--nnodes=2", "--nproc_per_node=1", *meeting, "-m", "calotype", "train", config, *arguments]
    return [agent, agent]


@pytest.mark.guarantee(
    "Two agents of torchrun give the bits of one process",
    condition="c10d rendezvous on loopback; CPU, trainer.reduce=exact",
)
@pytest.mark.long
def test_two_agents_and_one_process_have_the_same_bits(parity_root: Path, tmp_path: Path) -> None:
    config, runs = configured(tmp_path / "nodes", parity_root, threads="auto")
    with ExitStack() as stack:
        agents = [stack.enter_context(started(command)) for command in two_agents(config)]
        told = [agent.communicate(timeout=120)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    run = harness.only_run(runs)
    assert harness.final_hash(run) == hash_of_straight(tmp_path, parity_root, threads="auto")
    frozen = json.loads((run / "record.json").read_text())["frozen"]
    assert frozen["devices"] == 2
    assert frozen["threads"] == len(os.sched_getaffinity(0)), "each node has its cores to itself"


@pytest.mark.long
@pytest.mark.parametrize("asked", [0, 1])
def test_two_agents_of_which_one_is_asked_to_stop(asked: int, parity_root: Path, tmp_path: Path) -> None:
    config, runs = configured(tmp_path / "nodes", parity_root, max_epochs=EPOCHS)
    with ExitStack() as stack:
        agents = [stack.enter_context(started(command)) for command in two_agents(config)]
        assert under_way(runs, 4)
        began = time.monotonic()
        agents[asked].send_signal(signal.SIGTERM)
        told = [agent.communicate(timeout=90)[1] for agent in agents]
        assert time.monotonic() - began < 30
    assert [agent.returncode for agent in agents] == [1, 1], told
    assert all_gone(runs.parent, 5)
    run = harness.only_run(runs)
    status = harness.status(run)
    assert (status["state"], status["exit_code"]) == ("interrupted", harness.INTERRUPTED)
    assert f"stopped by SIGTERM after step {status['step'] - 1}" in status["message"]
    outcomes = harness.together(2, harness.resume, str(run))
    assert [found.code for found in outcomes] == [0, 0], outcomes
    assert harness.final_hash(run) == hash_of_straight(tmp_path, parity_root, max_epochs=EPOCHS)
