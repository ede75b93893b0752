"""The example from data to a submission gives what its steps give one by one."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from tests import runs
from tests.classifiers import FEW

process_as_it_was = runs.process_as_it_was
EXAMPLE = Path(__file__).parent.parent / "examples" / "flow.py"


def test_the_flow_ends_with_a_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    flow["EXPERIMENT"][:] = [*FEW, "checkpoint.keep_best=3"]
    flow["main"](tmp_path)
    told = capsys.readouterr().out.splitlines()
    board = calotype.runs(tmp_path / "runs", sort="val/accuracy")
    assert [line.split()[0] for line in told[1:3]] == [row.run for row in board] and len(board) == 2
    rows = list(csv.reader((tmp_path / "submission.csv").read_text().splitlines()))
    assert rows[0] == ["id", "label"] and len(rows) == 360

    blend, single = torch.zeros(359, 10), []
    for line in told[4:6]:
        name, taken = line.split(":")[0], line.split("; ")[1].split()[0]
        loaded = calotype.load(name, checkpoint=taken, runs=tmp_path / "runs")
        both = {kind: calotype.load(name, checkpoint=kind, runs=tmp_path / "runs") for kind in ("best", "average")}
        losses = {kind: found.evaluate("val").scalars()["val/loss"] for kind, found in both.items()}
        assert taken == min(losses, key=lambda kind: losses[kind])
        blend += torch.cat([found["logits"].softmax(1) for found in loaded.predict("test")]) / 2
        single.append(loaded.evaluate("test").metrics["accuracy"])
    assert [int(label) for _, label in rows[1:]] == blend.argmax(1).tolist()
    assert told[-2].startswith("test: seeds ") and all(f"{score:.4f}" in told[-2] for score in single)
    assert told[-1].endswith("submission.csv: 359 rows")
