"""`calotype runs` lists what was run, in the order asked for; a damaged run doesn't stop it, many are no wait."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from calotype import cli
from calotype.commands.runs import board, table
from calotype.errors import UsageError
from calotype.record.folder import RunFolder
from tests import harness

NEEDED = {"config_digest": "0", "seed": 0, "code": {}, "packages": {}, "machine": {}, "frozen": {}, "lineage": []}
NOW = 1767225600.0  # 2026-01-01


def make(runs: Path, name: str, value: float | None, **status: Any) -> Path:
    """A run folder of a given best value of val/loss."""
    path = runs / name
    path.mkdir(parents=True)
    best = None if value is None else {"monitor": "val/loss", "step": 3, "maximise": False, "value": value}
    found = {"state": "done", "exit_code": 0, "step": 4, "total": 4, "best": best, "results": {"val/loss": 9.0}}
    (path / "status.json").write_text(json.dumps(found | status))
    (path / "record.json").write_text(json.dumps(NEEDED | {"created": "2025-12-31T22:00:00+00:00"}))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make(tmp_path, "a/20260101-1", 0.5, results={"val/loss": 9.0, "test/accuracy": 0.75})
    make(tmp_path, "a/20260103-3", 0.25, results={"val/loss": 0.25, "test/accuracy": 0.5})
    make(tmp_path, "b/20260102-2", None, state="failed", step=1, total=None, message="no data", results={})
    (tmp_path / "a" / "no-run").mkdir()
    (tmp_path / "a" / "file").touch()
    return tmp_path


def names(found: Any) -> list[str]:
    return [row.run[-1] for row in found]


def test_the_newest_come_first(runs: Path) -> None:
    assert names(board(runs)) == ["3", "2", "1"]
    assert names(board(runs, experiment="a")) == ["3", "1"]
    assert table(board(runs), NOW).splitlines() == [
        "run         experiment  state   steps  best                  test/accuracy  age",
        "20260103-3  a           done    4/4    val/loss 0.2500 at 3  0.5000         2 h",
        "20260102-2  b           failed  1/?    -                     -              2 h",
        "20260101-1  a           done    4/4    val/loss 0.5000 at 3  0.7500         2 h",
    ]


@pytest.mark.parametrize(("metric", "order"), [("val/loss", "312"), ("test/accuracy", "132")])
def test_the_best_come_first_and_what_has_no_value_last(runs: Path, metric: str, order: str) -> None:
    make(runs, "b/20260104-4", float("nan"), results={"test/accuracy": "nan"})
    assert names(board(runs, sort=metric))[:2] == list(order[:2])
    assert set(names(board(runs, sort=metric))[2:]) == {"2", "4"}


def test_a_monitor_is_sorted_as_its_run_took_it(tmp_path: Path) -> None:
    for number, value in enumerate((0.1, 0.9)):
        best = {"monitor": "val/loss", "step": 1, "maximise": True, "value": value}
        make(tmp_path, f"a/{number}", None, best=best)
    assert names(board(tmp_path, sort="val/loss")) == ["1", "0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experiment": "aa"}, "no run of aa under .*; did you mean a?"),
        ({"sort": "test/accurac"}, "--sort test/accurac: no run has measured it; did you mean test/accuracy?"),
        ({"sort": "QQ"}, "there are test/accuracy, val/loss"),
        ({"runs": "absent"}, "absent is no folder of runs; name it with --runs DIR"),
    ],
)
def test_what_is_not_there_is_said(runs: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        board(**{"runs": runs} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("status.json", '{"state": ', "status.json can't be read"),
        ("status.json", '{"results": [1]}', "status.json is no status"),
        ("status.json", '{"results": {"a": "much"}}', "status.json is no status"),
        ("status.json", '{"updated": "soon"}', "status.json is no status"),
        ("record.json", "{}", "record.json is no record"),
        ("record.json", None, "record.json can't be read"),
        ("status.json", None, "status.json can't be read"),
    ],
)
def test_a_damaged_run_is_a_row_and_hides_no_other(
    runs: Path, file: str, text: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs / "a" / "20260103-3" / file
    path.unlink() if text is None else path.write_text(text)
    row = board(runs)[0]
    assert row.state == "damaged" and names(board(runs)) == ["3", "2", "1"]
    assert message in str(row.message)
    assert cli.main(["runs", "--runs", str(runs), "--sort", "val/loss"]) == 0
    out = capsys.readouterr().out
    assert "20260103-3  a           damaged" in out and out.splitlines()[-1].startswith("20260103-3: ")


def test_names_move_no_cursor(tmp_path: Path) -> None:
    make(tmp_path, "a\x1b[2J/x\rdone", 1.0, results={"test/\x1b[31m": 1.0})
    text = table(board(tmp_path))
    assert "\x1b" not in text and "\r" not in text and r"a\x1b[2J" in text


def test_json_has_what_the_table_has_and_numbers_that_json_can_hold(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(runs, "b/20260104-4", float("nan"), results={"test/accuracy": "inf"})
    assert cli.main(["runs", "--runs", str(runs), "--json"]) == 0
    first, second, *_ = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["runs"]
    assert (first["best"], first["metrics"]) == ("nan", {"test/accuracy": "inf"})
    assert (second["run"], second["best"], second["best_step"], second["total"]) == ("20260103-3", 0.25, 3, 4)


def test_a_real_run_says_what_was_best(finished: Path) -> None:
    (row,) = board(finished.parent.parent)
    losses = {
        line["step"]: float.fromhex(line["metrics"]["loss"])
        for line in harness.lines(finished, "evaluation")
        if line["split"] == "val"
    }
    assert row.best == min(losses.values()) and losses[row.best_step or 0] == row.best
    assert (row.state, row.step, row.total, row.monitor, row.maximise) == ("done", 15, 15, "val/loss", False)
    assert row.metrics == RunFolder(finished).status()["results"]


def test_a_thousand_runs_take_well_under_two_seconds_and_no_torch(finished: Path, tmp_path: Path) -> None:
    record, status = ((finished / name).read_text() for name in ("record.json", "status.json"))
    for number in range(1000):
        path = tmp_path / f"e{number % 10}" / f"{number:04d}"
        path.mkdir(parents=True)
        (path / "record.json").write_text(record)
        (path / "status.json").write_text(status)
        (path / "lock").touch()
    code = f"import sys; from calotype.cli import main; main(['runs', '--runs', '{tmp_path}'])"
    code += "; sys.exit('torch' in sys.modules)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 2
    assert len(done.stdout.splitlines()) == 1001
