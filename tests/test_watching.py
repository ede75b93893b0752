"""Runs that are watched: before the first step, on a part of train, under a profiler, with pictures.

Facts 35, 38 and 39 of what the reference systems promise.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import harness
from tests.toys.configs import toy, write

TENSORBOARD = {"tensorboard": {"_target_": "calotype.tracking.tensorboard.TensorBoard"}}
TASK = {
    "_target_": "calotype.tasks.classification.Classification",
    "network": {
        "_target_": "calotype.models.classification.SmallCNN",
        "num_classes": 3,
        "in_channels": 3,
        "widths": [4],
    },
}
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0, "factor": 0.5}


def configured(folder: Path, root: Path, **sections: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return write(toy("classification", root, folder / "runs", **sections), folder / "config.yaml")


def run(folder: Path, root: Path, **sections: Any) -> Path:
    outcome = harness.call(harness.train_aloud, configured(folder, root, **sections))
    assert outcome.code == 0, outcome.error
    return harness.only_run(folder / "runs")


def evaluations(found: Path, split: str) -> list[int]:
    return [line["step"] for line in harness.lines(found, "evaluation") if line["split"] == split]


@pytest.fixture(scope="module")
def straight(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("straight"), parity_root)


@pytest.fixture(scope="module")
def classified(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("classified"), parity_root, module=TASK)


@pytest.mark.guarantee(
    "Looking before the first step, at a part of train, or with a profiler changes no step", condition="CPU"
)
@pytest.mark.parametrize(
    "trainer",
    [{"val_before_training": True}, {"train_eval": 10}, {"profiler": "simple"}, {"profiler": "pytorch"}],
    ids=str,
)
def test_watching_changes_no_step(trainer: dict[str, Any], straight: Path, parity_root: Path, tmp_path: Path) -> None:
    found = run(tmp_path, parity_root, trainer=trainer)
    assert harness.lines(found) == harness.lines(straight)
    tensors = [(harness.last(one) / "training.safetensors").read_bytes() for one in (found, straight)]
    assert tensors[0] == tensors[1]
    if "profiler" in trainer:
        assert harness.final_hash(found) == harness.final_hash(straight)


@pytest.mark.guarantee(
    "Pictures, the graph and hyper-parameters in TensorBoard change no bit", condition="CPU; classification"
)
def test_pictures_change_no_bit(classified: Path, parity_root: Path, tmp_path: Path) -> None:
    found = run(tmp_path, parity_root, module=TASK, tracking=TENSORBOARD)
    assert harness.final_hash(found) == harness.final_hash(classified)
    events = EventAccumulator(str(found / "tensorboard")).Reload()
    tags = events.Tags()
    assert {f"val/{name}" for name in ("predictions", "worst", "confusion")} <= set(tags["images"])
    assert {"lr/0", "lr/1", "momentum/0", "momentum/1", "val/accuracy", "time/memory_gib"} <= set(tags["scalars"])
    assert tags["graph"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert not (found / "train.log").exists(), "nothing failed and was warned of"


def test_validation_comes_at_its_interval_and_once_at_the_end(parity_root: Path, tmp_path: Path) -> None:
    """Fact 35, for an end that is no multiple of the interval and for one that is."""
    found = run(tmp_path / "two", parity_root, trainer={"val_check_interval": "2ep"})
    assert evaluations(found, "val") == [10, 15]
    every = run(tmp_path / "one", parity_root, trainer={"val_before_training": True})
    assert evaluations(every, "val") == [0, 5, 10, 15]


def test_scalars_come_at_their_interval(parity_root: Path, tmp_path: Path) -> None:
    """Fact 35: learning rate and loss every so many steps, also across epochs; at their ends and the run's besides."""
    sections = {"trainer": {"log_every_n_steps": 4}, "checkpoint": {"every": "1ep"}, "tracking": TENSORBOARD}
    events = EventAccumulator(str(run(tmp_path, parity_root, **sections) / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "train/norm", "lr/0", "lr/1"):
        assert [scalar.step for scalar in events.Scalars(name)] == [4, 5, 8, 10, 12, 15], name
    assert [scalar.step for scalar in events.Scalars("val/loss")] == [5, 10, 15]


@pytest.mark.parametrize(
    "plans",
    [("in_val@2:SIGTERM",), ("in_val@2",), ("after_step@1",), ("in_val@2:SIGTERM", "after_step@1")],
    ids="+".join,
)
def test_what_was_looked_at_first_is_journalled_once(plans: Any, parity_root: Path, tmp_path: Path) -> None:
    """Stopped in the middle of it, killed in it, killed before the first checkpoint."""
    sections = {"trainer": {"val_before_training": True, "train_eval": 10}}
    whole = run(tmp_path / "whole", parity_root, **sections)
    config = configured(tmp_path / "stopped", parity_root, **sections)
    stopped = harness.interrupted(config, tmp_path / "stopped" / "runs", plans)
    assert evaluations(stopped, "val") == evaluations(stopped, "train_eval") == [0, 5, 10, 15]
    assert harness.final_hash(stopped) == harness.final_hash(whole)


@pytest.mark.parametrize("passes", range(1, 9))
def test_a_stop_between_two_evaluations_tells_neither_twice(passes: int, parity_root: Path, tmp_path: Path) -> None:
    """Four batches of val and three of train: a signal in any of them."""
    sections = {"trainer": {"train_eval": 10, "max_epochs": 1}}
    config = configured(tmp_path, parity_root, **sections)
    stopped = harness.interrupted(config, tmp_path / "runs", (f"in_val@{passes}:SIGTERM",))
    assert evaluations(stopped, "val") == evaluations(stopped, "train_eval") == [5]


def test_nothing_goes_by_what_was_seen_before_training(parity_root: Path, tmp_path: Path) -> None:
    """With patience 0 a plateau halves the rate at the second score that isn't better."""
    module = {"lr_scheduler": PLATEAU, "lr_interval": "epoch", "lr_warmup": None, "monitor": "val/loss"}
    early = {"early_stopping": {"patience": 0, "min_delta": 100.0}, "max_epochs": 4}
    runs = [
        run(tmp_path / str(first), parity_root, module=module, trainer={**early, "val_before_training": first})
        for first in (False, True)
    ]
    assert harness.lines(runs[0]) == harness.lines(runs[1])
    assert len(harness.lines(runs[0])) == 10, "the second validation is the first that isn't better"
    kept = [sorted(folder.name for folder in (found / "checkpoints").iterdir()) for found in runs]
    assert kept[0] == kept[1]


def test_a_part_of_train_is_the_same_samples_each_time(parity_root: Path, tmp_path: Path) -> None:
    found = run(tmp_path, parity_root, trainer={"train_eval": 10, "val_check_interval": "1ep"})
    lines = [line for line in harness.lines(found, "evaluation") if line["split"] == "train_eval"]
    assert len(lines) == 3 and {line["count"] for line in lines} == {10} and len({line["ids"] for line in lines}) == 1
    assert {"train_eval/loss", "train_eval/accuracy", "val/loss"} <= set(harness.status(found)["results"])


def test_profilers_leave_their_files_and_a_table(parity_root: Path, tmp_path: Path) -> None:
    simple = run(tmp_path / "simple", parity_root, trainer={"profiler": "simple"})
    spent = json.loads((simple / "profile.json").read_text())["spent"]
    assert {"waiting for data", "forward and backward", "optimizer step", "validation", "checkpoint", "test"} <= set(
        spent
    )
    assert spent["forward and backward"]["calls"] == 15 and spent["validation"]["calls"] == 3
    assert "spent on" in (simple / "train.log").read_text()
    trace = run(tmp_path / "pytorch", parity_root, trainer={"profiler": "pytorch"})
    assert json.loads((trace / "trace.json").read_text())["traceEvents"]
    assert "trace of steps 10..14" in (trace / "train.log").read_text()


def clock(found: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (found / "clock.jsonl").read_text().splitlines()]


def test_images_a_second_are_of_training_alone(parity_root: Path, tmp_path: Path) -> None:
    """Fact 39: an evaluation that takes seconds changes no throughput, which is printed with each epoch. Of several
    processes there are none yet.
    """
    slow, console = {"_target_": "tests.test_watching.Slow"}, {"_target_": "calotype.tracking.console.Console"}
    sections = {"data": {"eval_transforms": [slow]}, "tracking": {"console": console | {"interval": 1e9}}}
    outcome = harness.call(said, configured(tmp_path, parity_root, **sections), str(tmp_path / "said"))
    assert outcome.code == 0, outcome.error
    found = harness.only_run(tmp_path / "runs")
    printed = [line for line in (tmp_path / "said").read_text().splitlines() if "time/images_per_s" in line]
    assert [line.split()[:2] for line in printed[-3:]] == [["epoch", f"{number}/3"] for number in (1, 2, 3)]
    lines = [line for line in clock(found) if "seconds" in line]
    rates = [f"time/images_per_s {line['time/images_per_s']:.4g}" for line in lines if line["step"] % 5 == 0]
    assert all(rate in line for rate, line in zip(rates, printed[-3:], strict=True))
    assert [line["step"] for line in lines if line["step"] % 5 == 0] == [5, 10, 15]
    assert all(line["seconds"] < 2 and line["time/images_per_s"] > 16 / 2 for line in lines)
    assert all(0 <= line["time/data_wait"] <= 1 and 0.01 < line["time/memory_gib"] < 100 for line in lines)
    seconds = [line["time"] for line in lines]
    assert seconds[-1] - seconds[0] > 3, "two validations of 13 samples lie between"


def said(config: str, path: str) -> None:
    """Train with the config's trackers, stderr into a file. For `call`."""
    with Path(path).open("w") as stream, contextlib.redirect_stderr(stream):
        harness.train_aloud(config)


class Slow:
    """A transform of evaluation that takes an eighth of a second."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        import time

        time.sleep(0.125)
        return sample


PLAIN = {"module": {"_target_": "tests.toys.plain.Plain"}, "data": {"batch_transforms": []}}
"""Without batch norm, dropout and mixing a loss is the same by any number of shards."""


@pytest.fixture(scope="module")
def whole(parity_root: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The loss of the first step, computed in one piece and 32 bits."""
    sections = PLAIN | {"trainer": {"shards": 1, "max_steps": 1}}
    return float.fromhex(harness.lines(run(tmp_path_factory.mktemp("whole"), parity_root, **sections))[0]["loss"])


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("precision", [32, "bf16-mixed", "16-mixed"])
def test_mixed_precision_runs_and_the_loss_is_that_of_the_batch(
    precision: Any, shards: int, whole: float, parity_root: Path, tmp_path: Path
) -> None:
    """Fact 38: on a CPU too, and the loss that is logged is not divided by the shards that it is added from."""
    trainer = {"precision": precision, "shards": shards, "log_every_n_steps": 1}
    found = run(tmp_path, parity_root, **PLAIN | {"trainer": trainer, "tracking": TENSORBOARD})
    lines = harness.lines(found)
    assert len(lines) == 15 and harness.status(found)["state"] == "done"
    journalled = float.fromhex(lines[0]["loss"])
    logged = EventAccumulator(str(found / "tensorboard")).Reload().Scalars("train/loss")[0]
    assert logged.step == 1 and logged.value == pytest.approx(journalled, rel=1e-6)
    assert journalled == pytest.approx(whole, rel=0.02 if precision != 32 else 1e-6)
