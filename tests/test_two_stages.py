"""The example of two stages: the second begins where the first was best, and stands by itself."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

import calotype
from calotype.commands.verify import verify
from tests import runs

process_as_it_was = runs.process_as_it_was
EXAMPLE = Path(__file__).parent.parent / "examples" / "two_stages.py"


def test_the_second_stage_goes_on_from_the_best_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = tmp_path / "configs" / "experiment"
    configs.mkdir(parents=True)
    short = {"defaults": ["digits"], "trainer": {"max_epochs": 2, "limit_train_batches": 4}}
    (configs / "short.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(short)}")
    monkeypatch.chdir(tmp_path)
    example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    example["main"].__globals__["EXPERIMENT"] = "short"
    example["main"](tmp_path / "runs")
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["trained", "fine-tuned"]
    first, second = (Path(line.split()[-1]) for line in told)
    best = first / "checkpoints" / (first / "checkpoints" / "best").read_text().strip()
    module = yaml.safe_load((second / "config.yaml").read_text())["module"]
    assert module["init_from"] == str(best) and module["optimizer"]["_target_"] == "torch.optim.Adam"
    assert calotype.load(second).evaluate("val").count == 180
    assert verify(second, steps=3).holds
