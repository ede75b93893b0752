"""`calotype replay` computes a run's last step again and names where it broke; the run itself is only read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import calotype
from calotype import cli
from calotype.commands.replay import Replayed, replay
from calotype.data.order import Batching, TrainOrder
from calotype.errors import ConfigError, DataError, NonFiniteError, UsageError
from tests import harness
from tests.runs import config, edit_journal

STEP, SHARD = 8, 2


def ids(step: int = STEP, shard: int = SHARD) -> list[int]:
    """The ids of a shard; in the toy data they are positions."""
    return [int(place) for place in TrainOrder(41, Batching(8, 4), seed=3).batch(step)[shard].positions]


def broken(data: Path, folder: Path, how: str, step: int = STEP, **sections: Any) -> Path:
    """A run that broke at `step`."""
    module = {"_target_": "tests.toys.breaking.Breaking", "at": ids(step), "how": how}
    with pytest.raises((NonFiniteError, RuntimeError, ConfigError)):
        calotype.train(config(data, folder, module=module, **sections), quiet=True)
    return harness.only_run(folder / "runs")


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.guarantee(
    "A step that stopped being finite is computed again, with where it broke", condition="replay; CPU, one process"
)
@pytest.mark.parametrize("clip", [1.0, None])
def test_a_forward_that_is_not_finite(parity_root: Path, tmp_path: Path, clip: float | None) -> None:
    run = broken(parity_root, tmp_path, "forward", trainer={"gradient_clip_val": clip})
    before = contents(run)
    found = replay(run)
    assert contents(run) == before
    seen = found.examined
    assert (seen.step, seen.epoch, found.start, found.reproduced) == (STEP, 1, "step-00000005", True)
    assert seen.samples[SHARD] == ids() and [len(shard) for shard in seen.samples] == [2] * 4
    assert found.names[ids()[0]].endswith(f"{ids()[0]:03d}.png") and len(found.names) == 8
    assert str(seen.loss) == str(seen.norm) == str(seen.groups[0].norm) == "nan" and not seen.finite
    assert seen.module is not None and seen.gradient is not None
    assert (seen.module.name, seen.module.kind, seen.module.shard, seen.module.inputs_finite) == (
        "root",
        "Root",
        2,
        True,
    )
    assert seen.gradient.shard == SHARD and seen.gradient.name in {"network.4.weight", "network.4.bias"}
    assert seen.backward is not None and "returned nan values" in seen.backward
    assert sum(group.tensors for group in seen.groups) == 4 and seen.weights is None


def test_a_backward_that_is_not_finite(parity_root: Path, tmp_path: Path) -> None:
    found = replay(broken(parity_root, tmp_path, "backward"))
    seen = found.examined
    assert found.reproduced and seen.loss is not None and seen.loss == seen.loss and not seen.finite
    assert seen.module is None, "every output is finite"
    assert [math.isfinite(group.norm) for group in seen.groups] == [True, False], "no group takes on another's NaN"
    assert seen.gradient is not None and (seen.gradient.name, seen.gradient.shard) == ("network.0.weight", SHARD)
    assert seen.backward is not None and "MulBackward0" in seen.backward
    assert "(called in forward, breaking.py:" in seen.backward


def test_a_step_that_raises(parity_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = broken(parity_root, tmp_path, "raise")
    found = replay(run)
    assert found.reproduced and found.examined.step == STEP
    assert found.examined.error == "RuntimeError: this shard can't be computed"
    assert found.examined.samples[SHARD] == ids()
    assert cli.main(["replay", str(run)]) == 0
    text = capsys.readouterr().out
    assert "raised RuntimeError: this shard can't be computed" in text and text.endswith("  as in the run\n")


def test_a_first_step_that_raises(parity_root: Path, tmp_path: Path) -> None:
    found = replay(broken(parity_root, tmp_path, "raise", step=0))
    assert found.reproduced and (found.start, found.examined.step) == ("the start", 0)
    assert found.examined.error == "RuntimeError: this shard can't be computed"


def test_a_sample_that_can_t_be_read(parity_root: Path, tmp_path: Path) -> None:
    from tests.toys.parity import draw

    data = {"_target_": "tests.toys.faulty.Faulty", "broken": ids()[0]}
    module = {"_target_": "tests.toys.breaking.Breaking"}
    file = config(draw(tmp_path / "data"), tmp_path, module=module, data=data)
    with pytest.raises(DataError, match="image file is truncated"):
        calotype.train(file, quiet=True)
    found = replay(harness.only_run(tmp_path / "runs"))
    assert found.reproduced and "image file is truncated" in str(found.examined.error)


def test_a_step_of_a_run_that_did_not_fail(finished: Path) -> None:
    with pytest.raises(UsageError, match=r"did not fail .*name a step to compute again with --step K"):
        replay(finished)
    with pytest.raises(UsageError, match=r"--step 15: toy_classification/.* has steps 0\.\.14"):
        replay(finished, step=15)
    found = replay(finished, step=12)
    line = next(line for line in harness.lines(finished) if line["step"] == 12)
    assert found.reproduced and found.start == "step-00000010" and found.examined.finite
    assert found.examined.loss == float.fromhex(line["loss"]) and found.examined.norm == float.fromhex(line["norm"])
    assert (found.examined.module, found.examined.gradient, found.examined.backward) == (None, None, None)
    assert replay(finished, step=0).start == "the start"


def test_what_does_not_come_out_the_same_exits_5(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_journal(copy, 12, loss="0x1.8p+1")
    assert cli.main(["replay", str(copy), "--step", "12"]) == 5
    assert "  differs: step 12 has loss 0x" in capsys.readouterr().out
    edit_journal(copy, 11, input="0")
    assert [text.partition(",")[0][:17] for text in replay(copy, step=12).differs] == ["step 11 has input"]


def test_a_run_that_fails_no_more_and_one_that_fails_earlier(parity_root: Path, tmp_path: Path) -> None:
    run = broken(parity_root, tmp_path, "raise")
    found = replay(run, "module.at=[]")
    assert found.differs == ["the step is computed here; in the run it stopped"]
    assert "config" in found.changed
    found = replay(run, f"module.at={ids(6, 0)}", "module.how=forward", "trainer.log_every_n_steps=1")
    assert len(found.differs) == 1 and found.differs[0].startswith("stopped at step 7 already: NonFiniteError: step 6 ")


def test_another_error_is_not_the_run_s(parity_root: Path, tmp_path: Path) -> None:
    run = broken(parity_root, tmp_path, "raise")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"message": "OutOfMemoryError: 3 GiB"}))
    assert replay(run).differs == ["raised here; the run says: OutOfMemoryError: 3 GiB"]


def test_text_and_json(parity_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = broken(parity_root, tmp_path, "forward")
    assert cli.main(["replay", str(run), "data.workers=2"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == f"replay toy_classification/{run.name}: step 8 (epoch 1), from step-00000005"
    assert "  loss nan, gradient norm nan" in lines and lines[-1] == "  as in the run"
    assert "  first output not finite: root (Root), shard 2; its inputs are finite" in lines
    assert captured.err.splitlines()[-1].startswith("3/3 steps")
    assert cli.main(["replay", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["reproduced"] is True and report["examined"]["loss"] == "nan"
    assert report["examined"]["module"]["name"] == "root" and report["start"] == "step-00000005"
    assert isinstance(replay(run), Replayed)
