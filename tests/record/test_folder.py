"""A run folder has one holder at a time, is found by name, and says how its run is."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest

from calotype.errors import RunFolderError, UsageError
from calotype.record.folder import RunFolder
from tests import harness


def made(runs: Path, experiment: str, name: str) -> Path:
    path = runs / experiment / name
    path.mkdir(parents=True)
    (path / "record.json").write_text("{}")
    (path / "status.json").write_text("{}")
    return path


def test_a_new_folder_is_its_own(tmp_path: Path) -> None:
    one, two = (RunFolder.create(tmp_path / "runs", "digits") for _ in range(2))
    assert one.path != two.path and one.name == f"digits/{one.path.name}"
    assert [path.name for path in one.path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("blocked", ["runs", "runs/digits"])
def test_a_folder_below_a_file_is_refused(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    with pytest.raises(RunFolderError, match=r"can't write in .*; set paths\.runs"):
        RunFolder.create(tmp_path / "runs", "digits")


def test_a_disk_that_is_full_leaves_no_half_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        RunFolder.create(tmp_path / "runs", "digits")
    assert list((tmp_path / "runs" / "digits").iterdir()) == []


def test_runs_are_found_by_path_id_name_and_last(tmp_path: Path) -> None:
    old, new = made(tmp_path, "digits", "20260101-000000-aaaaaa"), made(tmp_path, "mnist", "20260102-000000-bbbbbb")
    for name in (old, old.name, f"digits/{old.name}"):
        assert RunFolder.find(name, tmp_path).path == old
    assert RunFolder.find("last", tmp_path).path == new
    os.utime(old / "record.json", (4e9, 4e9))
    assert RunFolder.find("last", tmp_path).path == new


def test_a_name_of_two_runs_or_of_none_is_refused(tmp_path: Path) -> None:
    for experiment in ("digits", "mnist"):
        made(tmp_path, experiment, "20260101-000000-aaaaaa")
    for name in ("20260101-000000-aaaaaa", "nonesuch"):
        with pytest.raises(UsageError, match=f"no run {name}: .*the newest: .*mnist/20260101-000000-aaaaaa"):
            RunFolder.find(name, tmp_path)
    with pytest.raises(UsageError, match="the newest: none"):
        RunFolder.find("last", tmp_path / "empty")


def _hold(path: str) -> None:
    with RunFolder(Path(path)).locked():
        Path(path, "held").write_text("")
        time.sleep(60)


def test_a_holder_keeps_others_out_until_it_dies(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "digits")
    folder.set_status("running")
    assert folder.status()["state"] == "killed"
    child = harness.start(_hold, str(folder.path))
    assert harness.until((folder.path / "held").exists, 30)
    with pytest.raises(RunFolderError, match=f"is in use by process {child.pid} on "), folder.locked():
        pass
    assert folder.in_use() and folder.status()["state"] == "running"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert folder.status() | {"updated": ""} == {"state": "killed", "exit_code": 75, "updated": ""}
    with folder.locked():
        pass


def _fork_and_hold(path: str) -> None:
    with RunFolder(Path(path)).locked():
        child = os.fork()
        if child == 0:
            os.setsid()
            time.sleep(30)
            os._exit(0)
        Path(path, "worker").write_text(str(child))
        Path(path, "held").write_text("")
        time.sleep(60)


def test_a_worker_that_outlives_its_run_doesn_t_hold_the_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "digits")
    child = harness.start(_fork_and_hold, str(folder.path))
    assert harness.until((folder.path / "held").exists, 30)
    worker = int((folder.path / "worker").read_text())
    try:
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        os.kill(worker, 0)
        with folder.locked():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_taking_the_folder_sweeps_what_a_kill_left(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "digits")
    (folder.path / ".tmp-status.json-12345678").write_text("{")
    with folder.locked():
        assert not list(folder.path.glob(".tmp-*"))


def test_a_status_keeps_what_is_not_given(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "digits")
    folder.set_status("done", step=3, exit_code=0)
    folder.set_status("failed", exit_code=1)
    assert folder.status()["step"] == 3 and folder.status()["exit_code"] == 1


@pytest.mark.parametrize("text", ["", "[1", json.dumps([1, 2])])
def test_a_record_that_can_t_be_read_is_named(tmp_path: Path, text: str) -> None:
    path = made(tmp_path, "digits", "x")
    (path / "record.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"record\.json can't be read"):
        RunFolder(path).record()
