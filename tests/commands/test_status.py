"""`calotype status` says how a run is doing and exits with its code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calotype import cli
from calotype.record.folder import RunFolder


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        ({"state": "done", "exit_code": 0, "step": 15, "total": 15}, 0, "done  step 15 of 15\n"),
        ({"state": "running", "exit_code": None, "step": 7, "total": 15}, 75, "killed  step 7 of 15\n"),
        ({"state": "interrupted", "exit_code": 130, "step": 7, "total": None}, 130, "interrupted  step 7 of ?\n"),
        ({"state": "failed", "exit_code": 3, "message": "no data"}, 3, "failed  step 0 of ?: no data\n"),
        ({}, 0, "unknown  step 0 of ?\n"),
    ],
)
def test_each_state(copy: Path, capfd: pytest.CaptureFixture[str], status: Any, code: int, told: str) -> None:
    (copy / "status.json").write_text(json.dumps(status))
    assert cli.main(["status", str(copy)]) == code
    assert capfd.readouterr().out.endswith(told)
    assert cli.main(["status", str(copy), "--json"]) == code
    assert json.loads(capfd.readouterr().out)["run"] == f"{copy.parent.name}/{copy.name}"


def test_a_run_that_a_process_holds_is_running(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(copy)
    folder.set_status("running", exit_code=None)
    with folder.locked():
        assert cli.main(["status", str(copy)]) == 0
    assert "running" in capfd.readouterr().out
    assert cli.main(["status", str(copy)]) == 75


def test_a_status_that_can_t_be_read_names_the_file(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (copy / "status.json").write_text('{"state": ')
    assert cli.main(["status", str(copy)]) == 1
    assert "status.json can't be read" in capfd.readouterr().err
