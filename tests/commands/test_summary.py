"""What `calotype train` says at the end: each thing once, and which value is which."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype import cli, faults
from tests import harness
from tests.runs import config

WATCHED = {"console": {"_target_": "calotype.tracking.console.Console"}}
FADING = {"module": {"optimizer": {"_target_": "torch.optim.SGD", "lr": 30.0}, "lr_scheduler": None}}
"""Learns nothing, and unlearns what it has: the best step isn't the last."""


def said(parity_root: Path, folder: Path, capfd: pytest.CaptureFixture[str], **sections: Any) -> tuple[Any, str]:
    sections["trainer"] = {"max_epochs": 3, "ema": None} | sections.get("trainer", {})
    result = calotype.train(config(parity_root, folder, tracking=WATCHED, **sections))
    captured = capfd.readouterr()
    assert captured.out == ""
    return result, captured.err


def test_the_end_says_each_thing_once_and_which_value_is_which(
    parity_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result, told = said(parity_root, tmp_path, capfd, **FADING)
    scores = {line["step"]: line["metrics"]["loss"] for line in harness.lines(result.folder, "evaluation")[:3]}
    best = min(scores, key=lambda step: float.fromhex(scores[step]))
    assert best < 15, "otherwise nothing is tested here"
    assert (result.best.step, result.best.value, result.best.monitor) == (best, float.fromhex(scores[best]), "val/loss")
    end = told[told.index("done after") :].splitlines()
    assert end[0] == "done after 15 steps"
    assert re.fullmatch(r"  last  step 15  val/loss \S+  val/accuracy \S+", end[1])
    assert end[2] == f"  best  step {best}  val/loss {result.best.value:.4g}"
    assert re.fullmatch(r"  test  of best  test/loss \S+  test/accuracy \S+", end[3])
    assert end[4:] == [f"run folder {result.folder}"]
    assert told.count("done") == 1 and told.count("test/accuracy") == 1
    assert calotype.train(resume=result.folder) == result
    assert capfd.readouterr().err == "\n".join([*end, ""])


@pytest.mark.parametrize(
    ("sections", "rows"),
    [
        ({"trainer": {"test": "last"}}, ["  last  step 15", "  best  step", "  test  of last  test/loss"]),
        ({"trainer": {"test": None}}, ["  last  step 15", "  best  step"]),
        (
            {"trainer": {"test": "last"}, "checkpoint": {"keep_best": 0}},
            ["  last  step 15", "  test  of last  test/loss"],
        ),
        ({"trainer": {"max_epochs": None, "max_steps": 1}}, ["  last  step 1 ", "  best  step 1 ", "  test  of best "]),
    ],
)
def test_the_end_says_what_there_is(
    parity_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], sections: Any, rows: list[str]
) -> None:
    result, told = said(parity_root, tmp_path, capfd, **sections)
    first, *found, last = told[told.index("done after") :].splitlines()
    assert first == ("done after 1 step" if result.step == 1 else "done after 15 steps")
    assert len(found) == len(rows) and all(map(str.startswith, found, rows)), found
    assert last == f"run folder {result.folder}"
    assert (result.best is None) == ("checkpoint" in sections)


def test_a_score_that_is_no_number_is_no_best(
    parity_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = {"_target_": "tests.commands.test_summary.NaNInVal"}
    result, told = said(parity_root, tmp_path, capfd, module=module, trainer={"max_epochs": 1})
    assert result.best is None and result.tested == "last"
    assert "  last  step 5  val/loss nan" in told and "  test  of last  test/loss nan" in told
    again = calotype.train(resume=result.folder)
    assert again.metrics["val/loss"] != again.metrics["val/loss"]
    assert cli.main(["train", "--resume", str(result.folder), "--json"]) == 0
    assert json.loads(capfd.readouterr().out, parse_constant=pytest.fail)["metrics"]["val/loss"] == "nan"


def NaNInVal() -> Any:  # noqa: N802 - a target
    """The toy whose loss is a number in training alone."""
    from tests.toys.classification import ToyClassification

    class Task(ToyClassification):
        def forward(self, shard: Any, counts: Any) -> Any:
            loss = super().forward(shard, counts)
            if self.training:
                return loss
            bad = {name: replace(term, sum=term.sum * float("nan")) for name, term in loss.terms.items()}
            return replace(loss, terms=bad)

    return Task()


@pytest.mark.parametrize(("name", "state", "code"), [("SIGTERM", "interrupted", 75), ("SIGINT", "interrupted", 130)])
def test_a_run_that_was_stopped_says_so_once(
    parity_root: Path, tmp_path: Path, name: str, state: str, code: int
) -> None:
    outcome = harness.call(
        _aloud, config(parity_root, tmp_path, tracking=WATCHED), f"after_step@7:{name}", str(tmp_path)
    )
    assert outcome.value == code
    told = (tmp_path / "told").read_text()
    (run,) = tmp_path.glob("runs/*/*")
    ends = [line for line in told.splitlines() if f"{run.name} {state} after 7 steps" in line]
    assert len(ends) == 1 and told.count(state) == 1 and "done" not in told
    assert told.count("`--resume` continues") == 1


def _aloud(file: str, plan: str, folder: str) -> int:
    faults.hook = harness.hook(plan)
    with (Path(folder) / "told").open("w") as stream, contextlib.redirect_stderr(stream):
        return cli.main(["train", file])


def test_metrics_of_many_single_classes_stay_in_the_files() -> None:
    from calotype.commands.train import Result, summary

    def told(classes: int) -> str:
        metrics = {"val/f1": 0.5} | {f"val/f1[{number}]": 1.0 for number in range(classes)}
        return summary(Result(Path("run"), "done", 10, metrics))

    assert "val/f1[7] 1" in told(8)
    assert "val/f1 0.5" in told(9) and "[" not in told(9)
