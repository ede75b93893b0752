"""`calotype evaluate` gives the number that training gave, to the last bit, and knows what it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import calotype
from calotype import cli
from calotype.errors import CheckpointError, DataError, UsageError
from tests import harness
from tests.runs import trained
from tests.toys.configs import toy, write


def verb(*arguments: str) -> int:
    return cli.main(["evaluate", *arguments])


def hexed(metrics: Any) -> dict[str, str]:
    return {name: value.hex() for name, value in metrics.items() if isinstance(value, float)}


def journalled(run: Path, split: str, step: int) -> dict[str, Any]:
    return next(line for line in harness.lines(run, "evaluation") if (line["split"], line["step"]) == (split, step))


def best(run: Path) -> int:
    return int((run / "checkpoints" / "best").read_text().strip().removeprefix("step-"))


@pytest.mark.guarantee("evaluate gives the number that training gave", condition="the same code and data")
def test_val_and_test_equal_the_numbers_of_training(finished: Path) -> None:
    found = calotype.load(finished)
    assert found.step == best(finished)
    for split, step in (("val", best(finished)), ("test", 15)):
        measured, line = found.evaluate(split), journalled(finished, split, step)
        assert hexed(measured.metrics) == line["metrics"]
        assert (measured.count, measured.ids) == (line["count"], line["ids"])
    last = calotype.load(finished, checkpoint="last").evaluate("val")
    assert hexed(last.metrics) == journalled(finished, "val", 15)["metrics"]


@pytest.mark.parametrize("overrides", [["data.workers=2"], ["data.eval_batch_size=3"]])
def test_however_it_is_read(finished: Path, overrides: list[str]) -> None:
    measured = calotype.load(finished, *overrides).evaluate("val")
    line = journalled(finished, "val", best(finished))
    assert measured.ids == line["ids"] and measured.metrics["accuracy"].hex() == line["metrics"]["accuracy"]


@pytest.mark.parametrize(
    "trainer",
    [{"precision": "bf16-mixed"}, {"channels_last": True}, {"ema": None, "test": "last"}, {"threads": 2}],
)
def test_in_any_arithmetic(parity_root: Path, tmp_path: Path, trainer: dict[str, Any]) -> None:
    run = trained(parity_root, tmp_path, trainer=trainer | {"max_epochs": 1})
    found = calotype.load(run)
    for split in ("val", "test"):
        assert hexed(found.evaluate(split).metrics) == journalled(run, split, 5)["metrics"]


def test_the_train_split_is_every_sample_once_untransformed(finished: Path) -> None:
    one, two = (calotype.load(finished).evaluate("train") for _ in range(2))
    assert one.count == 41 and one == two and "train/accuracy" in one.scalars()


def test_checkpoints_by_name_and_by_folder(finished: Path) -> None:
    folder = finished / "checkpoints" / "step-00000010"
    by_name, by_folder = calotype.load(finished, checkpoint="step-00000010"), calotype.load(folder)
    assert by_name.step == by_folder.step == 10
    assert by_name.folder == by_folder.folder == finished
    state = by_folder.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in by_name.network.state_dict().items())
    with pytest.raises(CheckpointError, match="step-00000099"):
        calotype.load(finished, checkpoint="step-00000099")


def test_a_damaged_checkpoint_is_named(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = harness.last(copy) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert verb(str(copy), "--checkpoint", "last") == 4
    assert f"calotype: {file} is damaged" in capfd.readouterr().err


def test_a_run_without_a_best_gives_its_last(parity_root: Path, tmp_path: Path) -> None:
    run = trained(parity_root, tmp_path, checkpoint={"keep_best": 0}, trainer={"max_epochs": 1, "test": "last"})
    assert calotype.load(run).checkpoint == "step-00000005"


def test_a_config_of_another_network_does_not_fit(finished: Path) -> None:
    with pytest.raises(CheckpointError, match=r"doesn't fit this config: .*0\.0\.weight"):
        calotype.load(finished, "+module.width=9")


def test_a_split_that_is_not_there(finished: Path) -> None:
    with pytest.raises(DataError, match="no extra split; it has train, val, test"):
        calotype.load(finished).evaluate("extra")
    with pytest.raises(UsageError, match="no run nonesuch"):
        calotype.load("nonesuch")


def test_the_verb_and_its_json(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert verb(str(finished), "--split", "val", "--json") == 0
    report = json.loads(capfd.readouterr().out)
    line = journalled(finished, "val", best(finished))
    assert hexed(report["metrics"]) == line["metrics"] and report["count"] == 13 and report["step"] == best(finished)
    assert verb("last", "--runs", str(finished.parent.parent)) == 0
    assert "9 samples of test" in capfd.readouterr().out
    assert verb(str(finished), "--split", "extra") == 2


@pytest.mark.guarantee("A target that is missed exits with 5", condition="--target")
@pytest.mark.parametrize(
    ("target", "metric", "code"),
    [("0.0", None, 0), ("1.01", None, 5), ("0.0", "val/accuracy", 0), ("99", "loss", 0), ("0.01", "loss", 5)],
)
def test_a_target_that_is_missed_exits_5(
    finished: Path, target: str, metric: str | None, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert verb(str(finished), "--target", target, *(["--metric", metric] if metric else [])) == code
    assert ("the target is" in capfd.readouterr().err) is (code == 5)


def test_a_metric_that_is_not_measured(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert verb(str(finished), "--target", "1", "--metric", "mIoU") == 2
    assert "--metric mIoU: there are test/loss, test/accuracy" in capfd.readouterr().err


def test_a_number_that_is_none_meets_no_target() -> None:
    from calotype.commands.evaluate import check_target

    with pytest.raises(calotype.errors.DiffersError):
        check_target({"val/accuracy": float("nan")}, 0.0, "accuracy", "val")


def test_a_limited_run_is_evaluated_on_what_training_measured(parity_root: Path, tmp_path: Path) -> None:
    tree = toy("classification", parity_root, tmp_path / "runs", trainer={"max_epochs": 1, "limit_val_batches": 2})
    result = calotype.train(write(tree, tmp_path / "config.yaml"), quiet=True)
    measured = calotype.load(result.folder, checkpoint="last").evaluate("val")
    assert measured.count == 8
    assert measured.scalars()["val/loss"] == result.metrics["val/loss"]
