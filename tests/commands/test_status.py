"""`calotype status` says how a run is doing and exits with its code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype import cli
from calotype.commands.status import runs_folder
from calotype.errors import ConfigError, UsageError
from calotype.record.folder import RunFolder
from tests import harness
from tests.runs import config
from tests.toys.classification import ToyClassification


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


# --- a run that has nothing yet


@pytest.fixture(scope="module")
def failed(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that failed at its first step."""
    folder = tmp_path_factory.mktemp("failed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyClassification, "forward", lambda self, shard, counts: shard["mask"])
        with pytest.raises(ConfigError, match="the first step failed"):
            calotype.train(config(parity_root, folder), quiet=True)
    return harness.only_run(folder / "runs")


@pytest.mark.parametrize(
    ("verb", "code", "told"),
    [
        ("status", 2, "{name}  failed  step 0 of "),
        ("evaluate", 4, "{name} has no checkpoint: its state is failed, at step 0 ("),
        ("verify", 2, "{name} has no step to compare: its state is failed, at step 0 ("),
    ],
)
def test_a_run_that_failed_at_its_first_step_is_named_with_what_to_do(
    failed: Path, capfd: pytest.CaptureFixture[str], verb: str, code: int, told: str
) -> None:
    assert cli.main([verb, "last", "--runs", str(failed.parent.parent)]) == code
    out = "".join(capfd.readouterr())
    assert told.format(name=f"{failed.parent.name}/{failed.name}") in out and "the first step failed" in out
    assert "Traceback" not in out and (verb == "status" or "start a new run with `calotype train`" in out)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("killed", "was killed at step 3; go on with it by `calotype train --resume "),
        ("interrupted", "was interrupted at step 3; go on with it by `calotype train --resume "),
        ("running", "is running, at step 3; wait for it"),
    ],
)
def test_a_run_that_may_still_come_to_something_says_so(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], state: str, told: str
) -> None:
    monkeypatch.setattr(RunFolder, "status", lambda _: {"state": state, "step": 3})
    (copy / "journal.jsonl").unlink()
    (copy / "checkpoints").rename(copy / "gone")
    for verb in ("evaluate", "verify"):
        assert cli.main([verb, str(copy)]) in (2, 4)
        assert told in capfd.readouterr().err


# --- the newest run of a config


def test_auto_is_the_run_that_a_resume_would_go_on_with(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recorded, runs = str(copy / "config.yaml"), f"paths.runs={copy.parent.parent}"
    other = copy.parent / "99990101-000000-ffffff"
    shutil.copytree(copy, other)
    record = json.loads((other / "record.json").read_text())
    (other / "record.json").write_text(json.dumps(record | {"config_digest": "0" * 64}))
    (copy / "status.json").write_text('{"state": "interrupted", "exit_code": 75}')
    assert cli.main(["status", "auto", recorded, runs]) == 75
    assert copy.name in capfd.readouterr().out
    assert cli.main(["status", "last", runs]) == 0
    assert other.name in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["auto", "{config}", "{runs}", "seed=99"], "there is no run of this config under {folder}"),
        (["auto", "{config}", "--runs", "x"], "--runs x: with the word auto it is paths.runs=x"),
        (["auto", "{config}", "trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
        (["last", "{runs}", "seed=1"], "seed=1 goes with the word auto: calotype status auto seed=1"),
    ],
)
def test_what_auto_has_no_answer_to(
    copy: Path, arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    known = {"config": copy / "config.yaml", "runs": f"paths.runs={copy.parent.parent}", "folder": copy.parent}
    assert cli.main(["status", *(text.format(**known) for text in arguments)]) == 2
    assert told.format(**known) in capfd.readouterr().err


# --- where runs are


@pytest.mark.parametrize("verb", ["evaluate", "verify"])
def test_paths_runs_names_the_folder_too(finished: Path, capfd: pytest.CaptureFixture[str], verb: str) -> None:
    runs, rest = finished.parent.parent, ["--steps", "2"] if verb == "verify" else []
    assert cli.main([verb, "last", f"paths.runs={runs}", *rest]) == 0
    assert cli.main([verb, "last", f"paths.runs={runs}", "--runs", str(runs), *rest]) == 0
    capfd.readouterr()
    assert cli.main([verb, "last", f"paths.runs={runs}", "--runs", "elsewhere", *rest]) == 2
    assert f"--runs elsewhere and paths.runs={runs} are two folders; give one of them" in capfd.readouterr().err


def test_where_runs_are(tmp_path: Path) -> None:
    assert runs_folder(None) == runs_folder(None, ["seed=3"]) == Path("runs")
    assert runs_folder("there", ["paths.data=here"]) == Path("there")
    assert runs_folder(None, ["++paths.runs=there"]) == runs_folder("./there", ["paths.runs=there"]) == Path("there")
    with pytest.raises(UsageError, match="two folders"):
        runs_folder("here", ["paths.runs=there"])


def test_a_code_that_is_no_number_is_told_as_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "status.json").write_text('{"state": "done", "exit_code": "x"}')
    assert cli.main(["status", str(tmp_path)]) == 1
    assert "status.json is no status: its exit_code is 'x'" in capsys.readouterr().err
