"""Several processes as a user starts them: by `trainer.devices`, by torchrun; how they end, and that all of them do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import calotype
from calotype.cli import main
from calotype.commands._signals import ECHO
from calotype.commands.verify import verify
from tests import harness, launched
from tests.launched import CALOTYPE, ROOT, TORCHRUN, processes_of, ranks_of
from tests.toys.configs import toy, write

STARTS = {
    "devices": [*CALOTYPE, "train", "trainer.devices=2"],
    "torchrun": [*TORCHRUN, "--standalone", "--nproc_per_node=2", "-m", "calotype", "train"],
}


def started(how: str, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """The command, in one of the ways to start it."""
    return launched.started([*STARTS[how], *arguments])


@pytest.mark.guarantee(
    "`calotype verify` proves on one process what several computed", condition="trainer.reduce=exact"
)
@pytest.mark.parametrize("how", ["torchrun", pytest.param("devices", marks=pytest.mark.long)])
def test_a_run_by_two_processes(how: str, parity_root: Path, tmp_path: Path) -> None:
    config = write(toy("classification", parity_root, tmp_path / "runs"), tmp_path / "config.yaml")
    with started(how, config, "--json") as child:
        stdout, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    told = json.loads(stdout)
    assert told["state"] == "done" and told["step"] == 15
    run = harness.only_run(tmp_path / "runs")
    assert Path(told["folder"]) == run
    assert harness.status(run)["exit_code"] == 0
    verdict = verify(run)
    assert verdict.equal and verdict.whole, verdict
    assert not {"config", "data", "packages"} & set(verdict.changed), verdict.changed


@pytest.mark.parametrize(("env", "code"), [({"RANK": "0", "WORLD_SIZE": "1"}, 0), ({}, -signal.SIGABRT)])
def test_a_process_of_several_leaves_the_interpreter_up(
    env: dict[str, str], code: int, parity_root: Path, tmp_path: Path
) -> None:
    """Torch's threads, which would abort it, may outlive the process group. What was told comes through."""
    transforms = [{"_target_": "tests.toys.faulty.AbortsAtTheEnd"}]
    tree = toy("classification", parity_root, tmp_path / "runs", data={"train_transforms": transforms})
    config = write(tree, tmp_path / "config.yaml")
    with launched.started([*CALOTYPE, "train", config, "--json"], env) as child:
        stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == code, stderr
    assert json.loads(stdout)["step"] == 15


@pytest.mark.guarantee(
    "SIGTERM and SIGUSR1 stop all processes of a run after the same step, with a checkpoint",
    condition="sent to torchrun or to the process that started the others; loader workers are no orphans",
)
@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("devices", "SIGTERM"),
        pytest.param("devices", "SIGUSR1", marks=pytest.mark.long),
        pytest.param("torchrun", "SIGTERM", marks=pytest.mark.long),
    ],
)
def test_asked_to_stop(how: str, number: str, parity_root: Path, tmp_path: Path) -> None:
    tree = toy("classification", parity_root, tmp_path / "runs", trainer={"max_epochs": 5000}, data={"workers": 1})
    config = write(tree, tmp_path / "config.yaml")
    with started(how, config) as child:
        assert harness.until(lambda: bool(list(tmp_path.glob("runs/*/*/checkpoints/last"))), 60)
        began = time.monotonic()
        child.send_signal(signal.Signals[number])
        _, stderr = child.communicate(timeout=60)
        assert time.monotonic() - began < 15
    assert child.returncode == (75 if how == "devices" else 1), stderr
    run = harness.only_run(tmp_path / "runs")
    status = harness.status(run)
    assert (status["state"], status["exit_code"]) == ("interrupted", 75)
    assert harness.newest(run) == status["step"] == len(harness.lines(run))
    assert harness.until(lambda: not processes_of(tmp_path), 5), processes_of(tmp_path)
    told = f"stopped by {number} after step {status['step'] - 1}"
    assert stderr.count(told) == 1, stderr
    assert how == "torchrun" or "Traceback" not in stderr, stderr


@pytest.mark.guarantee(
    "A run by several processes leaves no orphan",
    condition="Linux; what started its processes got SIGKILL, or, where that was no torchrun, a second signal",
)
@pytest.mark.parametrize(
    ("how", "numbers", "code"),
    [
        pytest.param("devices", ["SIGKILL"], -9, marks=pytest.mark.long),
        pytest.param("devices", ["SIGINT", "SIGINT"], 130, marks=pytest.mark.long),
        pytest.param("devices", ["SIGTERM", "SIGTERM"], 75, marks=pytest.mark.long),
        pytest.param("torchrun", ["SIGKILL"], -9, marks=pytest.mark.long),
    ],
)
def test_what_started_the_others_leaves_at_once(
    how: str, numbers: list[str], code: int, parity_root: Path, tmp_path: Path
) -> None:
    """With one process that can't obey, so that it would not end by itself."""
    slow = {"max_epochs": 5000, "log_every_n_steps": 1}
    tree = toy("classification", parity_root, tmp_path / "runs", trainer=slow, data={"workers": 1})
    config = write(tree, tmp_path / "config.yaml")
    with started(how, config) as child:
        assert harness.until(lambda: bool(list(tmp_path.glob("runs/*/*/checkpoints/last"))), 60)
        (first,) = [pid for pid in ranks_of(tmp_path, 0) if pid != child.pid]
        os.kill(first, signal.SIGSTOP)
        for number in numbers:
            child.send_signal(signal.Signals[number])
            time.sleep(ECHO + 0.1 if number == "SIGTERM" else 0.5)
        assert child.wait(5) == code
        assert harness.until(lambda: not processes_of(tmp_path), 10), processes_of(tmp_path)
        _, stderr = child.communicate()
    assert "SIGKILL" in numbers or "Traceback" not in stderr, stderr
    run = harness.only_run(tmp_path / "runs")
    done = harness.newest(run)
    calotype.train(f"trainer.max_steps={done + 2}", resume=run, allow_changed=["config"], quiet=True)
    assert len(harness.lines(run)) == done + 2


@pytest.mark.parametrize(
    ("how", "rank"),
    [
        ("torchrun", 1),
        pytest.param("devices", 0, marks=pytest.mark.long),
        pytest.param("devices", 1, marks=pytest.mark.long),
        pytest.param("torchrun", 0, marks=pytest.mark.long),
    ],
)
def test_a_process_is_killed(how: str, rank: int, parity_root: Path, tmp_path: Path) -> None:
    tree = toy("classification", parity_root, tmp_path / "runs", trainer={"max_epochs": 5000}, data={"workers": 1})
    config = write(tree, tmp_path / "config.yaml")
    with started(how, config) as child:
        assert harness.until(lambda: bool(list(tmp_path.glob("runs/*/*/checkpoints/last"))), 60)
        (victim,) = [pid for pid in ranks_of(tmp_path, rank) if pid != child.pid]
        os.kill(victim, signal.SIGKILL)
        _, stderr = child.communicate(timeout=60)
    assert child.returncode == (75 if how == "devices" else 1), stderr
    assert harness.until(lambda: not processes_of(tmp_path), 10), processes_of(tmp_path)
    assert how == "torchrun" or ("`--resume` continues" in stderr and "Traceback" not in stderr), stderr
    status = subprocess.run(
        [sys.executable, "-m", "calotype", "status", str(harness.only_run(tmp_path / "runs"))],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert status.returncode == 75


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["trainer.devices=3", "trainer.accelerator=cpu"], 2, "trainer.devices: 3 is no power of two"),
        (["trainer.devices=2", "trainer.shards=1"], 2, "2 processes can't share 1 shards evenly"),
        (["trainer.devices=2", "paths.data=/nowhere"], 3, "/nowhere"),
    ],
)
def test_a_mistake_is_told_once(arguments: list[str], code: int, told: str, parity_root: Path, tmp_path: Path) -> None:
    config = write(toy("classification", parity_root, tmp_path / "runs"), tmp_path / "config.yaml")
    with started("devices", config, *arguments) as child:
        stdout, stderr = child.communicate(timeout=120)
    assert (child.returncode, stdout) == (code, "")
    assert stderr.count(told) == 1 and stderr.count("calotype: ") == 1, stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob("runs/*/*/record.json"))


@pytest.mark.long
def test_what_all_fail_with_is_told_once(parity_root: Path, tmp_path: Path) -> None:
    """And has its own exit code, though what launched the processes ends them as soon as one has left."""
    config = write(toy("classification", parity_root, tmp_path / "runs"), tmp_path / "config.yaml")
    with started("devices", config, "module.optimizer.lr=1e30") as child:
        _, stderr = child.communicate(timeout=120)
    assert child.returncode == 1, stderr
    assert stderr.count("nothing was updated by it or after it") == 1 and "Traceback" not in stderr, stderr


@pytest.mark.parametrize("how", [pytest.param(how, marks=pytest.mark.long) for how in STARTS])
def test_one_process_is_asked_to_stop(how: str, parity_root: Path, tmp_path: Path) -> None:
    tree = toy("classification", parity_root, tmp_path / "runs", trainer={"max_epochs": 5000}, data={"workers": 1})
    with started(how, write(tree, tmp_path / "config.yaml")) as child:
        assert harness.until(lambda: bool(list(tmp_path.glob("runs/*/*/checkpoints/last"))), 60)
        (one,) = [pid for pid in ranks_of(tmp_path, 1) if pid != child.pid]
        os.kill(one, signal.SIGTERM)
        _, stderr = child.communicate(timeout=60)
    status = harness.status(harness.only_run(tmp_path / "runs"))
    assert (status["state"], status["exit_code"]) == ("interrupted", 75)
    assert child.returncode == (75 if how == "devices" else 1), stderr
    assert stderr.count(f"stopped by SIGTERM after step {status['step'] - 1}") == 1, stderr


def test_from_python(parity_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = write(toy("classification", parity_root, tmp_path / "runs"), tmp_path / "config.yaml")
    result = calotype.train(config, "trainer.devices=2", quiet=True)
    assert result.state == "done" and result.metrics == harness.status(result.folder)["results"]
    assert result.best is not None and result.tested == "best"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.long
@pytest.mark.guarantee(
    "`calotype verify --devices W` proves by several processes what one computed", condition="trainer.reduce=exact"
)
def test_verified_by_two(parity_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In two stretches, the second in fresh objects from what the first saved."""
    config = write(toy("classification", parity_root, tmp_path / "runs", trainer={"shards": 4}), tmp_path / "c.yaml")
    run = calotype.train(config, quiet=True).folder
    assert main(["verify", str(run), "--devices=2", "--resume-at=7", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["equal"] and told["whole"] and told["steps"] == 15, told
    journal = run / "journal.jsonl"
    altered = journal.read_text().replace('"step":3,"epoch":0,"ids":"', '"step":3,"epoch":0,"ids":"f')
    journal.write_text(altered)
    found = verify(run, steps=5, devices=2)
    assert found.difference is not None and (found.difference.step, found.difference.what) == (3, "sample ids")
